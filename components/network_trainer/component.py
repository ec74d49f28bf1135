"""The component that trains a network."""

import json
from collections.abc import Sequence
from pathlib import Path

from tfx.components.trainer.component import Trainer
from tfx.proto import trainer_pb2
from tfx.types.channel import BaseChannel

from components.image_example_gen.spans import Part, node_id
from conveyor.settings import to_json
from trainer.settings import TrainingJob


def network_trainer(
    examples: BaseChannel,
    parts: Sequence[Part],
    base_model: BaseChannel | None,
    job: TrainingJob,
    checkpoints: Path,
    warmup_batches: tuple[int, ...],
    digest: str,
) -> Trainer:
    """Returns TFX's Trainer, set up to train one of our networks.

    Args:
      examples: the tf.Examples of all parts: train, test and perhaps eval of the base files; train and perhaps eval of
        spans.
      parts: what they come from, the base files first.
      base_model: the model whose weights the training starts from, if it does.
      job: the network and how it is trained.
      checkpoints: folder of this training's checkpoints. TFX deletes a failed Trainer's outputs, so it lies elsewhere.
      warmup_batches: sizes of the batches in the warm-up requests.
      digest: SHA-256 of the code that trains, for the cache, which knows `run_fn` by its name only.
    """
    return Trainer(
        examples=examples,
        run_fn="components.network_trainer.executor.run_fn",
        base_model=base_model,
        train_args=trainer_pb2.TrainArgs(splits=["train"], num_steps=job.training.steps),
        eval_args=trainer_pb2.EvalArgs(splits=["train"]),  # TFX asks for one that every part has; `run_fn` knows better
        custom_config={
            "parts": [{"name": p.name, "component": node_id(p.name), "trained_on": p.trained_on} for p in parts],
            "job": json.loads(to_json(job)),  # a dict: JSON within JSON has backslashes, which PostgreSQL refuses
            "checkpoints": str(checkpoints),
            "warmup_batches": list(warmup_batches),
            "code_digest": digest,
        },
    )
