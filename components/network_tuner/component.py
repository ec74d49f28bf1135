"""The component that searches for a network's best settings."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfx.components.tuner.component import Tuner
from tfx.proto import trainer_pb2
from tfx.types.channel import BaseChannel

from components.image_example_gen.spans import Part, node_id
from conveyor.settings import to_json
from trainer.settings import TrainingJob


def network_tuner(
    examples: BaseChannel,
    parts: Sequence[Part],
    job: TrainingJob,
    ranges: dict[str, dict[str, Any]],
    seed: int,
    trials: int,
    folder: Path,
    run: str,
) -> Tuner:
    """Returns TFX's Tuner, set up to search with Keras Tuner, each trial in a process of its own.

    Args:
      examples: the tf.Examples of all parts, with the split `eval` of the base files, which trials are measured on.
      parts: what they come from, the base files first.
      job: the network and how it is trained, but for what is searched for.
      ranges: by setting, such as `network.width`, the values to try: the fields of a `Choice` or a `Range`.
      seed: of the search.
      trials: how many trials there are in all, with those of earlier searches in the same folder.
      folder: of this search, and of no other; a search that was stopped goes on from what is there.
      run: the run's name, which keeps the tuner out of the cache: the folder knows what has been tried.
    """
    return Tuner(
        examples=examples,
        tuner_fn="components.network_tuner.executor.tuner_fn",
        train_args=trainer_pb2.TrainArgs(splits=["train"], num_steps=job.training.steps),
        eval_args=trainer_pb2.EvalArgs(splits=["train"]),  # as of the Trainer: one that every part has
        custom_config={
            "parts": [{"name": p.name, "component": node_id(p.name), "trained_on": p.trained_on} for p in parts],
            "job": json.loads(to_json(job)),
            "ranges": ranges,
            "seed": seed,
            "trials": trials,
            "folder": str(folder),
            "run": run,
        },
    )
