"""What an experiment is: frozen settings, and their digest.

An experiment is Python data. This folder holds ours; a user's own is a Python file that sets `EXPERIMENT`.
"""

import hashlib
import json
import math
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from components.image_example_gen.dataset import Dataset, HashedSplits, NamedSplits, Spans
from conveyor.errors import ConfigError
from conveyor.numbers import exact
from conveyor.settings import Name, Share, settings, to_json
from pipeline.experiments.network import Network
from pipeline.experiments.tuning import Choice, Range, Tuning
from trainer.settings import CHANNELS, Training, TrainingJob

__all__ = [
    "Choice",
    "Dataset",
    "DriftLimits",
    "Experiment",
    "Gate",
    "HashedSplits",
    "NamedSplits",
    "Network",
    "Range",
    "Serving",
    "Spans",
    "Training",
    "Tuning",
]

Limit = Annotated[float, Field(gt=0, le=1)]
Format = Literal["tflite_float16", "tflite_int8"]
FORMATS: tuple[Format, ...] = get_args(Format)


# Two accuracies in float32 are less than this from what they stand for, and one answer of four million counts for more.
ROUNDING = 2e-7


@settings("gate")
class Gate:
    """What a model must reach on the official test split to be pushed.

    Attributes:
      min_accuracy: lowest overall accuracy, 0 to 1.
      tolerance: how far overall accuracy may lie below that of the stable version, 0 to 1.
      min_class_accuracy: lowest accuracy of any single class, 0 to 1; 0 for no such floor.
      class_tolerance: how far the accuracy of any single class may lie below that of the stable version, 0 to 1; None
        to report declines, and let them pass.
    """

    min_accuracy: Share
    tolerance: Share = 0.005
    min_class_accuracy: Share = 0.0
    class_tolerance: Share | None = None

    def least_correct(self, examples: int, baseline_correct: int | None = None) -> int:
        """Returns the smallest number of correct answers that passes, exactly as the limits are written.

        Args:
          examples: how many examples were answered.
          baseline_correct: how many the stable version answered correctly; None where there is none.
        """
        floor = math.ceil(exact(self.min_accuracy) * examples)
        if baseline_correct is None:
            return floor
        return max(floor, baseline_correct - math.floor(exact(self.tolerance) * examples))


@settings("serving")
class Serving:
    """How a model is served.

    Attributes:
      model_name: name of the model in requests, and of its folder below `serving/`.
      warmup_batches: sizes of the batches in the warm-up requests that the server replays on loading; where there are
        fewer test images, all of them.
      check_examples: how many test images the servability check compares.
      canary: whether a new version is tried beside the stable one until `conveyor promote`.
      keep_versions: how many of the newest versions `conveyor gc` and the scheduler keep, besides those with a label; 0
        for all, and then the scheduler removes nothing.
      formats: what a version holds beside its SavedModel: `tflite_float16`, `tflite_int8` (weights and activations in 8
        bits, calibrated on training images). Each must reach the gate's `min_accuracy`, and may lie below the
        SavedModel by its `tolerance`, or the model is not pushed.
    """

    model_name: Name
    warmup_batches: Annotated[tuple[Annotated[int, Field(ge=1, le=1024)], ...], Field(strict=False, max_length=32)] = (
        1,
        32,
    )
    check_examples: Annotated[int, Field(ge=1)] = 512
    canary: bool = False
    keep_versions: Annotated[int, Field(ge=0)] = 5
    formats: Annotated[tuple[Format, ...], Field(strict=False)] = ()

    def __post_init__(self) -> None:
        if len(set(self.formats)) < len(self.formats):
            raise ConfigError(f"serving.formats is {self.formats}; it names one twice.")


@settings("drift")
class DriftLimits:
    """How far spans that the stable version has not seen may differ from what it was trained on.

    Attributes:
      label: largest difference of any class's share, 0 to 1 (the L-infinity distance).
      scalars: Jensen-Shannon divergence of the images' means and standard deviations, 0 to 1.
      stops: whether a distance above its limit stops the run; else it is reported.
    """

    label: Limit = 0.1
    scalars: Limit = 0.1
    stops: bool = False


@settings("experiment")
class Experiment:
    """Everything that determines a pushed model, but for the data and the code.

    Attributes:
      name: name of the experiment, in reports and folders.
      dataset: the images, and how their files are read.
      network: the network.
      training: how long it is trained.
      gate: what a model must reach.
      serving: how the model is served.
      spans: what is done with images that were added later.
      drift: how far those may differ.
      tuning: what `conveyor tune` tries; it makes no other model.
    """

    name: Name
    dataset: Dataset
    network: Network
    training: Training
    gate: Gate
    serving: Serving
    spans: Spans = Spans()
    drift: DriftLimits = DriftLimits()
    tuning: Tuning = Tuning()

    def __post_init__(self) -> None:
        kind, channels = self.dataset.format, self.dataset.shape[2]
        if kind == "idx" and channels != 1:
            raise ConfigError(f"dataset.shape has {channels} channels, and an IDX file has one.")
        if kind == "folders" and channels not in CHANNELS:
            raise ConfigError(f"dataset.shape has {channels} channels; pictures have 1 (grey), 3 (RGB) or 4 (RGBA).")

    def to_dict(self) -> dict[str, Any]:
        """Returns the experiment as plain lists and dicts, ready for JSON."""
        return json.loads(to_json(self))

    def training_job(self) -> TrainingJob:
        """Returns what the trainer must know."""
        return TrainingJob(self.dataset.pictures, self.dataset.classes, self.network.source, self.training)

    def digest(self) -> str:
        """Returns the SHA-256 of the experiment's JSON, as 64 hexadecimal digits."""
        return digest_of(self.to_dict())


def digest_of(experiment: dict[str, Any]) -> str:
    """Returns the SHA-256 of an experiment's fields; see `Experiment.to_dict`."""
    counting = {name: value for name, value in experiment.items() if name != "tuning"}
    return hashlib.sha256(json.dumps(counting, sort_keys=True).encode()).hexdigest()
