"""The same job the plain TFX way: stock components, TFX's own runner, `model.fit`. For `pipeline_overhead`.

    python -m benchmarks.plain_tfx EXAMPLES HOME STEPS

EXAMPLES holds `train/`, `eval/` and `test/` with the same TFRecords that Conveyor ingests.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import tensorflow as tf
from tfx.components.evaluator.component import Evaluator
from tfx.components.example_gen.import_example_gen.component import ImportExampleGen
from tfx.components.example_validator.component import ExampleValidator
from tfx.components.pusher.component import Pusher
from tfx.components.schema_gen.component import SchemaGen
from tfx.components.statistics_gen.component import StatisticsGen
from tfx.components.trainer.component import Trainer
from tfx.dsl.components.common.resolver import Resolver
from tfx.dsl.input_resolution.strategies.latest_blessed_model_strategy import LatestBlessedModelStrategy
from tfx.orchestration.local.local_dag_runner import LocalDagRunner
from tfx.orchestration.pipeline import Pipeline
from tfx.proto import example_gen_pb2, pusher_pb2, trainer_pb2
from tfx.types.channel import Channel
from tfx.types.standard_artifacts import Model, ModelBlessing

from pipeline.experiments import load
from pipeline.home.folders import Home
from pipeline.run.graph import eval_config
from trainer import devices, export, networks

EXPERIMENT = load("mnist")


def run_fn(fn_args: Any) -> None:
    """Trains with Keras' own loop, on batches that tf.data reads, shuffles and parses."""
    steps = fn_args.train_steps
    job = dataclasses.replace(EXPERIMENT.training_job(), training=dataclasses.replace(EXPERIMENT.training, steps=steps))
    features = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}

    def parse(records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        parsed = tf.io.parse_example(records, features)
        pixels = tf.io.decode_raw(parsed["image"], tf.uint8)
        return tf.cast(tf.reshape(pixels, [-1, *job.shape]), tf.float32), parsed["label"]

    files = tf.data.Dataset.list_files(fn_args.train_files)
    records = tf.data.TFRecordDataset(files, compression_type="GZIP").shuffle(10_000).repeat()
    dataset = records.batch(job.training.batch_size).map(parse).prefetch(tf.data.AUTOTUNE)
    model = networks.build(job, devices.choose("auto").precision)
    model.compile(model.optimizer, model.loss, metrics=["accuracy"])
    model.fit(dataset, steps_per_epoch=100, epochs=steps // 100, verbose=2)
    scratch = Path(fn_args.model_run_dir)
    scratch.mkdir(parents=True, exist_ok=True)
    export.save(model, job, Path(fn_args.serving_model_dir), scratch)


def create_pipeline(examples: Path, home: Home, steps: int) -> Pipeline:
    """Returns the pipeline as TFX's own examples build it."""
    splits = [example_gen_pb2.Input.Split(name=name, pattern=f"{name}/*") for name in ("train", "eval", "test")]
    example_gen = ImportExampleGen(input_base=str(examples), input_config=example_gen_pb2.Input(splits=splits))
    statistics_gen = StatisticsGen(examples=example_gen.outputs["examples"])
    schema_gen = SchemaGen(statistics=statistics_gen.outputs["statistics"])
    validator = ExampleValidator(statistics=statistics_gen.outputs["statistics"], schema=schema_gen.outputs["schema"])
    trainer = Trainer(
        run_fn="benchmarks.plain_tfx.run_fn",
        examples=example_gen.outputs["examples"],
        train_args=trainer_pb2.TrainArgs(splits=["train"], num_steps=steps),
        eval_args=trainer_pb2.EvalArgs(splits=["eval"]),
    )
    baseline = Resolver(
        strategy_class=LatestBlessedModelStrategy,
        model=Channel(type=Model),
        model_blessing=Channel(type=ModelBlessing),
    ).with_id("Baseline")
    evaluator = Evaluator(
        examples=example_gen.outputs["examples"],
        model=trainer.outputs["model"],
        baseline_model=baseline.outputs["model"],
        eval_config=eval_config(dataclasses.replace(EXPERIMENT.gate, min_accuracy=0.5), None),
        example_splits=["test"],
    )
    destination = pusher_pb2.PushDestination.Filesystem(base_directory=str(home.serving / "mnist"))
    pusher = Pusher(
        model=trainer.outputs["model"],
        model_blessing=evaluator.outputs["blessing"],
        push_destination=pusher_pb2.PushDestination(filesystem=destination),
    )
    return Pipeline(
        pipeline_name="mnist",
        pipeline_root=str(home.artifacts),
        metadata_connection_config=home.connection(),
        components=[
            example_gen,
            statistics_gen,
            schema_gen,
            validator,
            trainer,
            baseline,
            evaluator,
            pusher,
        ],
        enable_cache=False,
    )


if __name__ == "__main__":
    LocalDagRunner().run(create_pipeline(Path(sys.argv[1]), Home(Path(sys.argv[2])), int(sys.argv[3])))
