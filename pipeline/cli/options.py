"""The options that several verbs share, and how they become a `Home`, an `Experiment` and the like."""

import dataclasses
import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from conveyor.errors import ConfigError
from conveyor.words import counted
from pipeline.cli.output import WANTS_JSON
from pipeline.data.inputs import check_source
from pipeline.data.published import CANONICAL
from pipeline.experiments import from_folder
from pipeline.experiments.config import Experiment, HashedSplits
from pipeline.experiments.known import ChosenExperiment
from pipeline.home.folders import Home
from pipeline.home.listing import models_of
from pipeline.home.outcome import EVENTS
from pipeline.run.console import quiet_libraries

if TYPE_CHECKING:
    from pipeline.schedule.notify import Notifier

_METADATA = "pipeline.cli.metadata"


class HomeType(click.ParamType):
    """A home folder, with the metadata's address from `--metadata`."""

    name = "home"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Home:
        if isinstance(value, Home):
            return value
        return Home.at(value or None, ctx.meta.get(_METADATA) if ctx else None)


def choose(home: Home, name: str, assignments: tuple[str, ...], data: Path | None) -> "Chosen":
    """Returns an experiment as a command line names it; see `KnownExperiments.choose`."""
    with quiet_libraries():  # a file may import Keras
        return Chosen(home, home.experiments.choose(name, assignments), data)


@dataclasses.dataclass(frozen=True)
class Chosen:
    """An experiment as a command line names it, and its data.

    Attributes:
      home: where it is known.
      choice: the experiment, and where its settings come from.
      given: the folder of the data that the command line names.
    """

    home: Home
    choice: ChosenExperiment
    given: Path | None

    @property
    def experiment(self) -> Experiment:
        """The experiment with all that was set."""
        return self.choice.experiment

    @property
    def data(self) -> Path | None:
        """The folder of its data: the one that is given, or else the one that the home knows."""
        if self.given is None and not _is_published(self.experiment):
            return self.choice.data
        return self.given

    @property
    def description(self) -> str:
        """What was chosen for a folder of pictures, and which of its folders are not used, in sentences."""
        dataset, training, name = self.experiment.dataset, self.experiment.training, self.choice.name
        size, splits = " x ".join(map(str, dataset.shape)), dataset.splits
        if isinstance(splits, HashedSplits):
            how = f"a hash holds out {100 * splits.eval_share:g} % for eval and {100 * splits.test_share:g} % for test"
        else:
            how = f"splits from {', '.join(sorted(splits.patterns.values()))}"
        unused = from_folder.unused_folders(self.data) if self.data and self.data.is_dir() else []
        more = f" Not used: {', '.join(unused)}." if unused else ""
        floor = f"pushed from an accuracy of {100 * self.experiment.gate.min_accuracy:g} % on"
        return (
            f"{name}: {len(dataset.classes)} classes ({', '.join(dataset.classes)}); pictures become {size} "
            f"({dataset.resize}); {how}; {counted(training.steps, 'step')} of {training.batch_size}; {floor}. "
            f"`conveyor settings {name}` shows all.{more}"
        )

    @property
    def remembered_data(self) -> Path | None:
        """The folder of its data that the home remembers now."""
        folder = self.home.experiments.record(self.choice.name).data
        return Path(folder) if folder else None

    def remember(self, say: Callable[[str], object], replaces: bool = True) -> None:
        """Writes down where the experiment and its data are, for the commands after this one.

        Args:
          say: is given a sentence for each thing that was another before.
          replaces: whether what is remembered already gives way; else it is left as it is.
        """
        check_source(self.experiment, self.home, self.data)
        is_its_own = self.given is not None and not _is_published(self.choice.standing)
        for sentence in self.home.experiments.remember(self.choice, self.given if is_its_own else None, replaces):
            say(sentence)

    def arguments(self, by_name: bool) -> tuple[str, ...]:
        """Returns the experiment and its settings as another process of `conveyor` takes them.

        Args:
          by_name: whether the home knows the experiment by its name; else its file is named, if it has one.
        """
        source = self.choice.record.source
        name = self.choice.name if by_name and self.choice.is_remembered else source or self.choice.name
        return (name, *(part for setting in self.choice.assignments for part in ("--set", setting)))


def _is_published(experiment: Experiment) -> bool:
    return experiment.dataset.name in CANONICAL


def experiment_name(home: Home, name: str | None) -> str | None:
    """Returns the name of an experiment from its name, which need not be one any more, or from its file."""
    return home.experiments.choose(name).name if name and is_file(name) else name


def is_file(name: str) -> bool:
    """Whether an experiment is named by its file."""
    return name.endswith(".py")


def model_name(home: Home, name: str) -> str:
    """Returns the name of a model: a pushed one's, or that of an experiment that is named or whose file is."""
    if is_file(name):
        return home.experiments.choose(name).experiment.serving.model_name
    found = [model.name for model in models_of(home, name)]
    return found[0] if len(found) == 1 else name


def require_known(home: Home, name: str | None, found: bool) -> None:
    """Refuses a name that no experiment has.

    Args:
      home: where something was looked for.
      name: the name; None where all experiments are meant.
      found: whether something of that name was found there.

    Raises:
      ConfigError: nothing was found, and there is no such experiment.
    """
    if name is not None and not found and not is_file(name) and not home.experiments.is_known(name):
        raise ConfigError(f"There is no experiment {name!r}, and nothing of that name in {home.root}.")


def _kept(key: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    """Returns a callback that keeps an option for the conversion of other parameters."""

    def keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        ctx.meta[key] = value

    return keep


EXPERIMENT_NAME = click.argument("experiment", required=False)
NAMED_EXPERIMENT = click.argument("experiment")
HOME = click.option(
    "--home",
    type=HomeType(),
    default="",
    metavar="DIR",
    help="Folder of all state. [default: $CONVEYOR_HOME, or ./.conveyor]",
)
JSON = click.option(
    "--json",
    is_flag=True,
    expose_value=False,
    callback=_kept(WANTS_JSON),
    help="Prints JSON on standard output, all else on standard error.",
)
METADATA = click.option(
    "--metadata",
    metavar="URL",
    is_eager=True,
    expose_value=False,
    callback=_kept(_METADATA),
    help="mysql:// or postgresql:// address of the metadata. [default: $CONVEYOR_METADATA, or SQLite in the home]",
)
BEAM = click.option(
    "--beam",
    metavar="RUNNER",
    help="What the examples are ingested and evaluated on: direct, multiprocess, flink, spark or dataflow, with Beam's "
    "options behind it, or a file of them. [default: $CONVEYOR_BEAM, beam.txt in the home, or direct]",
)
DATA = click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Folder of the input files. [default: the one that the home folder knows, or a download]",
)
SET = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Changes a setting for this once, such as training.steps=300; may be given again, and the last one of a field "
    "wins.",
)


def experiment(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the argument EXPERIMENT to a verb, which receives it with `--set` and `--data` as one `Chosen`."""

    @functools.wraps(function)
    def verb(*, experiment: str, home: Home, **values: Any) -> Any:
        assignments, data = values.pop("assignments", ()), values.pop("data", None)
        return function(chosen=choose(home, experiment, assignments, data), home=home, **values)

    return click.argument("experiment", is_eager=True)(verb)


def experiment_or_folder(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds EXPERIMENT as `experiment` does; without one, the pictures in `--data` make an experiment."""

    @functools.wraps(function)
    def verb(
        *, experiment: str | None, home: Home, assignments: tuple[str, ...], data: Path | None, **values: Any
    ) -> Any:
        if experiment is not None:
            return function(chosen=choose(home, experiment, assignments, data), home=home, **values)
        if data is None:
            raise click.UsageError("Name an EXPERIMENT, such as mnist, or a folder of pictures with --data.")
        return function(chosen=Chosen(home, home.experiments.of_folder(data, assignments), data), home=home, **values)

    return click.argument("experiment", required=False)(verb)


def bundle(
    name: str, make: Callable[..., Any], *options: Callable[[Any], Any]
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds several options to a verb, which receives them as one object.

    Args:
      name: name of the verb's parameter.
      make: makes the object; its parameters are those of the options.
      options: click's options, in the order of the help text.
    """
    keys = tuple(inspect.signature(make).parameters)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def verb(**values: Any) -> Any:
            return function(**{name: make(**{key: values.pop(key) for key in keys})}, **values)

        decorated: Callable[..., Any] = verb
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate


@dataclasses.dataclass(frozen=True)
class NotifierOptions:
    """The options that say whom to notify, and of what."""

    notify: tuple[str, ...]
    notify_on: tuple[str, ...]
    hook: str | None

    @classmethod
    def of(cls, ctx: click.Context) -> "NotifierOptions":
        """Returns the options of a command line, of which nothing else may be known yet: they are eager."""
        return cls(**{field.name: ctx.params[field.name] for field in dataclasses.fields(cls)})

    @property
    def for_file(self) -> tuple[str, ...]:
        """The options as they may stand in a file of another scheduler.

        Raises:
          ConfigError: there are addresses, which may hold passwords.
        """
        if self.notify:
            raise ConfigError(
                "--notify is not written into files, for an address may hold a password: "
                "set $CONVEYOR_NOTIFY where the job runs."
            )
        events = (part for event in self.notify_on for part in ("--notify-on", event))
        return (*events, *(("--hook", self.hook) if self.hook else ()))

    def notifier(self) -> "Notifier":
        """Returns the notifier of the addresses given, or of those in $CONVEYOR_NOTIFY, separated by spaces.

        Raises:
          ConfigError: an address is not one that apprise knows.
        """
        from pipeline.schedule.notify import Notifier

        addresses = self.notify or tuple(os.environ.get("CONVEYOR_NOTIFY", "").split())
        return Notifier(addresses, self.hook, self.notify_on or EVENTS)


NOTIFIER = bundle(
    "notifications",
    NotifierOptions,
    click.option(
        "--notify",
        multiple=True,
        is_eager=True,
        metavar="URL",
        help="Sends the outcome to an apprise address. [default: those in $CONVEYOR_NOTIFY, which keeps passwords out "
        "of ps]",
    ),
    click.option(
        "--notify-on",
        multiple=True,
        is_eager=True,
        type=click.Choice(EVENTS),
        help="Verdicts that are sent, and given to the hook. [default: all]",
    ),
    click.option(
        "--hook",
        is_eager=True,
        metavar="COMMAND",
        help="Command to run at the end, without a shell, with the outcome as JSON on standard input. If it fails, a "
        "line says so.",
    ),
)
