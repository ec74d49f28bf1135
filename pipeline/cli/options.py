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
from pipeline.cli.output import WANTS_JSON
from pipeline.experiments import BUILT_IN, load
from pipeline.experiments.config import Experiment
from pipeline.experiments.overrides import override
from pipeline.home.folders import Home
from pipeline.home.outcome import EVENTS

if TYPE_CHECKING:
    from pipeline.schedule.notify import Notifier

_METADATA, _SETTINGS, _SOURCE = "pipeline.cli.metadata", "pipeline.cli.settings", "pipeline.cli.source"


class HomeType(click.ParamType):
    """A home folder, with the metadata's address from `--metadata`."""

    name = "home"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Home:
        if isinstance(value, Home):
            return value
        return Home.at(value or None, ctx.meta.get(_METADATA) if ctx else None)


class ExperimentType(click.ParamType):
    """An experiment by its name or its file, with the settings of `--set`."""

    name = "experiment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Experiment:
        if isinstance(value, Experiment) or (ctx and ctx.resilient_parsing):  # the shell completes; nothing is run
            return value
        if ctx:
            ctx.meta[_SOURCE] = value
        return override(load(value), ctx.meta.get(_SETTINGS, ()) if ctx else ())


class ExperimentNameType(click.ParamType):
    """The name of an experiment, which need not exist any more, or its file."""

    name = "experiment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if ctx:
            ctx.meta[_SOURCE] = value
        if not value.endswith(".py") or (ctx and ctx.resilient_parsing):
            return value
        return load(value).name


def require_known(home: Home, name: str | None, found: bool) -> None:
    """Refuses a name that no experiment has.

    Args:
      home: where something was looked for.
      name: the name; None where all experiments are meant.
      found: whether something of that name was found there.

    Raises:
      ConfigError: nothing was found, and there is no such experiment.
    """
    if name is not None and not found and named_experiment() is None:
        raise ConfigError(f"There is no experiment {name!r}, and nothing of that name in {home.root}.")


def experiment_source() -> str:
    """Returns the experiment as the command line names it; empty where it does not."""
    return click.get_current_context().meta.get(_SOURCE, "")


def named_experiment() -> Experiment | None:
    """Returns the experiment that a name or a file stands for; None where there is none any more, or none is given."""
    source = experiment_source()
    return load(source) if source in BUILT_IN or source.endswith(".py") else None


def experiment_arguments() -> tuple[str, ...]:
    """Returns the experiment and its settings as another process of `conveyor` takes them, with absolute paths."""
    meta = click.get_current_context().meta
    source = meta[_SOURCE]
    name = str(Path(source).resolve()) if source.endswith(".py") else source
    return (name, *(part for setting in meta.get(_SETTINGS, ()) for part in ("--set", setting)))


def _kept(key: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    """Returns a callback that keeps an option for the conversion of other parameters."""

    def keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        ctx.meta[key] = value

    return keep


EXPERIMENT = click.argument("experiment", type=ExperimentType())
OPTIONAL_EXPERIMENT = click.argument("experiment", type=ExperimentType(), required=False)
NAMED_EXPERIMENT = click.argument("experiment", type=ExperimentNameType())
EXPERIMENT_NAME = click.argument("experiment", type=ExperimentNameType(), required=False)
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
DATA = click.option(
    "--data", type=click.Path(path_type=Path), metavar="PATH", help="Folder of the input files, instead of a download."
)
SET = click.option(
    "--set",
    multiple=True,
    metavar="FIELD=VALUE",
    is_eager=True,
    expose_value=False,
    callback=_kept(_SETTINGS),
    help="Changes a setting, such as training.steps=300; may be given again, and the last one of a field wins.",
)


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
