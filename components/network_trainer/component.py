"""The component that trains a network."""

import dataclasses
from pathlib import Path

from tfx.components.trainer.component import Trainer
from tfx.proto import trainer_pb2
from tfx.types.channel import BaseChannel

from trainer.settings import Job


def network_trainer(
    examples: BaseChannel, job: Job, checkpoints: Path, warmup_batches: tuple[int, ...], fingerprint: str
) -> Trainer:
    """Returns TFX's Trainer, set up to train one of our networks.

    Args:
      examples: tf.Examples with the splits train and test, and perhaps eval.
      job: the network and how it is trained.
      checkpoints: folder of this training's checkpoints. TFX deletes a failed Trainer's outputs, so it lies elsewhere.
      warmup_batches: sizes of the batches in the warm-up requests.
      fingerprint: digest of the code that trains, for the cache, which knows `run_fn` by its name only.
    """
    return Trainer(
        examples=examples,
        run_fn="components.network_trainer.executor.run_fn",
        train_args=trainer_pb2.TrainArgs(splits=["train"], num_steps=job.training.steps),
        eval_args=trainer_pb2.EvalArgs(splits=["test"]),
        custom_config={
            "job": dataclasses.asdict(job),
            "checkpoints": str(checkpoints),
            "warmup_batches": list(warmup_batches),
            "fingerprint": fingerprint,
        },
    )
