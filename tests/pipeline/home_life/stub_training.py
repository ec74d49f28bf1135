"""A pipeline that trains nothing: TFX, ML Metadata, ingestion, pusher and report are the real ones.

Its models are texts. One is as accurate as a digest of its text says, so that gates refuse some and pass others.
"""

import dataclasses
import hashlib
import json
from pathlib import Path

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.orchestration.pipeline import Pipeline
from tfx.types.channel_utils import union
from tfx.types.standard_artifacts import Examples, InfraBlessing, Model, ModelBlessing
from tfx.utils import path_utils

from components.atomic_pusher.component import AtomicPusher
from pipeline.run import graph
from pipeline.run.plan import RunPlan

TEXT = "saved_model.pb"
TEST_IMAGES = 100
FAILING_SEED = 0


def correct(text: str) -> int:
    """Returns how many of `TEST_IMAGES` a model answers correctly: from 40 to 99."""
    return 40 + hashlib.sha256(text.encode()).digest()[0] % 60


@component
def Trainer(examples: InputArtifact[list[Examples]], model: OutputArtifact[Model], text: Parameter[str]) -> None:
    if json.loads(text)["seed"] == FAILING_SEED:
        raise ValueError("this seed fails")
    folder = Path(path_utils.serving_model_dir(model.uri))
    folder.mkdir(parents=True)
    (folder / TEXT).write_text(text)


@component
def Evaluator(model: InputArtifact[Model], blessing: OutputArtifact[ModelBlessing], least: Parameter[int]) -> None:
    text = (Path(path_utils.serving_model_path(model.uri)) / TEXT).read_text()
    blessing.set_int_custom_property("blessed", int(correct(text) >= least))


@component
def ServabilityCheck(model: InputArtifact[Model], blessing: OutputArtifact[InfraBlessing]) -> None:
    folder = Path(blessing.uri)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "outcome.json").write_text(json.dumps({"ok": True, "reason": "", "differences": {"scores": 0.0}}))
    blessing.set_int_custom_property("blessed", 1)


def text_of(plan: RunPlan) -> str:
    """Returns the model that a run makes."""
    initial = plan.baseline.digest if plan.baseline and plan.warm_start else ""
    seed = plan.experiment.training.seed
    return json.dumps({"seed": seed, "data": plan.provenance.data_digest, "initial": initial})


def least_correct(plan: RunPlan) -> int:
    """Returns how many correct answers the model of a run needs."""
    stable = (plan.baseline.path / TEXT).read_text() if plan.baseline else None
    return plan.experiment.gate.least_correct(TEST_IMAGES, None if stable is None else correct(stable))


def create_pipeline(plan: RunPlan, measured: None) -> Pipeline:
    """Stands in for `pipeline.run.graph.create_pipeline`."""
    experiment = plan.experiment
    example_gens = [graph._example_gen(plan, source) for source in (*plan.inputs, *plan.compared)]
    trained_on = [gen.outputs["examples"] for gen in example_gens[: len(plan.inputs)]]
    trainer = Trainer(examples=union(trained_on), text=text_of(plan)).with_id("Trainer")
    evaluator = Evaluator(model=trainer.outputs["model"], least=least_correct(plan))
    servability_check = ServabilityCheck(model=trainer.outputs["model"])
    record = dataclasses.asdict(plan.provenance.version_record(plan.run_id))
    pusher = AtomicPusher(
        model=trainer.outputs["model"],
        model_blessing=evaluator.outputs["blessing"],
        infra_blessing=servability_check.outputs["blessing"],
        destination=str(plan.home.models.model(experiment.serving.model_name).folder),
        record=json.dumps(record),
        canary=int(experiment.serving.canary),
    )
    return Pipeline(
        pipeline_name=experiment.name,
        pipeline_root=str(plan.home.artifacts / experiment.name),
        metadata_connection_config=plan.home.connection(),
        components=[*example_gens, *graph._baseline_import(plan), trainer, evaluator, servability_check, pusher],
        enable_cache=True,
    )
