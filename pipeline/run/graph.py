"""The pipeline: what runs, in which order."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow_data_validation as tfdv
from tensorflow_model_analysis.proto import config_pb2
from tfx import version as tfx_version
from tfx.components.evaluator.component import Evaluator
from tfx.components.example_validator.component import ExampleValidator
from tfx.components.statistics_gen.component import StatisticsGen
from tfx.dsl.components.common.importer import Importer
from tfx.orchestration.pipeline import Pipeline
from tfx.types.channel import BaseChannel
from tfx.types.channel_utils import union
from tfx.types.standard_artifacts import Model

from components.anomaly_gate.component import AnomalyGate
from components.atomic_pusher.component import AtomicPusher
from components.drift_gate.component import DriftGate
from components.image_example_gen.component import ImageExampleGen
from components.image_example_gen.spans import BASE
from components.network_trainer.component import network_trainer
from components.schema_gen.component import DatasetSchemaGen
from components.servability_check.component import ServabilityCheck
from pipeline.experiments.config import Drift, Experiment, Gate
from pipeline.home.folders import Home
from pipeline.home.provenance import Input, checkpoint_folder, code_digest, data_digest, trainer_code
from pipeline.run.baseline import Baseline
from pipeline.run.baseline import job as training_job

SCALARS = ["label", "image_mean", "image_stddev", "image_size"]

# Beam's own DirectRunner would first look for a runner to download; this one needs nothing but this process, and was
# faster than several threads or processes at every size tried. It has no use for a container image: naming one keeps
# TFX from packing itself into an archive for every component, which took longer than to ingest MNIST.
BEAM_ARGS = [
    "--sdk_container_image=unused",
    "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner",
    "--direct_running_mode=in_memory",
    "--direct_num_workers=1",
]


def create_pipeline(
    experiment: Experiment, home: Home, taken: Sequence[Input], baseline: Baseline | None, run_id: str
) -> Pipeline:
    """Returns the pipeline of an experiment.

    Args:
      experiment: the data set, the network, the gates.
      home: where artifacts, checkpoints and pushed models go.
      taken: the parts of the data, the base files first; each is ingested, and cached, by itself.
      baseline: the version that serves, if there is one.
      run_id: name of the run that this pipeline is for.
    """
    serving = experiment.serving
    job, warm_start = training_job(experiment, baseline)

    example_gens = [
        ImageExampleGen(one.part, one.files, one.digest, code_digest("components.image_example_gen")) for one in taken
    ]
    examples = [example_gen.outputs["examples"] for example_gen in example_gens]
    base_examples = examples[0]
    schema_gen = DatasetSchemaGen(
        dataset=json.dumps(dataclasses.asdict(taken[0].part.dataset)), code=code_digest("components.schema_gen")
    )
    statistics_gen = StatisticsGen(
        examples=base_examples,
        schema=schema_gen.outputs["schema"],
        stats_options=tfdv.StatsOptions(feature_allowlist=SCALARS),
    )
    example_validator = ExampleValidator(
        statistics=statistics_gen.outputs["statistics"], schema=schema_gen.outputs["schema"]
    )
    anomaly_gate = AnomalyGate(
        anomalies=example_validator.outputs["anomalies"], code=code_digest("components.anomaly_gate")
    )
    drift_gates = _drift_gate(experiment.drift, taken, examples, baseline, schema_gen.outputs["schema"])
    imports = _baseline(baseline, home.artifacts / experiment.name / "Baseline")
    served = imports[0].outputs["result"] if imports else None
    trainer = network_trainer(
        examples=union(examples),
        parts=[one.part for one in taken],
        base_model=served if warm_start else None,
        job=job,
        checkpoints=checkpoint_folder(home, experiment, job, data_digest(taken), warm_start),
        warmup_batches=serving.warmup_batches,
        fingerprint=trainer_code(),
    )
    for gate in (anomaly_gate, *drift_gates):
        trainer.add_upstream_node(gate)
    evaluator = Evaluator(
        examples=base_examples,
        model=trainer.outputs["model"],
        baseline_model=served,
        eval_config=eval_config(experiment.gate),
        example_splits=["test"],
    )
    servability_check = ServabilityCheck(
        model=trainer.outputs["model"],
        model_run=trainer.outputs["model_run"],
        examples=base_examples,
        count=serving.check_examples,
        code=code_digest("components.servability_check", "serving"),
    )
    # The run's name among the parameters keeps it out of the cache: what is served may have been changed by hand.
    record = {
        "run": run_id,
        "experiment": experiment.to_dict(),
        "data_digest": data_digest(taken),
        "parts": {one.part.name: one.digest for one in taken if one.part.trained_on},
        "warm_start": baseline.version if baseline and warm_start else None,
        "code": trainer_code(),
    }
    pusher = AtomicPusher(
        model=trainer.outputs["model"],
        model_blessing=evaluator.outputs["blessing"],
        infra_blessing=servability_check.outputs["blessing"],
        destination=str(home.serving / serving.model_name),
        record=json.dumps(record, ensure_ascii=False),
        canary=int(serving.canary),
        code=code_digest("components.atomic_pusher"),
    )
    return Pipeline(
        pipeline_name=experiment.name,
        pipeline_root=str(home.artifacts / experiment.name),
        metadata_connection_config=home.connection(),
        components=[
            *example_gens,
            schema_gen,
            statistics_gen,
            example_validator,
            anomaly_gate,
            *drift_gates,
            *imports,
            trainer,
            evaluator,
            servability_check,
            pusher,
        ],
        enable_cache=True,
        beam_pipeline_args=BEAM_ARGS,
    )


def _drift_gate(
    limits: Drift,
    taken: Sequence[Input],
    examples: Sequence[BaseChannel],
    baseline: Baseline | None,
    schema: BaseChannel,
) -> list[Any]:
    """Returns the component that compares what the serving model has not seen with what it was trained on, if any."""
    known = [one.part.name == BASE if baseline is None else baseline.knows(one) for one in taken]
    trained_on = [channel for channel, old in zip(examples, known, strict=True) if old]
    arrived = [channel for channel, old in zip(examples, known, strict=True) if not old]
    if not trained_on or not arrived:
        return []
    return [
        DriftGate(
            trained_on=union(trained_on),
            arrived=union(arrived),
            schema=schema,
            label=limits.label,
            scalars=limits.scalars,
            stops=int(limits.stops),
            code=code_digest("components.drift_gate"),
        )
    ]


def _baseline(baseline: Baseline | None, folder: Path) -> list[Any]:
    """Returns the node that takes the version that serves into ML Metadata, if there is one."""
    if baseline is None:
        return []
    # Without its own version, TFX takes the model's layout for an ancient one.
    version = {"tfx_version": tfx_version.__version__, "served_version": baseline.version}
    wrapper = str(baseline.as_artifact(folder))
    return [Importer(source_uri=wrapper, artifact_type=Model, custom_properties=version).with_id("Baseline")]


def eval_config(gate: Gate) -> config_pb2.EvalConfig:
    """Returns what is measured on the test split, and what it must reach.

    The floor and the tolerance hold for the split as a whole: a plain `threshold` would hold for every class too.
    """
    overall = config_pb2.PerSliceMetricThreshold(
        slicing_specs=[config_pb2.SlicingSpec()],
        threshold=config_pb2.MetricThreshold(
            value_threshold=config_pb2.GenericValueThreshold(lower_bound={"value": gate.min_accuracy}),
            change_threshold=config_pb2.GenericChangeThreshold(
                absolute={"value": -gate.tolerance}, direction=config_pb2.MetricDirection.HIGHER_IS_BETTER
            ),
        ),
    )
    by_class = config_pb2.PerSliceMetricThreshold(
        slicing_specs=[config_pb2.SlicingSpec(feature_keys=["label"])],
        threshold=config_pb2.MetricThreshold(
            value_threshold=config_pb2.GenericValueThreshold(lower_bound={"value": gate.min_class_accuracy})
        ),
    )
    accuracy = config_pb2.MetricConfig(
        class_name="SparseCategoricalAccuracy",
        per_slice_thresholds=[overall, *([by_class] if gate.min_class_accuracy else [])],
    )
    return config_pb2.EvalConfig(
        model_specs=[
            config_pb2.ModelSpec(signature_name="serving_default", label_key="label", prediction_key="scores")
        ],
        slicing_specs=[config_pb2.SlicingSpec(), config_pb2.SlicingSpec(feature_keys=["label"])],
        metrics_specs=[config_pb2.MetricsSpec(metrics=[accuracy, config_pb2.MetricConfig(class_name="ExampleCount")])],
    )
