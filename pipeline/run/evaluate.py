"""Measures what there is: the newest checkpoint's network, or else the pushed model, on the test split."""

import dataclasses
from pathlib import Path

import numpy as np
import tensorflow as tf

from components.image_example_gen.shards import plan
from components.image_example_gen.spans import parts
from pipeline.experiments.config import ConfigError, Experiment
from pipeline.home.folders import Home
from pipeline.home.provenance import checkpoint_folder, data_digest, inputs
from pipeline.run import baseline
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


def evaluate(experiment: Experiment, home: Home, data: Path) -> Measured:
    """Returns the test accuracy of the newest checkpoint of this experiment, data and code, or of the pushed model.

    Raises:
      ConfigError: there is neither.
    """
    tf.config.set_visible_devices([], "GPU")
    images, labels = test_split(experiment, data)
    served = baseline.serving(home, experiment)
    job, warm_start = baseline.job(experiment, served)
    digest = data_digest(inputs(data, experiment.dataset))
    checkpoints = checkpoint_folder(home, experiment, job, digest, warm_start)
    if (checkpoints / "checkpoint").exists():
        model, step = loop.restore(job, checkpoints)
        scores = loop.predictor(model)(images)
        what = f"checkpoint at step {step}"
    elif served:
        bundle = Bundle(served.path)
        starts = range(0, len(images), BATCH)
        replies = [bundle.ask("predict_pixels", {"images": images[start : start + BATCH]}) for start in starts]
        scores = np.concatenate([reply["scores"] for reply in replies])
        what = f"pushed model, version {served.version}"
    else:
        raise ConfigError(f"There is neither a checkpoint nor a pushed model of {experiment.name} in {home.root}.")
    accuracy, _ = loop.score(scores, labels)
    return Measured(accuracy, len(labels), what)


def test_split(experiment: Experiment, data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads the test images, uint8 [N, height, width, channels], and labels, int64 [N], from the files themselves."""
    dataset = experiment.dataset
    shards = plan(parts(data, dataset)[0])
    read = [
        (images, labels)
        for shard in shards
        if shard.split in ("test", None)
        for split, images, labels in shard.read(dataset)
        if split == "test"
    ]
    return np.concatenate([images for images, _ in read]), np.concatenate([labels for _, labels in read])
