"""Measures what there is: the newest checkpoint's network, or else the pushed model, on the test split."""

import dataclasses
from pathlib import Path

import numpy as np
import tensorflow as tf

from components.atomic_pusher.executor import versions
from components.image_example_gen.component import newest_span
from components.image_example_gen.shards import plan
from pipeline.config import ConfigError, Experiment
from pipeline.home import Home
from pipeline.provenance import checkpoint_folder, data_digest
from serving.server.bundle import Bundle
from trainer import loop

BATCH = 500


@dataclasses.dataclass(frozen=True)
class Measured:
    """An accuracy, and what it was measured on.

    Attributes:
      accuracy: on the test split, 0 to 1.
      examples: how many test images there are.
      what: the checkpoint or the version, in words.
    """

    accuracy: float
    examples: int
    what: str


def evaluate(experiment: Experiment, home: Home, data: Path) -> Measured:
    """Returns the test accuracy of the newest checkpoint of this experiment, data and code, or of the pushed model.

    Raises:
      ConfigError: there is neither.
    """
    tf.config.set_visible_devices([], "GPU")
    images, labels = _test_split(experiment, data)
    checkpoints = checkpoint_folder(experiment, home, data_digest(data, experiment.dataset))
    base = home.serving / experiment.serving.model_name
    if (checkpoints / "checkpoint").exists():
        model, step = loop.restore(experiment.job(), checkpoints)
        scores = loop.predictor(model)(images)
        what = f"checkpoint at step {step}"
    elif base.is_dir() and versions(base):
        newest = versions(base)[-1]
        bundle = Bundle(base / str(newest))
        starts = range(0, len(images), BATCH)
        replies = [bundle.ask("predict_pixels", {"images": images[start : start + BATCH]}) for start in starts]
        scores = np.concatenate([reply["scores"] for reply in replies])
        what = f"pushed model, version {newest}"
    else:
        raise ConfigError(f"There is neither a checkpoint nor a pushed model of {experiment.name} in {home.root}.")
    accuracy, _ = loop.score(scores, labels)
    return Measured(accuracy, len(labels), what)


def _test_split(experiment: Experiment, data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads the test images, uint8 [N, height, width, channels], and labels, int64 [N], from the files themselves."""
    dataset = experiment.dataset
    shards = plan(data, newest_span(data, dataset), dataset)
    parts = [
        (images, labels)
        for shard in shards
        if shard.split in ("test", None)
        for split, images, labels in shard.read(dataset)
        if split == "test"
    ]
    return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])
