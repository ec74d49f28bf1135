"""The pipeline: what runs, in which order."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tensorflow_model_analysis.proto import config_pb2
from tfx import version as tfx_version
from tfx.components.evaluator.component import Evaluator
from tfx.components.example_validator.component import ExampleValidator
from tfx.components.trainer.component import Trainer
from tfx.dsl.components.common.importer import Importer
from tfx.orchestration.pipeline import Pipeline
from tfx.types.channel import BaseChannel
from tfx.types.channel_utils import union
from tfx.types.standard_artifacts import Model

from components.anomaly_gate.component import AnomalyGate
from components.atomic_pusher.component import AtomicPusher
from components.drift_gate.component import DriftGate
from components.format_export.component import FormatExport
from components.image_example_gen.component import ImageExampleGen
from components.image_example_gen.executor import BaseFiles
from components.network_trainer.component import network_trainer
from components.network_tuner.component import network_tuner
from components.scalar_statistics_gen.component import ScalarStatisticsGen
from components.schema_gen.component import DatasetSchemaGen
from components.servability_check.component import ServabilityCheck
from conveyor.settings import to_json
from pipeline.data.inputs import Input
from pipeline.experiments.config import ROUNDING, Gate
from pipeline.report.gate_decisions import Measured
from pipeline.run.plan import RunPlan
from trainer.settings import TrainingJob


def create_pipeline(plan: RunPlan, measured: Measured | None) -> Pipeline:
    """Returns the TFX pipeline of a planned run; each part of the data is ingested, and cached, by itself.

    Args:
      plan: the run.
      measured: what was measured of the stable version, and still holds; None where the Evaluator is to measure it.
    """
    experiment = plan.experiment
    example_gens = [_example_gen(plan, source) for source in (*plan.inputs, *plan.compared)]
    ingested = [example_gen.outputs["examples"] for example_gen in example_gens]
    examples = ingested[: len(plan.inputs)]
    schema_gen = DatasetSchemaGen(dataset=to_json(experiment.dataset))
    schema = schema_gen.outputs["schema"]
    gates = [*_anomaly_gate(examples[0], schema), *_drift_gate(plan, ingested, schema)]
    imports = _baseline_import(plan)
    trainer = network_trainer(
        examples=_all_of(examples),
        parts=[source.part for source in plan.inputs],
        base_model=imports[0].outputs["result"] if plan.warm_start else None,
        job=plan.job,
        checkpoints=plan.checkpoints,
        warmup_batches=experiment.serving.warmup_batches,
        digest=plan.provenance.trainer_digest,
    )
    for gate in gates:
        trainer.add_upstream_node(gate)
    judged = _judged_and_pushed(plan, trainer, examples[0], imports, measured)
    return _pipeline(plan, [*example_gens, schema_gen, *gates, *imports, trainer, *judged])


def create_tuning_pipeline(plan: RunPlan, job: TrainingJob, folder: Path, trials: int) -> Pipeline:
    """Returns the TFX pipeline of a search: the ingestion, cached as that of a run, and the tuner.

    Args:
      plan: the run that the winner may have.
      job: what is trained, but for what is searched for.
      folder: of the search.
      trials: how many there are in all.
    """
    experiment = plan.experiment
    example_gens = [_example_gen(plan, source) for source in plan.inputs]
    tuner = network_tuner(
        examples=union([example_gen.outputs["examples"] for example_gen in example_gens]),
        parts=[source.part for source in plan.inputs],
        job=job,
        ranges={name: json.loads(to_json(values)) for name, values in experiment.tuning.ranges.items()},
        seed=experiment.tuning.seed,
        trials=trials,
        folder=folder,
        run=plan.run_id,
    )
    return _pipeline(plan, [*example_gens, tuner])


def _pipeline(plan: RunPlan, components: list[Any]) -> Pipeline:
    experiment, home = plan.experiment, plan.home
    return Pipeline(
        pipeline_name=experiment.name,
        pipeline_root=str(home.artifacts / experiment.name),
        metadata_connection_config=home.connection(),
        components=components,
        enable_cache=True,
    )


def _all_of(channels: Sequence[BaseChannel]) -> BaseChannel:
    """Returns one channel of several; of one, itself: not every compiler of TFX's knows unions."""
    return channels[0] if len(channels) == 1 else union(channels)


def _example_gen(plan: RunPlan, source: Input) -> ImageExampleGen:
    base = plan.inputs[0]
    of_span = BaseFiles(str(base.part.folder), base.part.dataset, base.digest) if source is not base else None
    return ImageExampleGen(source.part, source.files, source.digest, of_span)


def _anomaly_gate(examples: BaseChannel, schema: BaseChannel) -> list[Any]:
    """Returns the components that measure the base files, and stop the run where they are not as the schema says."""
    statistics_gen = ScalarStatisticsGen(examples=examples, schema=schema)
    validator = ExampleValidator(statistics=statistics_gen.outputs["statistics"], schema=schema)
    return [statistics_gen, validator, AnomalyGate(anomalies=validator.outputs["anomalies"])]


def _drift_gate(plan: RunPlan, examples: Sequence[BaseChannel], schema: BaseChannel) -> list[Any]:
    """Returns the component that compares new spans with what the baseline was trained on, where there are both."""
    limits = plan.experiment.drift
    by_name = {s.part.name: channel for s, channel in zip((*plan.inputs, *plan.compared), examples, strict=True)}
    trained_on, arrived = ([by_name[source.part.name] for source in side] for side in plan.drift_sides)
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
        )
    ]


def _baseline_import(plan: RunPlan) -> list[Any]:
    """Returns the node that takes the stable version into ML Metadata, if there is one."""
    if plan.baseline is None:
        return []
    # Without its own version, TFX takes the model's layout for an ancient one.
    properties = {"tfx_version": tfx_version.__version__, "served_version": plan.baseline.version}
    wrapper = plan.baseline.as_artifact(plan.home.artifacts / plan.experiment.name / "Baseline")
    return [Importer(source_uri=str(wrapper), artifact_type=Model, custom_properties=properties).with_id("Baseline")]


def _judged_and_pushed(
    plan: RunPlan, trainer: Trainer, examples: BaseChannel, imports: Sequence[Any], measured: Measured | None
) -> list[Any]:
    """Returns what judges the model, and the pusher that needs the blessings of all."""
    serving = plan.experiment.serving
    evaluator = Evaluator(
        examples=examples,
        model=trainer.outputs["model"],
        baseline_model=imports[0].outputs["result"] if imports and not measured else None,
        eval_config=eval_config(plan.experiment.gate, measured),
        example_splits=["test"],
    )
    servability_check = ServabilityCheck(
        model=trainer.outputs["model"],
        model_run=trainer.outputs["model_run"],
        examples=examples,
        count=serving.check_examples,
    )
    # The run's name among the parameters keeps the pusher out of the cache: a version may have been deleted by hand.
    record = dataclasses.asdict(plan.provenance.version_record(plan.run_id))
    export = _format_export(plan, trainer, examples)
    further: dict[str, Any] = (
        {"formats": export.outputs["exported"], "formats_blessing": export.outputs["blessing"]} if export else {}
    )
    pusher = AtomicPusher(
        model=trainer.outputs["model"],
        model_blessing=evaluator.outputs["blessing"],
        infra_blessing=servability_check.outputs["blessing"],
        destination=str(plan.home.models.model(serving.model_name).folder),
        record=json.dumps(record, ensure_ascii=False),
        canary=int(serving.canary),
        **further,
    )
    return [evaluator, servability_check, *([export] if export else []), pusher]


def _format_export(plan: RunPlan, trainer: Trainer, examples: BaseChannel) -> Any:
    """Returns the component that converts the model to further formats; None where the experiment asks for none."""
    formats, gate = plan.experiment.serving.formats, plan.experiment.gate
    if not formats:
        return None
    return FormatExport(
        model=trainer.outputs["model"],
        model_run=trainer.outputs["model_run"],
        examples=examples,
        formats=json.dumps(formats),
        limits=json.dumps({"min_accuracy": gate.min_accuracy, "tolerance": gate.tolerance}),
    )


def eval_config(gate: Gate, measured: Measured | None) -> config_pb2.EvalConfig:
    """Returns what is measured on the test split, and what it must reach.

    The floor and the tolerance hold for the split as a whole: a plain `threshold` would hold for every class too. TFMA
    compares accuracies, which are rounded to float32; `ROUNDING` makes that the comparison of counts that
    `Gate.least_correct` is.

    Args:
      gate: the limits.
      measured: what the stable version reached, where that is known: then the tolerance becomes a floor.
    """
    if measured:
        limits = {"value_threshold": _at_least(max(gate.min_accuracy, measured.accuracy - gate.tolerance))}
    else:
        change = _not_below_by_more(gate.tolerance)
        limits = {"value_threshold": _at_least(gate.min_accuracy), "change_threshold": change}
    accuracy = config_pb2.MetricConfig(
        class_name="SparseCategoricalAccuracy",
        per_slice_thresholds=[_limit(config_pb2.SlicingSpec(), limits), *_class_limits(gate, measured)],
    )
    return config_pb2.EvalConfig(
        model_specs=[
            config_pb2.ModelSpec(signature_name="serving_default", label_key="label", prediction_key="scores")
        ],
        slicing_specs=[config_pb2.SlicingSpec(), config_pb2.SlicingSpec(feature_keys=["label"])],
        metrics_specs=[config_pb2.MetricsSpec(metrics=[accuracy, config_pb2.MetricConfig(class_name="ExampleCount")])],
    )


def _class_limits(gate: Gate, measured: Measured | None) -> list[config_pb2.PerSliceMetricThreshold]:
    """Returns what each class must reach; nothing where that is not asked for."""
    if measured and gate.class_tolerance is not None:
        floors = {
            label: max(gate.min_class_accuracy, accuracy - gate.class_tolerance)
            for label, accuracy in enumerate(measured.by_class)
            if not math.isnan(accuracy)
        }
        return [
            _limit(config_pb2.SlicingSpec(feature_values={"label": str(label)}), {"value_threshold": _at_least(floor)})
            for label, floor in floors.items()
        ]
    limits: dict[str, Any] = {}
    if gate.min_class_accuracy:
        limits["value_threshold"] = _at_least(gate.min_class_accuracy)
    if gate.class_tolerance is not None:
        limits["change_threshold"] = _not_below_by_more(gate.class_tolerance)
    return [_limit(config_pb2.SlicingSpec(feature_keys=["label"]), limits)] if limits else []


def _limit(of: config_pb2.SlicingSpec, limits: dict[str, Any]) -> config_pb2.PerSliceMetricThreshold:
    return config_pb2.PerSliceMetricThreshold(slicing_specs=[of], threshold=config_pb2.MetricThreshold(**limits))


def _at_least(floor: float) -> config_pb2.GenericValueThreshold:
    return config_pb2.GenericValueThreshold(lower_bound={"value": floor - ROUNDING})


def _not_below_by_more(tolerance: float) -> config_pb2.GenericChangeThreshold:
    return config_pb2.GenericChangeThreshold(
        absolute={"value": -tolerance - ROUNDING}, direction=config_pb2.MetricDirection.HIGHER_IS_BETTER
    )
