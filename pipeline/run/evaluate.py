"""Measures a pushed model, or the newest checkpoint's network, on the test split."""

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
      version: the version's number; None for a checkpoint.
    """

    accuracy: float
    examples: int
    what: str
    version: int | None


def evaluate(experiment: Experiment, home: Home, folder: Path, version: int | None) -> Measured:
    """Returns the test accuracy of a version, or of the newest checkpoint of this experiment, data and code.

    Args:
      experiment: whose model.
      home: where it is.
      folder: the input files.
      version: the pushed model's version; None for the checkpoint.

    Raises:
      ConfigError: there is no such checkpoint.
    """
    tf.config.set_visible_devices([], "GPU")
    images, labels = test_split(experiment, folder)
    if version is None:
        plan = make_plan(experiment, home, folder)
        if not (plan.checkpoints / "checkpoint").exists():
            raise ConfigError(
                f"There is no checkpoint of {experiment.name} with these settings, data and code in {home.root}."
            )
        network, step = loop.restore(plan.job, plan.checkpoints)
        scores = loop.predictor(network, plan.job.shape)(images)
        what = f"checkpoint at step {step}"
    else:
        model = home.models.model(experiment.serving.model_name)
        bundle = Bundle(model.path(version))
        starts = range(0, len(images), BATCH)
        replies = [bundle.ask("predict_pixels", {"images": images[start : start + BATCH]}) for start in starts]
        scores = np.concatenate([reply["scores"] for reply in replies])
        what = f"version {version} ({model.label_of(version) or 'without a label'})"
    accuracy, _ = loop.accuracy_and_loss(scores, labels)
    return Measured(accuracy, len(labels), what, version)


def test_split(experiment: Experiment, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads the test images, uint8 [N, height, width, channels], and labels, int64 [N], from the files themselves."""
    dataset = experiment.dataset
    shards = plan_shards(parts(folder, dataset, experiment.spans)[0])
    read = [piece for shard in shards if shard.split in ("test", None) for piece in shard.read(dataset)]
    pieces = [piece for piece in read if piece.split == "test"]
    return np.concatenate([piece.images for piece in pieces]), np.concatenate([piece.labels for piece in pieces])
