"""Measures a pushed model, or the newest checkpoint's network, on the test split."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from components.format_export.executor import SAVED_MODEL
from components.image_example_gen.shards import plan as plan_shards
from components.image_example_gen.spans import parts
from conveyor.errors import ConfigError
from pipeline.experiments.config import FORMATS, Experiment
from pipeline.home.folders import Home
from pipeline.run.baseline import other_images
from pipeline.run.plan import make_plan
from serving.model_store import StoredModel, VersionRecord
from serving.server.models.bundle import SavedModelBundle
from serving.tflite import LiteModel, file_of
from trainer import loop

BATCH = 500
Predict = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
      predict: returns probabilities, float32 [N, classes], of images, uint8 [N, height, width, channels].
      what: the checkpoint or the version, in words.
      name: the same, as a part of a file's name.
      version: the version's number; None for a checkpoint.
    """

    predict: Predict
    what: str
    name: str
    version: int | None


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


def subject(
    experiment: Experiment, home: Home, folder: Path, version: int | None, format_name: str = SAVED_MODEL
) -> Subject:
    """Returns a version, or the newest checkpoint of this experiment, data and code, ready to be asked.

    Args:
      experiment: whose model.
      home: where it is.
      folder: the input files.
      version: the pushed model's version; None for the checkpoint.
      format_name: `saved_model`, or what a version holds beside it.

    Raises:
      ConfigError: there is no such checkpoint, the version has no such format, or its images were others.
    """
    tf.config.set_visible_devices([], "GPU")
    if version is None:
        if format_name != SAVED_MODEL:
            raise ConfigError(f"No version of {experiment.name} is pushed, and a checkpoint has no {format_name}.")
        return _checkpoint(experiment, home, folder)
    model = home.models.model(experiment.serving.model_name)
    if why := other_images(model.record(version) or VersionRecord(), experiment):
        raise ConfigError(f"Version {version} of {model.name} cannot be measured on these images: {why}.")
    name = f"{model.name}-{version}"
    what = f"version {version} ({model.label_of(version) or 'without a label'})"
    if format_name == SAVED_MODEL:
        bundle = SavedModelBundle(model.path(version))

        def ask(images: np.ndarray) -> np.ndarray:
            starts = range(0, len(images), BATCH)
            replies = [bundle.ask("predict_pixels", {"images": images[start : start + BATCH]}) for start in starts]
            return np.concatenate([reply["scores"] for reply in replies])

        return Subject(ask, what, name, version)
    lite = LiteModel(_lite_file(model, version, format_name))
    return Subject(lite.scores, f"{what} as {format_name}", f"{name}-{format_name}", version)


def _checkpoint(experiment: Experiment, home: Home, folder: Path) -> Subject:
    plan = make_plan(experiment, home, folder)
    if not (plan.checkpoints / "checkpoint").exists():
        raise ConfigError(
            f"There is no checkpoint of {experiment.name} with these settings, data and code in {home.root}."
        )
    network, step = loop.restore(plan.job, plan.checkpoints)
    name = f"{experiment.name}-checkpoint-{step}"
    return Subject(loop.predictor(network, plan.job.shape), f"checkpoint at step {step}", name, None)


def _lite_file(model: StoredModel, version: int, format_name: str) -> Path:
    path = model.path(version) / file_of(format_name)
    if not path.exists():
        there = [SAVED_MODEL, *(name for name in FORMATS if (model.path(version) / file_of(name)).exists())]
        raise ConfigError(
            f"Version {version} of {model.name} has no {format_name}; it has {', '.join(there)}. The setting "
            "serving.formats says what the next versions have."
        )
    return path


def evaluate(measured: Subject, images: np.ndarray, labels: np.ndarray) -> Measured:
    """Returns the accuracy on images, uint8 [N, height, width, channels], with their labels, int64 [N]."""
    accuracy, _ = loop.accuracy_and_loss(measured.predict(images), labels)
    return Measured(accuracy, len(labels), measured.what, measured.version)


def test_split(experiment: Experiment, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads the test images, uint8 [N, height, width, channels], and labels, int64 [N], from the files themselves."""
    dataset = experiment.dataset
    shards = plan_shards(parts(folder, dataset, experiment.spans)[0])
    read = (piece for shard in shards if shard.split in ("test", None) for piece in shard.read(dataset))
    pieces = [piece for piece in read if piece.split == "test"]
    return np.concatenate([piece.images for piece in pieces]), np.concatenate([piece.labels for piece in pieces])
