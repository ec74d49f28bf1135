"""The experiments that a home knows: where each comes from, its standing settings, and the folder of its data."""

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_core import to_jsonable_python

from conveyor.errors import ConfigError, ConveyorError, storage_errors
from conveyor.files import replace_file
from conveyor.settings import from_json, settings, to_json
from pipeline.experiments import BUILT_IN, from_folder, load
from pipeline.experiments.config import Experiment
from pipeline.experiments.network import Network, parameter_default
from pipeline.experiments.overrides import field_of, override

LOCK_SECONDS = 10
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


@settings("experiment record")
class Record:
    """What a home remembers of an experiment.

    Attributes:
      source: absolute path of the Python file; empty for one that comes with Conveyor or was made from a folder.
      definition: the settings that were made from a folder of pictures; None for another.
      settings: the standing settings: by field, what `--set` would be given.
      data: absolute path of the folder of its files; empty where nobody named one.
    """

    source: str = ""
    definition: from_folder.FolderExperiment | None = None
    settings: dict[str, str] = Field(default_factory=dict)
    data: str = ""


@dataclasses.dataclass(frozen=True)
class Setting:
    """A field of an experiment.

    Attributes:
      field: such as `training.steps`.
      value: as in the experiment's JSON.
      origin: `default`, `experiment` (its file, or its folder of pictures), `standing` or `--set`.
    """

    field: str
    value: Any
    origin: str


@dataclasses.dataclass(frozen=True)
class ChosenExperiment:
    """An experiment as a command chose it.

    Attributes:
      defined: its settings as its file or its folder of pictures defines them.
      record: what is to be remembered of it.
      assignments: the command's own settings, as `--set` was given them.
    """

    defined: Experiment
    record: Record
    assignments: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name that the home knows it by."""
        return self.defined.name

    @property
    def is_remembered(self) -> bool:
        """Whether a home remembers it: a file that sets a name of Conveyor's own has none that it could be known by."""
        return not (self.record.source and self.name in BUILT_IN)

    @property
    def standing(self) -> Experiment:
        """The experiment with its standing settings.

        Raises:
          ConfigError: they do not go with the experiment any more.
        """
        return _with_standing(self.defined, self.record.settings)

    @property
    def experiment(self) -> Experiment:
        """The experiment with all that was set; the command's settings come last."""
        return override(self.standing, self.assignments)

    @property
    def data(self) -> Path | None:
        """The folder of the data that is remembered."""
        return Path(self.record.data) if self.record.data else None

    def settings(self) -> list[Setting]:
        """Returns every field of the experiment, and where its value comes from."""
        given = [field_of(assignment) for assignment in self.assignments]
        return list(_settings(self.experiment, "", {"--set": given, "standing": list(self.record.settings)}))


def _settings(owner: Any, prefix: str, set_by: dict[str, list[str]]) -> Iterator[Setting]:
    for field in dataclasses.fields(owner):
        name, value = f"{prefix}{field.name}", getattr(owner, field.name)
        if isinstance(value, Network):
            yield from _parameters(value, f"{name}.", set_by)
            continue
        if dataclasses.is_dataclass(value):
            yield from _settings(value, f"{name}.", set_by)
            continue
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        yield _setting(name, to_jsonable_python(value), to_jsonable_python(default, fallback=repr), set_by)


def _parameters(network: Network, prefix: str, set_by: dict[str, list[str]]) -> Iterator[Setting]:
    """Yields the parameters of a network's function."""
    for name, value in network.parameters.items():
        yield _setting(f"{prefix}{name}", value, parameter_default(network.build, name), set_by)


def _setting(name: str, value: Any, default: Any, set_by: dict[str, list[str]]) -> Setting:
    by = (origin for origin, fields in set_by.items() if any(f"{name}.".startswith(f"{f}.") for f in fields))
    return Setting(name, value, next(by, "default" if value == default else "experiment"))


class KnownExperiments:
    """The experiments of a home; one file of JSON each."""

    def __init__(self, folder: Path) -> None:
        """Makes the way to a folder, which need not be there."""
        self._folder = folder

    def names(self) -> list[str]:
        """Returns the names that are remembered."""
        return sorted(path.stem for path in self._folder.glob("*.json") if not path.name.startswith("."))

    def record(self, name: str) -> Record:
        """Returns what is remembered of an experiment; an empty record where nothing is.

        Raises:
          ConfigError: the file is damaged.
          StorageError: it cannot be read.
        """
        path = self._folder / f"{name}.json"
        if not _NAME.fullmatch(name) or not path.exists():
            return Record()
        with storage_errors(f"{path} cannot be read"):
            text = path.read_bytes()
        try:
            return from_json(Record, _without_old_definition(text))
        except ConfigError as error:
            raise ConfigError(f"{path} is damaged: {error} Delete it, and set again what is to stand.") from None

    def choose(self, name: str, assignments: tuple[str, ...] = ()) -> ChosenExperiment:
        """Returns an experiment by its name, or by the Python file that sets it.

        Args:
          name: one that comes with Conveyor, one that the home knows, or a path that ends in `.py`.
          assignments: the command's own settings, such as `training.steps=300`.

        Raises:
          ConfigError: there is no such experiment, its file is wrong, or a setting is.
        """
        chosen = dataclasses.replace(self._defined(name), assignments=assignments)
        _ = chosen.experiment  # a setting that is wrong is told of here
        return chosen

    def is_known(self, name: str) -> bool:
        """Whether a name comes with Conveyor, or is remembered; nothing is loaded."""
        return name in BUILT_IN or name in self.names()

    def find(self, name: str) -> ChosenExperiment | None:
        """Returns an experiment by its name; None where there is none, or its file or record is gone or wrong."""
        try:
            return self.choose(name)
        except ConveyorError:
            return ChosenExperiment(load(name), Record()) if name in BUILT_IN else None

    def of_folder(self, folder: Path, assignments: tuple[str, ...] = ()) -> ChosenExperiment:
        """Returns the experiment that a folder of pictures makes; see `from_folder.experiment_of`.

        Raises:
          ConfigError: the folder is not one, its name is another experiment's, or a setting is wrong.
        """
        definition = from_folder.experiment_of(folder)
        defined = definition.experiment
        place = str(folder.resolve())
        if defined.name in BUILT_IN:
            raise ConfigError(
                f"--data {folder}: {defined.name} is an experiment of Conveyor's own, so that this one needs another "
                "name: rename the folder."
            )
        record = self.record(defined.name)
        if record.source or (record.definition and record.data != place):
            raise ConfigError(
                f"--data {folder}: an experiment named {defined.name} is known already "
                f"({record.source or record.data}). Rename the folder; or, if it takes the place of that "
                f"one, conveyor set {defined.name} --data {folder}."
            )
        chosen = ChosenExperiment(defined, dataclasses.replace(record, definition=definition, data=place), assignments)
        _ = chosen.experiment
        return chosen

    def remember(self, chosen: ChosenExperiment, data: Path | None = None, replaces: bool = True) -> list[str]:
        """Writes down where an experiment is, and its data; returns what is worth knowing of that, in sentences.

        Args:
          chosen: the experiment.
          data: the folder of its data; None to leave that as it is.
          replaces: whether what is remembered gives way; else only what is not known yet is written.

        Raises:
          ConfigError: what is remembered is damaged.
          StorageError: it cannot be written.
        """
        if not chosen.is_remembered:
            return [
                f"{chosen.record.source} sets an experiment named {chosen.name}, as one of Conveyor's own is: nothing "
                "is remembered of it. A name of its own changes that."
            ]
        with self._changing():
            before = self.record(chosen.name)
            place = str(data.resolve()) if data and (replaces or not before.data) else before.data
            after = dataclasses.replace(before, data=place)
            if replaces or not (before.source or before.definition):
                after = dataclasses.replace(after, source=chosen.record.source, definition=chosen.record.definition)
            self._write(chosen.name, before, after)
        return list(_moved(chosen.name, before, after))

    def change(self, name: str, assignments: tuple[str, ...], unset: tuple[str, ...] = ()) -> ChosenExperiment:
        """Changes the standing settings of an experiment, and returns it.

        Args:
          name: as for `choose`.
          assignments: such as `training.warm_steps=500`.
          unset: the fields whose standing settings go.

        Raises:
          ConfigError: a setting is wrong, or does not stand; nothing is changed then.
          StorageError: it cannot be written.
        """
        chosen = self._defined(name)
        if not chosen.is_remembered:
            raise ConfigError(
                f"{name} sets an experiment named {chosen.name}, as one of Conveyor's own is: give it a name of its "
                "own to keep settings of it."
            )
        with self._changing():
            before = self.record(chosen.name)
            standing = dict(before.settings)
            for field in unset:
                if standing.pop(field, None) is None:
                    known = ", ".join(standing) or "none"
                    raise ConfigError(f"--unset {field}: no such setting stands for {chosen.name}; there are: {known}.")
            for assignment in assignments:
                field = field_of(assignment)
                standing = {name: text for name, text in standing.items() if not f"{name}.".startswith(f"{field}.")}
                standing[field] = assignment.partition("=")[2].strip()
            given = [field_of(assignment) for assignment in assignments]
            others = {field: text for field, text in standing.items() if field not in given}
            override(_with_standing(chosen.defined, others), assignments, option="")  # in the words of the command
            after = dataclasses.replace(
                before, source=chosen.record.source, definition=chosen.record.definition, settings=standing
            )
            changed = dataclasses.replace(chosen, record=after)
            _ = changed.standing
            self._write(chosen.name, before, after)
        return changed

    def _write(self, name: str, before: Record, after: Record) -> None:
        if after != before:
            replace_file(self._folder / f"{name}.json", to_json(after))

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Holds the records; a failure to write them is an error in a sentence."""
        import filelock  # with asyncio, which those need not wait for that only look

        with storage_errors(f"What is remembered of experiments in {self._folder} cannot be written"):
            self._folder.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(self._folder / ".lock", timeout=LOCK_SECONDS):
                yield

    def _defined(self, name: str) -> ChosenExperiment:
        """Returns an experiment without a look at its settings."""
        if name in BUILT_IN or name.endswith(".py"):
            defined = load(name)
            if name.endswith(".py") and defined.name in BUILT_IN:
                return ChosenExperiment(defined, Record(source=str(Path(name).resolve())))
            source = "" if name in BUILT_IN else str(Path(name).resolve())
            record = dataclasses.replace(self.record(defined.name), source=source, definition=None)
            return ChosenExperiment(defined, record)
        record = self.record(name)
        if record.definition is not None:
            return ChosenExperiment(record.definition.experiment, record)
        if record.source:
            return ChosenExperiment(self._of_file(name, record.source), record)
        raise ConfigError(self._unknown(name))

    def _of_file(self, name: str, source: str) -> Experiment:
        if not Path(source).is_file():
            raise ConfigError(
                f"The file of the experiment {name}, {source}, is not there any more: name its new place, conveyor run "
                "FILE.py."
            )
        defined = load(source)
        if defined.name != name:
            raise ConfigError(f"{source} sets an experiment named {defined.name}, and set {name} before.")
        return defined

    def _unknown(self, name: str) -> str:
        return (
            f"There is no experiment {name!r}. There are {', '.join(sorted({*BUILT_IN, *self.names()}))}; or give a "
            "Python file, or a folder of pictures with conveyor run --data FOLDER."
        )


def _without_old_definition(text: bytes) -> str | bytes:
    """Returns a record without a definition of the time before networks were functions; its folder is named again."""
    try:
        record = json.loads(text)
    except ValueError:
        return text
    definition = record.get("definition") if isinstance(record, dict) else None
    if not isinstance(definition, dict) or "network" not in definition:
        return text
    return json.dumps(record | {"definition": None, "settings": {}})


def _with_standing(defined: Experiment, settings: Mapping[str, str]) -> Experiment:
    try:
        return override(defined, tuple(f"{field}={text}" for field, text in settings.items()), option="")
    except ConfigError as error:
        raise ConfigError(
            f"A standing setting of {defined.name} is wrong: {error} `conveyor set {defined.name} --unset FIELD` "
            "takes it back."
        ) from None


def _moved(name: str, before: Record, after: Record) -> Iterator[str]:
    """Yields a sentence for each thing that was another before."""
    if before.definition and after.source:
        settings = f"; so do its standing settings ({', '.join(before.settings)})" if before.settings else ""
        now = f"{name} was made from {before.data}, and is what {after.source} says now."
        yield f"{now} Its data folder stays{settings}."
    if before.source and after.source != before.source:
        yield f"The file of {name} is now {after.source}, and was {before.source}."
    if before.data and after.data != before.data:
        yield f"The data folder of {name} is now {after.data}, and was {before.data}."
    if before.definition and after.definition and before.definition.dataset.classes != after.definition.dataset.classes:
        classes = ", ".join(after.definition.dataset.classes)
        yield f"The classes of {name} are not what they were; now they are {classes}."
