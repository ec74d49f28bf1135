"""What `--set FIELD=VALUE` does: an experiment with some of its settings replaced."""

import dataclasses
import difflib
import json
from typing import Any, get_type_hints

import pydantic

from conveyor.errors import ConfigError
from conveyor.settings import expectation
from pipeline.experiments.config import Experiment
from pipeline.experiments.network import Network, checked_parameter


def override(experiment: Experiment, assignments: tuple[str, ...], option: str = "--set ") -> Experiment:
    """Returns the experiment with some fields replaced.

    Args:
      experiment: the experiment to start from; it is not changed.
      assignments: such as `training.steps=300`; a value is JSON, or a bare word for a string.
      option: what stands before an assignment where the user gave it, for messages.

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
            raise ConfigError(f"{option}{assignment}: expected a field and a value, as in {option}training.steps=300.")
        try:
            _collect(experiment, changes, field_of(assignment).split("."), text)
        except ConfigError as error:
            leaf = path.rpartition(".")[2]
            moved = "There are:" in str(error) and _has(experiment.network, leaf)
            hint = f" Did you mean network.{leaf}?" if moved else ""
            raise ConfigError(f"{option}{path}={text}: {error}{hint}") from None
    try:
        return _replaced(experiment, changes)  # once for all: a value may only be right together with another
    except ConfigError as error:
        raise ConfigError(f"{option}{', '.join(assignments)}: {error}") from None


def field_of(assignment: str) -> str:
    """Returns the field that an assignment is of, such as `training.steps`."""
    return ".".join(part.strip() for part in assignment.partition("=")[0].split("."))


def _collect(owner: Any, changes: dict[str, Any], path: list[str], text: str) -> None:
    """Adds an assignment's value to a tree of changes, whose leaves are values."""
    name, *rest = path
    if isinstance(owner, Network):
        parameter = ".".join(path)
        changes.setdefault("parameters", {})[parameter] = checked_parameter(owner.build, parameter, _value(text))
        return
    names = [field.name for field in dataclasses.fields(owner)]
    if name not in names:
        inner = [f"{field}.{name}" for field in names if _has(getattr(owner, field), name)]
        close = inner or difflib.get_close_matches(name, names, n=1)
        hint = f"Did you mean {close[0]}?" if close else f"There are: {', '.join(names)}."
        raise ConfigError(f"{owner.SETTINGS_NAME} has no field {name!r}. {hint}")
    if not rest and isinstance(getattr(owner, name), Network):
        raise ConfigError(f"name one of the fields of {name}: {', '.join(getattr(owner, name).parameters)}.")
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


def _has(owner: Any, name: str) -> bool:
    return name in owner.parameters if isinstance(owner, Network) else hasattr(owner, name)


def _value(text: str) -> Any:
    """Returns a value from JSON, or a bare word as it is."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _replaced(owner: Any, changes: dict[str, Any]) -> Any:
    """Returns a settings object with a tree of changes made."""
    if isinstance(owner, Network):  # of whose parameters those that are not named stay
        return dataclasses.replace(owner, parameters=owner.parameters | changes["parameters"])
    trees = {name for name, change in changes.items() if isinstance(change, dict) and _is_tree(getattr(owner, name))}
    values = {
        name: _replaced(getattr(owner, name), change) if name in trees else change for name, change in changes.items()
    }
    return dataclasses.replace(owner, **values)


def _is_tree(value: Any) -> bool:
    """Whether a setting has settings of its own, which are replaced one by one; a mapping is replaced as a whole."""
    return dataclasses.is_dataclass(value)


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
        raise ConfigError(f"it {expectation(error.errors(include_url=False)[0])}.") from None
