"""The pipeline: what runs, in which order."""

import dataclasses
import json
from pathlib import Path

import tensorflow_data_validation as tfdv
from tensorflow_model_analysis.proto import config_pb2
from tfx.components.evaluator.component import Evaluator
from tfx.components.example_validator.component import ExampleValidator
from tfx.components.statistics_gen.component import StatisticsGen
from tfx.dsl.components.common.resolver import Resolver
from tfx.dsl.input_resolution.strategies.latest_blessed_model_strategy import LatestBlessedModelStrategy
from tfx.orchestration.pipeline import Pipeline
from tfx.types.channel import Channel
from tfx.types.standard_artifacts import Model, ModelBlessing

from components.anomaly_gate.component import AnomalyGate
from components.atomic_pusher.component import AtomicPusher
from components.image_example_gen.component import ImageExampleGen
from components.network_trainer.component import network_trainer
from components.schema_gen.component import DatasetSchemaGen
from components.servability_check.component import ServabilityCheck
from pipeline.config import Experiment, Gate
from pipeline.home import Home
from pipeline.provenance import checkpoint_folder, code_digest

SCALARS = ["label", "image_mean", "image_stddev", "image_size"]

# Beam's own DirectRunner would first look for a runner to download; this one needs nothing but this process, and was
# faster than several threads or processes at every size tried.
BEAM_ARGS = [
    "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner",
    "--direct_running_mode=in_memory",
    "--direct_num_workers=1",
]


def create_pipeline(experiment: Experiment, home: Home, data: Path, data_digest: str, run_id: str) -> Pipeline:
    """Returns the pipeline of an experiment.

    Args:
      experiment: the data set, the network, the gates.
      home: where artifacts, checkpoints and pushed models go.
      data: folder of the input files.
      data_digest: of their content; see `provenance.data_digest`.
      run_id: name of the run that this pipeline is for.
    """
    dataset, serving = experiment.dataset, experiment.serving
    dataset_json = json.dumps(dataclasses.asdict(dataset))
    trainer_code = code_digest("trainer", "components.network_trainer", "serving")

    example_gen = ImageExampleGen(data, dataset, f"{data_digest} {code_digest('components.image_example_gen')}")
    schema_gen = DatasetSchemaGen(dataset=dataset_json, code=code_digest("components.schema_gen"))
    statistics_gen = StatisticsGen(
        examples=example_gen.outputs["examples"],
        schema=schema_gen.outputs["schema"],
        stats_options=tfdv.StatsOptions(feature_allowlist=SCALARS),
    )
    example_validator = ExampleValidator(
        statistics=statistics_gen.outputs["statistics"], schema=schema_gen.outputs["schema"]
    )
    anomaly_gate = AnomalyGate(
        anomalies=example_validator.outputs["anomalies"], code=code_digest("components.anomaly_gate")
    )
    trainer = network_trainer(
        examples=example_gen.outputs["examples"],
        job=experiment.job(),
        checkpoints=checkpoint_folder(experiment, home, data_digest),
        warmup_batches=serving.warmup_batches,
        fingerprint=trainer_code,
    )
    trainer.add_upstream_node(anomaly_gate)
    baseline = Resolver(
        strategy_class=LatestBlessedModelStrategy,
        model=Channel(type=Model),
        model_blessing=Channel(type=ModelBlessing),
    ).with_id("Baseline")
    evaluator = Evaluator(
        examples=example_gen.outputs["examples"],
        model=trainer.outputs["model"],
        baseline_model=baseline.outputs["model"],
        eval_config=eval_config(experiment.gate),
        example_splits=["test"],
    )
    servability_check = ServabilityCheck(
        model=trainer.outputs["model"],
        model_run=trainer.outputs["model_run"],
        examples=example_gen.outputs["examples"],
        count=serving.check_examples,
        code=code_digest("components.servability_check", "serving"),
    )
    # The run's name among the parameters keeps it out of the cache: what is served may have been changed by hand.
    record = {"run": run_id, "experiment": experiment.to_dict(), "data_digest": data_digest, "code": trainer_code}
    pusher = AtomicPusher(
        model=trainer.outputs["model"],
        model_blessing=evaluator.outputs["blessing"],
        infra_blessing=servability_check.outputs["blessing"],
        destination=str(home.serving / serving.model_name),
        record=json.dumps(record),
        code=code_digest("components.atomic_pusher"),
    )
    return Pipeline(
        pipeline_name=experiment.name,
        pipeline_root=str(home.artifacts / experiment.name),
        metadata_connection_config=home.connection(),
        components=[
            example_gen,
            schema_gen,
            statistics_gen,
            example_validator,
            anomaly_gate,
            trainer,
            baseline,
            evaluator,
            servability_check,
            pusher,
        ],
        enable_cache=True,
        beam_pipeline_args=BEAM_ARGS,
    )


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
