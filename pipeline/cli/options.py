"""What the verbs of the command share: options, tables, JSON, and errors as sentences."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import rich.box
import rich.console
import rich.table

from components.image_example_gen.readers import DataError
from pipeline.data.fetch import FetchError
from pipeline.experiments.config import ConfigError
from pipeline.home import outcome as outcomes
from pipeline.home.folders import MetadataUnavailable
from pipeline.release.serve import ServeFailed
from pipeline.run import runner
from pipeline.schedule.daemon import AlreadyScheduled
from pipeline.schedule.notify import EVENTS, Notifier
from serving.client import ServingError
from serving.model_store.labels import LabelsDamaged

EXPERIMENT = click.argument("experiment")
HOME = click.option("--home", metavar="DIR", help="Folder of all state. [default: $CONVEYOR_HOME, or ./.conveyor]")
JSON = click.option(
    "--json", "as_json", is_flag=True, help="Prints one JSON object on standard output, all else on error."
)

METADATA = click.option(
    "--metadata",
    metavar="URL",
    help="mysql:// or postgresql:// address of the metadata. [default: $CONVEYOR_METADATA, or SQLite in the home]",
)
DATA = click.option(
    "--data", type=click.Path(path_type=Path), metavar="PATH", help="Folder of the input files, instead of a download."
)
SET = click.option(
    "--set", "settings", multiple=True, metavar="FIELD=VALUE", help="Changes a setting; --set training.steps=300."
)

NOTIFY = click.option(
    "--notify",
    multiple=True,
    metavar="URL",
    help="Tells an apprise address how it ended. [default: those in $CONVEYOR_NOTIFY, which keeps passwords out of ps]",
)
NOTIFY_ON = click.option(
    "--notify-on", multiple=True, type=click.Choice(EVENTS), help="What is told, and given to the hook. [default: all]"
)
HOOK = click.option("--hook", metavar="COMMAND", help="Is run at the end, with the outcome as JSON on standard input.")

# What can go wrong without being a bug; each says in a sentence what was wrong, where, and what to do.
FAILURES = (
    AlreadyScheduled, ConfigError, DataError, FetchError, LabelsDamaged, MetadataUnavailable, OSError, runner.HomeBusy,
    runner.RunFailed, ServeFailed, ServingError,
)  # fmt: skip


def notifier(urls: tuple[str, ...], events: tuple[str, ...], hook: str | None) -> Notifier:
    """Returns whom to tell: the addresses given, or those in $CONVEYOR_NOTIFY, apart by spaces."""
    return Notifier(urls or tuple(os.environ.get("CONVEYOR_NOTIFY", "").split()), hook, events or EVENTS)


def table(title: str, rows: list[dict[str, Any]], nothing: str) -> None:
    """Prints rows, which all have the same keys; without any, a sentence."""
    if not rows:
        click.echo(nothing)
        return
    shown = rich.table.Table(box=rich.box.SIMPLE_HEAD, title=title, title_justify="left")
    for column in rows[0]:
        shown.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        shown.add_row(
            *("" if value is None else f"{value:.4f}" if type(value) is float else str(value) for value in row.values())
        )
    console = rich.console.Console()
    if not console.is_terminal:  # a pipe has no width, and a script wants whole lines
        console.width = 250
    console.print(shown)


@contextlib.contextmanager
def output(as_json: bool) -> Iterator[Callable[[Any], None]]:
    """Yields a function that prints a reply as JSON, if that is wanted; all else then goes to standard error."""
    if not as_json:
        yield lambda _: None
        return
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    replies: list[Any] = []
    try:
        yield replies.append
    except FAILURES as error:
        replies.append({"verdict": "failed", "error": str(error)})
        raise
    finally:
        sys.stdout.flush()
        os.dup2(saved, 1)
        os.close(saved)
        for value in replies:
            click.echo(json.dumps(value, indent=1))


@contextlib.contextmanager
def told_errors() -> Iterator[None]:
    """Turns what can go wrong into a sentence and an exit code; anything else is a bug, and keeps its traceback."""
    try:
        yield
    except FAILURES as error:
        _fail(error, exit_code(error))
    except runner.RunStopped as error:
        _fail(error, outcomes.INTERRUPTED)
    except KeyboardInterrupt:
        _fail("Interrupted. Run again to go on from the last checkpoint.", outcomes.INTERRUPTED)


def exit_code(error: Exception) -> int:
    """Returns what the process should end with after one of `FAILURES`."""
    return outcomes.USAGE if isinstance(error, ConfigError) else outcomes.FAILED


def _fail(message: Any, code: int) -> None:
    click.secho(f"conveyor: {message}", err=True, fg="red")
    sys.exit(code)
