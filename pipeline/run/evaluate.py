"""Measures what there is: the newest checkpoint's network, or else the pushed model, on the test split."""

import dataclasses
from pathlib import Path

import numpy as np
import tensorflow as tf

from components.image_example_gen.shards import plan as plan_shards
from components.image_example_gen.spans import parts
from conveyor.errors import ConfigError
from pipeline.experiments.config import Experiment
from pipeline.home.folders import Home
from pipeline.run.plan import make_plan
from serving.server.models.bundle import Bundle
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


def evaluate(experiment: Experiment, home: Home, folder: Path) -> Measured:
    """Returns the test accuracy of the newest checkpoint of this experiment, data and code, or of the pushed model.

    Raises:
      ConfigError: there is neither.
    """
    tf.config.set_visible_devices([], "GPU")
    images, labels = test_split(experiment, folder)
    plan = make_plan(experiment, home, folder)
    if (plan.checkpoints / "checkpoint").exists():
        model, step = loop.restore(plan.job, plan.checkpoints)
        scores = loop.predictor(model)(images)
        what = f"checkpoint at step {step}"
    elif plan.baseline:
        bundle = Bundle(plan.baseline.path)
        starts = range(0, len(images), BATCH)
        replies = [bundle.ask("predict_pixels", {"images": images[start : start + BATCH]}) for start in starts]
        scores = np.concatenate([reply["scores"] for reply in replies])
        what = f"pushed model, version {plan.baseline.version}"
    else:
        raise ConfigError(f"There is neither a checkpoint nor a pushed model of {experiment.name} in {home.root}.")
    accuracy, _ = loop.accuracy_and_loss(scores, labels)
    return Measured(accuracy, len(labels), what)


def test_split(experiment: Experiment, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads the test images, uint8 [N, height, width, channels], and labels, int64 [N], from the files themselves."""
    dataset = experiment.dataset
    shards = plan_shards(parts(folder, dataset, experiment.spans)[0])
    read = [
        (images, labels)
        for shard in shards
        if shard.split in ("test", None)
        for split, images, labels in shard.read(dataset)
        if split == "test"
    ]
    return np.concatenate([images for images, _ in read]), np.concatenate([labels for _, labels in read])
