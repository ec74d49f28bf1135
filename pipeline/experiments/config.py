"""What an experiment is: frozen dataclasses, their overrides from a command line, and their digest.

An experiment is Python data. `pipeline/experiments/` holds ours; a user's own is a Python file that sets `EXPERIMENT`.
"""

import dataclasses
import difflib
import hashlib
import json
from typing import Any, Literal, get_args, get_origin, get_type_hints

from components.image_example_gen.dataset import Dataset
from trainer.settings import Job, Network, Training

__all__ = [
    "ConfigError",
    "Dataset",
    "Drift",
    "Experiment",
    "Gate",
    "Network",
    "Serving",
    "Training",
    "override",
    "validate",
]


class ConfigError(ValueError):
    """A setting that does not exist, or a value that it cannot take."""


@dataclasses.dataclass(frozen=True)
class Gate:
    """What a model must reach on the official test split to be pushed.

    Attributes:
      min_accuracy: lowest overall accuracy, 0 to 1.
      tolerance: how far overall accuracy may lie below the last blessed model's, 0 to 1.
      min_class_accuracy: lowest accuracy of any single class, 0 to 1; 0 for no such floor.
    """

    min_accuracy: float
    tolerance: float = 0.005
    min_class_accuracy: float = 0.0


@dataclasses.dataclass(frozen=True)
class Serving:
    """How a model is served.

    Attributes:
      model_name: what clients ask TensorFlow Serving for, and the folder below `serving/`.
      warmup_batches: sizes of the batches in the warm-up requests that the server replays on loading.
      check_examples: how many test images the servability check compares.
      canary: whether a new version is tried beside the one that serves until `conveyor promote`.
      keep_versions: how many of the newest versions `conveyor gc` keeps, besides those with a label.
    """

    model_name: str
    warmup_batches: tuple[int, ...] = (1, 32)
    check_examples: int = 512
    canary: bool = False
    keep_versions: int = 5


@dataclasses.dataclass(frozen=True)
class Drift:
    """How far spans that the serving model has not seen may differ from what it was trained on.

    Attributes:
      label: largest difference of any class's share, 0 to 1 (the L-infinity distance).
      scalars: Jensen-Shannon divergence of the images' means and standard deviations, 0 to 1.
      stops: whether a distance above its limit stops the run; else it is reported.
    """

    label: float = 0.1
    scalars: float = 0.1
    stops: bool = False


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that determines a pushed model, but for the data and the code."""

    name: str
    dataset: Dataset
    network: Network
    training: Training
    gate: Gate
    serving: Serving
    drift: Drift = Drift()

    def to_dict(self) -> dict[str, Any]:
        """Returns the experiment as plain lists and dicts, ready for JSON."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def job(self) -> Job:
        """Returns what the trainer must know."""
        return Job(self.dataset.shape, self.dataset.classes, self.network, self.training)

    def digest(self) -> str:
        """Returns the SHA-256 of the experiment's JSON, as 64 hexadecimal digits."""
        return digest_of(self.to_dict())


def digest_of(experiment: dict[str, Any]) -> str:
    """Returns the SHA-256 of an experiment's fields; see `Experiment.to_dict`."""
    return hashlib.sha256(json.dumps(experiment, sort_keys=True).encode()).hexdigest()


def override(experiment: Experiment, settings: tuple[str, ...]) -> Experiment:
    """Returns the experiment with some fields replaced.

    Args:
      experiment: the experiment to start from; it is not changed.
      settings: assignments such as `training.steps=300`; a value is JSON, or a bare word for a string.

    Raises:
      ConfigError: an assignment without `=`, an unknown field, or a value of the wrong type.

    Example:
      >>> from pipeline.experiments import load
      >>> override(load("mnist"), ("training.steps=300",)).training.steps
      300
    """
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting}: expected a field and a value, as in --set training.steps=300.")
        experiment = _replace(experiment, path.strip().split("."), text.strip(), path.strip())
    validate(experiment)
    return experiment


def validate(experiment: Experiment) -> None:
    """Checks the values that a type alone does not.

    Raises:
      ConfigError: names the field, its value and what it may be.
    """
    training, gate, dataset = experiment.training, experiment.gate, experiment.dataset
    for name in ("batch_size", "steps", "log_every", "eval_every", "keep_checkpoints"):
        _require(getattr(training, name) >= 1, f"training.{name}", getattr(training, name), "at least 1")
    _require(training.learning_rate > 0, "training.learning_rate", training.learning_rate, "above 0")
    _require(0 <= experiment.network.dropout < 1, "network.dropout", experiment.network.dropout, "from 0 to below 1")
    _require(training.warm_steps >= 0, "training.warm_steps", training.warm_steps, "0 or more")
    _require(
        experiment.serving.keep_versions >= 1, "serving.keep_versions", experiment.serving.keep_versions, "1 or more"
    )
    _require(dataset.window >= 0, "dataset.window", dataset.window, "0 for all spans, or how many")
    _require(0 <= dataset.holdout_share < 1, "dataset.holdout_share", dataset.holdout_share, "from 0 to below 1")
    for name in ("label", "scalars"):
        value = getattr(experiment.drift, name)
        _require(0 < value <= 1, f"drift.{name}", value, "above 0, up to 1")
    for name in ("min_accuracy", "tolerance", "min_class_accuracy"):
        _require(0 <= getattr(gate, name) <= 1, f"gate.{name}", getattr(gate, name), "from 0 to 1")
    _require(dataset.eval_examples >= 0, "dataset.eval_examples", dataset.eval_examples, "0 or more")
    shares = dataset.eval_share + dataset.test_share
    _require(min(dataset.eval_share, dataset.test_share) >= 0 and shares < 1, "dataset.eval_share", shares, "a share")
    _require(len(set(dataset.classes)) == len(dataset.classes) > 1, "dataset.classes", dataset.classes, "distinct")
    _require(min(dataset.shape) > 0, "dataset.shape", dataset.shape, "three positive numbers")


def _require(holds: bool, field: str, value: Any, expected: str) -> None:
    if not holds:
        raise ConfigError(f"{field} is {value}; it must be {expected}.")


def _replace(owner: Any, path: list[str], text: str, whole: str) -> Any:
    names = [field.name for field in dataclasses.fields(owner)]
    if path[0] not in names:
        close = difflib.get_close_matches(path[0], names, n=1)
        hint = f" Did you mean {close[0]}?" if close else f" There are: {', '.join(names)}."
        raise ConfigError(f"--set {whole}: {type(owner).__name__} has no field {path[0]!r}.{hint}")
    current = getattr(owner, path[0])
    if dataclasses.is_dataclass(current):
        if len(path) == 1:
            inner = ", ".join(field.name for field in dataclasses.fields(current))
            raise ConfigError(f"--set {whole}: name one of its fields: {inner}.")
        return dataclasses.replace(owner, **{path[0]: _replace(current, path[1:], text, whole)})
    if len(path) > 1:
        raise ConfigError(f"--set {whole}: {path[0]} has no fields of its own.")
    return dataclasses.replace(owner, **{path[0]: _parse(text, get_type_hints(type(owner))[path[0]], whole)})


def _parse(text: str, kind: Any, whole: str) -> Any:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ConfigError(f"--set {whole}={text}: must be one of {', '.join(get_args(kind))}.")
        return value
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise ConfigError(f'--set {whole}={text}: must be a JSON list, such as [1, 2] or ["a", "b"].')
        return _tuples(value)
    if kind is float and type(value) is int:
        value = float(value)
    if kind is str:
        value = text
    if type(value) is not kind:
        raise ConfigError(f"--set {whole}={text}: must be of type {kind.__name__}.")
    return value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
