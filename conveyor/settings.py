"""Frozen dataclasses that check themselves: a settings object that exists is valid.

pydantic checks the types and the bounds of every field, when an object is made, replaced or read from JSON.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import pydantic
import pydantic.dataclasses
from typing_extensions import dataclass_transform  # of typing from Python 3.11 on

from conveyor.errors import ConfigError

Settings = TypeVar("Settings")

# A name that is part of a path, a URL and a run's name.
Name = Annotated[str, pydantic.Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
Share = Annotated[float, pydantic.Field(ge=0, le=1)]
PartialShare = Annotated[float, pydantic.Field(ge=0, lt=1)]  # never all of it


@dataclass_transform(frozen_default=True)
def settings(name: str) -> Callable[[type[Settings]], type[Settings]]:
    """Makes a class a frozen dataclass that refuses wrong values with a `ConfigError`.

    Types are strict: a text is no number, and a truth value is no integer. An integer is a float.

    Args:
      name: what the object is called in messages, such as `training`.

    Example:
      >>> from trainer.settings import Training
      >>> Training(batch_size=50, steps=0)
      Traceback (most recent call last):
      conveyor.errors.ConfigError: training.steps is 0; it should be greater than or equal to 1.
    """
    config = pydantic.ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    def decorate(cls: type[Settings]) -> type[Settings]:
        made: Any = pydantic.dataclasses.dataclass(cls, frozen=True, config=config)
        checked = made.__init__

        @functools.wraps(checked)
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            try:
                checked(self, *args, **kwargs)
            except pydantic.ValidationError as error:
                raise ConfigError(_sentences(error, made)) from None

        made.__init__ = init
        made.SETTINGS_NAME = name
        return made

    return decorate


def from_json(cls: type[Settings], text: str | bytes) -> Settings:
    """Returns the settings that `to_json` wrote.

    Raises:
      ConfigError: the text is not JSON, lacks a field, or holds a wrong value.
    """
    try:
        return pydantic.TypeAdapter(cls).validate_json(text)
    except pydantic.ValidationError as error:
        raise ConfigError(_sentences(error, cls)) from None


def to_json(value: Any) -> str:
    """Returns settings as JSON text on one line; the same settings give the same text."""
    return json.dumps(pydantic.TypeAdapter(type(value)).dump_python(value, mode="json"), ensure_ascii=False)


def _sentences(error: pydantic.ValidationError, cls: type) -> str:
    return " ".join(_sentence(problem, cls) for problem in error.errors(include_url=False))


def _sentence(problem: Any, cls: Any) -> str:
    names = [field.name for field in dataclasses.fields(cls)]
    # An argument that was given by its position is named by its number.
    if problem["type"] == "unexpected_positional_argument":
        return f"{cls.SETTINGS_NAME} takes {len(names)} values: {', '.join(names)}."
    parts = [
        names[part] if number == 0 and isinstance(part, int) else part for number, part in enumerate(problem["loc"])
    ]
    path = [cls.SETTINGS_NAME, *map(str, parts)]
    place = ".".join(path)
    if problem["type"] == "missing" and isinstance(parts[-1], int):
        return f"{'.'.join(path[:-1])} {expectation(problem)}."
    if problem["type"] in ("missing", "missing_argument"):
        return f"{place} is missing."
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{place} is no setting; there are {', '.join(names)}."
    return f"{place} is {problem['input']!r}; it {expectation(problem)}."


def expectation(problem: Any) -> str:
    """Returns what pydantic expected of a value, as the end of a sentence that begins with the value's name.

    Args:
      problem: one of the `errors()` of a `pydantic.ValidationError`.
    """
    if problem["type"] == "string_pattern_mismatch":
        return "should hold letters, digits, '_', '-' and '.', and begin with a letter or a digit"
    if problem["type"] == "missing":
        return "has too few values"
    should = re.match(r"\w+ (should .*)", problem["msg"])
    return should[1] if should else f"is wrong: {problem['msg']}"
