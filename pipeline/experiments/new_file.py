"""Writes the file of a new experiment: that of a folder of pictures, with its network, to go on from."""

import dataclasses
import importlib.util
import inspect
import json
import sys
from pathlib import Path
from typing import Any

import jinja2

from conveyor.errors import ConfigError, storage_errors
from pipeline.experiments import BUILT_IN
from pipeline.experiments.built_in import small_resnet
from pipeline.experiments.config import Experiment
from pipeline.experiments.from_folder import experiment_of

TEMPLATE = Path(__file__).with_name("experiment.py.j2")


def write(name: str, folder: Path, file: Path) -> Experiment:
    """Writes the Python file of an experiment, which is what the folder alone would be run as, and returns that.

    Args:
      name: of the experiment.
      folder: the pictures; see `from_folder.experiment_of`.
      file: where to write it; it must not be there yet.

    Raises:
      ConfigError: the file is there, the folder has not two classes of pictures, or the name is none.
      StorageError: the file cannot be written.
    """
    if name in BUILT_IN:
        raise ConfigError(f"{name} is an experiment of Conveyor's own: choose another name.")
    if file.stem == name and _is_package(name):
        raise ConfigError(f"{name} is a package's name, which a file of that name would hide: choose another one.")
    if file.suffix != ".py":
        raise ConfigError(f"--file {file}: the name of an experiment's file ends in .py.")
    definition = experiment_of(folder)
    named = dataclasses.replace(definition, dataset=dataclasses.replace(definition.dataset, name=name))
    text = _render(named.experiment, file)
    if file.exists():
        raise ConfigError(f"{file} is there already: choose another name, or --file.")
    with storage_errors(f"{file} cannot be written"), file.open("x", encoding="utf-8") as opened:
        opened.write(text)
    return named.experiment


def _is_package(name: str) -> bool:
    """Whether others import something of this name; a folder of pictures is none, nor is a file beside it."""
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    return name in sys.stdlib_module_names or bool(spec and spec.origin and spec.submodule_search_locations)


def _render(experiment: Experiment, file: Path) -> str:
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.filters |= {"repr": _literal, "call": _call}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        experiment=experiment,
        file=file,
        splits_kind=type(experiment.dataset.splits).__name__,
        build=inspect.getsource(small_resnet.build),
    )


def _literal(value: Any) -> str:
    """Returns a value as Python writes it, with texts in double quotes."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _call(settings: Any) -> str:
    """Returns the call that makes settings, with what is not their default."""
    fields = dataclasses.fields(settings)
    given = {f.name: getattr(settings, f.name) for f in fields if getattr(settings, f.name) != f.default}
    return f"{type(settings).__name__}({', '.join(f'{name}={_literal(value)}' for name, value in given.items())})"
