"""The `conveyor` command."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import click

from pipeline import experiments, runner
from pipeline.config import ConfigError, override
from pipeline.console import Console
from pipeline.fetch import CANONICAL, FetchError
from pipeline.fetch import fetch as fetch_files
from pipeline.home import Home

HOME = click.option("--home", metavar="DIR", help="Folder of all state. [default: $CONVEYOR_HOME, or ./.conveyor]")
METADATA = click.option(
    "--metadata",
    metavar="URL",
    help="mysql:// or postgresql:// address of the metadata store. [default: $CONVEYOR_METADATA, or SQLite in the home]",
)
DATA = click.option(
    "--data", type=click.Path(path_type=Path), metavar="PATH", help="Folder of the input files, instead of a download."
)
SET = click.option(
    "--set", "settings", multiple=True, metavar="FIELD=VALUE", help="Changes a setting; --set training.steps=300."
)
JSON = click.option("--json", "as_json", is_flag=True, help="Prints one JSON object on standard output, all else on error.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="conveyor-tfx", prog_name="conveyor")
def main() -> None:
    """Takes labelled images to a gated, pushed, servable network.

    \b
    conveyor run mnist        fetch, ingest, validate, train, evaluate, check, push, report
    conveyor evaluate mnist   the test accuracy of the newest checkpoint or pushed model
    conveyor runs             what ran, and how it ended
    conveyor models           what is served
    conveyor doctor           what is wrong here, and how to mend it

    An EXPERIMENT is mnist, cifar10, or a Python file that sets EXPERIMENT.
    """


@main.command()
@click.argument("experiment")
@SET
@HOME
@DATA
@METADATA
@JSON
def run(
    experiment: str, settings: tuple[str, ...], home: str, data: Path | None, metadata: str | None, as_json: bool
) -> None:
    """Runs an experiment's pipeline, from files to a pushed model.

    \b
    conveyor run mnist
    conveyor run mnist --set training.steps=300 --set gate.min_accuracy=0.9
    conveyor run my_experiment.py --data ./images

    \b
    Ends with  0  the model was pushed, or nothing has changed since it was
               1  something failed; the message says what
               2  the command or a setting is wrong
               3  the model was not good enough; what was served before stays
    """
    with _told_errors(), _output(as_json) as out:
        chosen = override(experiments.load(experiment), settings)
        outcome = runner.run(chosen, Home.at(home, metadata), data, Console())
        _summary(outcome)
        if as_json:
            json.dump(runner.to_json(outcome), out)
            out.write("\n")
    sys.exit(outcome.exit_code)


@main.command()
@click.argument("name", type=click.Choice(list(CANONICAL)))
@HOME
@DATA
def fetch(name: str, home: str, data: Path | None) -> None:
    """Brings a data set's canonical files, verified, into the home folder."""
    with _told_errors():
        where = Home.at(home)
        with runner.locked(where):
            folder = fetch_files(name, where.data, data)
        click.echo(f"{name} is in {folder}, and its checksums are right.")


def _summary(outcome: runner.Outcome) -> None:
    click.echo(f"{outcome.verdict}: {outcome}")


@contextlib.contextmanager
def _output(as_json: bool) -> Iterator[IO[str]]:
    """Yields where a JSON reply goes: standard output, and everything else that is printed to standard error then."""
    sys.stdout.flush()
    saved = os.dup(1)
    if as_json:
        os.dup2(2, 1)
    with os.fdopen(saved, "w") as out:
        try:
            yield out
        finally:
            sys.stdout.flush()
            os.dup2(saved, 1)


@contextlib.contextmanager
def _told_errors() -> Iterator[None]:
    """Turns what can go wrong into a sentence and an exit code; anything else is a bug, and keeps its traceback."""
    try:
        yield
    except ConfigError as error:
        _fail(error, runner.USAGE)
    except (FetchError, runner.HomeBusy, runner.RunFailed) as error:
        _fail(error, runner.FAILED)
    except KeyboardInterrupt:
        _fail("Interrupted. Run again to go on from the last checkpoint.", runner.INTERRUPTED)


def _fail(message: Any, code: int) -> None:
    click.secho(f"conveyor: {message}", err=True, fg="red")
    sys.exit(code)
