"""The `conveyor` command."""

import contextlib
import dataclasses
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
from pipeline import experiments, listing, runner
from pipeline import outcome as outcomes
from pipeline.config import ConfigError, override
from pipeline.console import Console
from pipeline.fetch import CANONICAL, FetchError
from pipeline.fetch import fetch as fetch_files
from pipeline.home import Home, MetadataUnavailable

EXPERIMENT = click.argument("experiment")
HOME = click.option("--home", metavar="DIR", help="Folder of all state. [default: $CONVEYOR_HOME, or ./.conveyor]")
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
JSON = click.option(
    "--json", "as_json", is_flag=True, help="Prints one JSON object on standard output, all else on error."
)

# What can go wrong without being a bug; each says in a sentence what was wrong, where, and what to do.
FAILURES = (ConfigError, DataError, FetchError, MetadataUnavailable, OSError, runner.HomeBusy, runner.RunFailed)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="conveyor-tfx", prog_name="conveyor")
def main() -> None:
    r"""Takes labelled images to a gated, pushed, servable network.

    \b
    conveyor run mnist        fetch, ingest, validate, train, evaluate, check, push, report
    conveyor evaluate mnist   the test accuracy of the newest checkpoint or pushed model
    conveyor runs             what ran, and how it ended
    conveyor models           what is served
    conveyor doctor           what is wrong here, and how to mend it

    An EXPERIMENT is mnist, cifar10, or a Python file that sets EXPERIMENT.
    """


@main.command()
@EXPERIMENT
@SET
@HOME
@DATA
@METADATA
@JSON
def run(
    experiment: str, settings: tuple[str, ...], home: str, data: Path | None, metadata: str | None, as_json: bool
) -> None:
    r"""Runs an experiment's pipeline, from files to a pushed model.

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
    with _told_errors(), _output(as_json) as reply:
        outcome = runner.run(override(experiments.load(experiment), settings), Home.at(home, metadata), data, Console())
        _summary(outcome)
        reply(outcome.to_dict())
    sys.exit(outcome.exit_code)


@main.command()
@EXPERIMENT
@SET
@HOME
@DATA
@JSON
def evaluate(experiment: str, settings: tuple[str, ...], home: str, data: Path | None, as_json: bool) -> None:
    """Prints the test accuracy of the newest checkpoint, or of the pushed model, and stops."""
    with _told_errors(), _output(as_json) as reply:
        chosen, where = override(experiments.load(experiment), settings), Home.at(home)
        files = runner.prepare_data(chosen, where, data, Console())
        with runner.redirected(where.log("evaluate")):
            from pipeline.evaluate import evaluate as measure

            measured = measure(chosen, where, files)
        click.echo(f"{measured.what}: test accuracy {measured.accuracy:.4f} on {measured.examples:,} images")
        reply(dataclasses.asdict(measured))


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


@main.command()
@click.argument("experiment", required=False)
@HOME
@METADATA
@JSON
def runs(experiment: str | None, home: str, metadata: str | None, as_json: bool) -> None:
    """Lists what ran, the newest last, and how it ended."""
    with _told_errors(), _output(as_json) as reply:
        where = Home.at(home, metadata)
        rows = [listing.run_row(where, run) for run in listing.past_runs(where, experiment)]
        if not as_json:
            _table("runs", rows, f"Nothing has run in {where.root} yet.")
        reply(rows)


@main.command()
@click.argument("experiment", required=False)
@HOME
@JSON
def models(experiment: str | None, home: str, as_json: bool) -> None:
    """Lists the pushed versions of each model, the newest last."""
    with _told_errors(), _output(as_json) as reply:
        where = Home.at(home)
        rows = listing.model_rows(where, experiment)
        if not as_json:
            _table("models", rows, f"Nothing has been pushed in {where.root} yet.")
        reply(rows)


@main.command()
@HOME
@METADATA
@JSON
def doctor(home: str, metadata: str | None, as_json: bool) -> None:
    """Looks at the stack, the device, the data and the disk; ends with 1 if something is wrong."""
    from pipeline.doctor import examine

    with _told_errors(), _output(as_json) as reply:
        where = Home.at(home, metadata)
        with runner.redirected(Path(os.devnull)):
            findings = list(examine(where))
        for finding in findings:
            mark = click.style("ok   ", fg="green") if finding.ok else click.style("wrong", fg="red")
            click.echo(f"{mark} {finding.subject:<14} {finding.detail}")
            if not finding.ok:
                click.echo(f"{'':20} {finding.mend}")
        reply([dataclasses.asdict(finding) for finding in findings])
    sys.exit(0 if all(finding.ok for finding in findings) else outcomes.FAILED)


def _summary(outcome: outcomes.Outcome) -> None:
    lines = [("verdict", outcome.verdict)]
    if outcome.accuracy is not None:
        lines.append(("test accuracy", f"{100 * outcome.accuracy:.2f} %"))
        before = "none" if outcome.baseline is None else f"{100 * outcome.baseline:.2f} %"
        lines.append(("last blessed", before))
    lines += [("because", reason) for reason in outcome.reasons]
    if outcome.version is not None:
        lines += [("version", str(outcome.version)), ("served from", str(outcome.path))]
    if outcome.report:
        lines.append(("report", outcome.report))
    if outcome.path:
        base = Path(outcome.path).parent
        lines.append(("serve it", f"tensorflow_model_server --model_name={base.name} --model_base_path={base}"))
    click.echo()
    for name, value in lines:
        click.echo(f"  {name:<14} {value}")


def _table(title: str, rows: list[dict[str, Any]], nothing: str) -> None:
    if not rows:
        click.echo(nothing)
        return
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(
            *("" if value is None else f"{value:.4f}" if type(value) is float else str(value) for value in row.values())
        )
    console = rich.console.Console()
    if not console.is_terminal:  # a pipe has no width, and a script wants whole lines
        console.width = 250
    console.print(table)


@contextlib.contextmanager
def _output(as_json: bool) -> Iterator[Callable[[Any], None]]:
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
def _told_errors() -> Iterator[None]:
    """Turns what can go wrong into a sentence and an exit code; anything else is a bug, and keeps its traceback."""
    try:
        yield
    except FAILURES as error:
        _fail(error, outcomes.USAGE if isinstance(error, ConfigError) else outcomes.FAILED)
    except KeyboardInterrupt:
        _fail("Interrupted. Run again to go on from the last checkpoint.", outcomes.INTERRUPTED)


def _fail(message: Any, code: int) -> None:
    click.secho(f"conveyor: {message}", err=True, fg="red")
    sys.exit(code)
