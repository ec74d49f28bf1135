"""What an experiment is: frozen settings, how a command line overrides them, and their digest.

An experiment is Python data. This folder holds ours; a user's own is a Python file that sets `EXPERIMENT`.
"""

import dataclasses
import difflib
import hashlib
import json
from typing import Annotated, Any, get_type_hints

import pydantic
from pydantic import Field

from components.image_example_gen.dataset import Dataset, HashedSplits, NamedSplits, Spans
from conveyor.errors import ConfigError
from conveyor.settings import settings, to_json
from trainer.settings import Network, Training, TrainingJob

__all__ = [
    "Dataset",
    "DriftLimits",
    "Experiment",
    "Gate",
    "HashedSplits",
    "NamedSplits",
    "Network",
    "Serving",
    "Spans",
    "Training",
    "override",
]

Share = Annotated[float, Field(ge=0, le=1)]
Limit = Annotated[float, Field(gt=0, le=1)]


@settings("gate")
class Gate:
    """What a model must reach on the official test split to be pushed.

    Attributes:
      min_accuracy: lowest overall accuracy, 0 to 1.
      tolerance: how far overall accuracy may lie below that of the stable version, 0 to 1.
      min_class_accuracy: lowest accuracy of any single class, 0 to 1; 0 for no such floor.
    """

    min_accuracy: Share
    tolerance: Share = 0.005
    min_class_accuracy: Share = 0.0


@settings("serving")
class Serving:
    """How a model is served.

    Attributes:
      model_name: name of the model in requests, and of its folder below `serving/`.
      warmup_batches: sizes of the batches in the warm-up requests that the server replays on loading.
      check_examples: how many test images the servability check compares.
      canary: whether a new version is tried beside the stable one until `conveyor promote`.
      keep_versions: how many of the newest versions `conveyor gc` keeps, besides those with a label.
    """

    model_name: str
    warmup_batches: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False)] = (1, 32)
    check_examples: Annotated[int, Field(ge=1)] = 512
    canary: bool = False
    keep_versions: Annotated[int, Field(ge=1)] = 5


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
      training: how it is trained.
      gate: what a model must reach.
      serving: how the model is served.
      spans: what is done with images that were added later.
      drift: how far those may differ.
    """

    name: str
    dataset: Dataset
    network: Network
    training: Training
    gate: Gate
    serving: Serving
    spans: Spans = Spans()
    drift: DriftLimits = DriftLimits()

    def to_dict(self) -> dict[str, Any]:
        """Returns the experiment as plain lists and dicts, ready for JSON."""
        return json.loads(to_json(self))

    def training_job(self) -> TrainingJob:
        """Returns what the trainer must know."""
        return TrainingJob(self.dataset.shape, self.dataset.classes, self.network, self.training)

    def digest(self) -> str:
        """Returns the SHA-256 of the experiment's JSON, as 64 hexadecimal digits."""
        return digest_of(self.to_dict())


def digest_of(experiment: dict[str, Any]) -> str:
    """Returns the SHA-256 of an experiment's fields; see `Experiment.to_dict`."""
    return hashlib.sha256(json.dumps(experiment, sort_keys=True).encode()).hexdigest()


def override(experiment: Experiment, assignments: tuple[str, ...]) -> Experiment:
    """Returns the experiment with some fields replaced.

    Args:
      experiment: the experiment to start from; it is not changed.
      assignments: such as `training.steps=300`; a value is JSON, or a bare word for a string.

    Raises:
      ConfigError: an assignment without `=`, an unknown field, or a value that the field cannot take.

    Example:
      >>> from pipeline.experiments import load
      >>> override(load("mnist"), ("training.steps=300",)).training.steps
      300
    """
    changes: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = (part.strip() for part in assignment.partition("="))
        if not equals:
            raise ConfigError(f"--set {assignment}: expected a field and a value, as in --set training.steps=300.")
        try:
            _collect(experiment, changes, path.split("."), text)
        except ConfigError as error:
            raise ConfigError(f"--set {path}={text}: {error}") from None
    try:
        return _replaced(experiment, changes)  # once for all: a value may only be right together with another
    except ConfigError as error:
        raise ConfigError(f"--set {', '.join(assignments)}: {error}") from None


def _collect(owner: Any, changes: dict[str, Any], path: list[str], text: str) -> None:
    """Adds an assignment's value to a tree of changes, whose leaves are values."""
    name, *rest = path
    names = [field.name for field in dataclasses.fields(owner)]
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"Did you mean {close[0]}?" if close else f"There are: {', '.join(names)}."
        raise ConfigError(f"{owner.SETTINGS_NAME} has no field {name!r}. {hint}")
    if not rest:
        changes[name] = _parsed(owner, name, text)
        return
    given = changes.setdefault(name, {})
    is_tree = isinstance(given, dict)
    current = getattr(owner, name) if is_tree else given
    if not dataclasses.is_dataclass(current):
        raise ConfigError(f"{owner.SETTINGS_NAME}.{name} has no fields of its own.")
    inner = given if is_tree else {}
    _collect(current, inner, rest, text)
    if not is_tree:  # a whole object was given before one of its fields
        changes[name] = _replaced(current, inner)


def _replaced(owner: Any, changes: dict[str, Any]) -> Any:
    """Returns a settings object with a tree of changes made."""
    values = {
        name: _replaced(getattr(owner, name), change) if isinstance(change, dict) else change
        for name, change in changes.items()
    }
    return dataclasses.replace(owner, **values)


def _parsed(owner: Any, name: str, text: str) -> Any:
    """Returns a field's value from JSON, or from a bare word for a string."""
    kind = get_type_hints(type(owner), include_extras=True)[name]
    try:
        document = json.dumps(text if kind is str else json.loads(text))
    except json.JSONDecodeError:
        document = json.dumps(text)
    try:
        return pydantic.TypeAdapter(kind).validate_json(document, strict=True)
    except pydantic.ValidationError as error:
        current = getattr(owner, name)
        if dataclasses.is_dataclass(current):
            inner = ", ".join(field.name for field in dataclasses.fields(current))
            raise ConfigError(f"name one of the fields of {name}: {inner}.") from None
        problem = error.errors(include_url=False)[0]
        raise ConfigError(problem["msg"].replace("Input should", "it should") + ".") from None
