"""The `conveyor` command."""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from pipeline import experiments
from pipeline.cli import models, schedule, serving
from pipeline.cli.options import (
    DATA,
    EXPERIMENT,
    FAILURES,
    HOME,
    HOOK,
    JSON,
    METADATA,
    NOTIFY,
    NOTIFY_ON,
    SET,
    exit_code,
    notifier,
    output,
    table,
    told_errors,
)
from pipeline.data import add as adding
from pipeline.data.fetch import CANONICAL
from pipeline.data.fetch import fetch as fetch_files
from pipeline.experiments.config import override
from pipeline.home import backup, listing
from pipeline.home import outcome as outcomes
from pipeline.home.folders import Home
from pipeline.run import runner
from pipeline.run.console import Console
from pipeline.schedule.notify import Notifier
from trainer import processes


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="conveyor-tfx", prog_name="conveyor")
def main() -> None:
    """Takes labelled images to a gated, pushed, servable network.

    \b
    conveyor run mnist        fetch, ingest, validate, train, evaluate, check, push, report
    conveyor add mnist PATH   take new labelled images into the data
    conveyor retrain mnist    run again if there is anything new
    conveyor schedule mnist   retrain by the clock
    conveyor evaluate mnist   the test accuracy of the newest checkpoint or pushed model
    conveyor runs             what ran, and how it ended
    conveyor models           every version: which one serves, and what it was made of
    conveyor rollback mnist   make an earlier version serve again
    conveyor promote mnist    make the canary serve
    conveyor lineage mnist    the way back from a version to its input files
    conveyor gc               remove what no kept version needs
    conveyor serve            serve every pushed model, over gRPC and REST, with a page to try it
    conveyor predict mnist IMAGE...   the classes of picture files, from a server
    conveyor loadtest mnist   how fast a server answers
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
    with told_errors(), output(as_json) as reply:
        outcome = runner.run(override(experiments.load(experiment), settings), Home.at(home, metadata), data, Console())
        _summary(outcome)
        reply(outcome.to_dict())
    sys.exit(outcome.exit_code)


@main.command()
@EXPERIMENT
@SET
@HOME
@DATA
@METADATA
@NOTIFY
@NOTIFY_ON
@HOOK
@JSON
@click.option("--end-with-parent", is_flag=True, hidden=True)
def retrain(
    experiment: str,
    settings: tuple[str, ...],
    home: str,
    data: Path | None,
    metadata: str | None,
    notify: tuple[str, ...],
    notify_on: tuple[str, ...],
    hook: str | None,
    as_json: bool,
    end_with_parent: bool,
) -> None:
    """Runs an experiment's pipeline if there is anything new, and leaves everything as it is if not.

    \b
    conveyor add mnist ./monday
    conveyor retrain mnist --set training.warm_steps=500

    New is what the last completed run has not seen: spans, settings, code; by content, not by time. What was ingested
    before comes from the cache. The new model must hold its own against the one that serves, on the same test split.

    \b
    Ends with  0  the model was pushed
               1  something failed; the message says what
               2  the command or a setting is wrong
               3  the model was not good enough; what was served before stays
               4  there is nothing new
    """
    if end_with_parent:
        processes.end_with_parent()
    with told_errors(), output(as_json) as reply:
        chosen = override(experiments.load(experiment), settings)
        told = notifier(notify, notify_on, hook)
        with _told_of_failure(told, chosen.name):
            outcome = runner.run(chosen, Home.at(home, metadata), data, Console(), only_new=True)
        _summary(outcome)
        reply(outcome.to_dict())
        _warn(told.tell({"experiment": chosen.name, **outcome.to_dict()}))
    sys.exit(outcome.exit_code)


@contextlib.contextmanager
def _told_of_failure(told: Notifier, experiment: str) -> Iterator[None]:
    try:
        yield
    except FAILURES as error:
        outcome = {"experiment": experiment, "verdict": "failed", "error": str(error)}
        _warn(told.tell(outcome | {"exit_code": exit_code(error)}))
        raise


def _warn(problems: list[str]) -> None:
    for problem in problems:
        click.secho(f"conveyor: {problem}", err=True, fg="yellow")


@main.command()
@EXPERIMENT
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--date", metavar="DATE", help="Names the span by a date, 2026-11-22, instead of the next number.")
@SET
@HOME
@DATA
@JSON
def add(
    experiment: str,
    path: Path,
    date: str | None,
    settings: tuple[str, ...],
    home: str,
    data: Path | None,
    as_json: bool,
) -> None:
    """Adds a folder of labelled images to an experiment's data, as its next span.

    \b
    conveyor add mnist ./monday
    conveyor add my_experiment.py ./monday --data ./images

    PATH holds an IDX pair, CIFAR-10 binary files, or class folders of PNG and JPEG files. Every file is read whole
    before anything is added; the span then appears by one rename. Images that are in the test split are refused.

    \b
    Ends with  0  added
               1  a file is not as it should be; the message says which, and nothing was added
               4  the same files were added before
    """
    with told_errors(), output(as_json) as reply:
        chosen = override(experiments.load(experiment), settings)
        root = runner.prepare_data(chosen, Home.at(home), data, Console())
        added = adding.add(chosen.dataset, root, path, date)
        counts = ", ".join(f"{name} {count:,}" for name, count in added.by_class.items())
        said = "is" if added.new else "was there already:"
        click.echo(f"{added.span} {said} {added.folder}: {added.images:,} images ({counts})")
        reply(dataclasses.asdict(added))
    sys.exit(0 if added.new else outcomes.NOTHING_NEW)


@main.command()
@EXPERIMENT
@SET
@HOME
@DATA
@JSON
def evaluate(experiment: str, settings: tuple[str, ...], home: str, data: Path | None, as_json: bool) -> None:
    """Prints the test accuracy of the newest checkpoint, or of the pushed model, and stops."""
    with told_errors(), output(as_json) as reply:
        chosen, where = override(experiments.load(experiment), settings), Home.at(home)
        files = runner.prepare_data(chosen, where, data, Console())
        with runner.redirected(where.log("evaluate")):
            from pipeline.run.evaluate import evaluate as measure

            measured = measure(chosen, where, files)
        click.echo(f"{measured.what}: test accuracy {measured.accuracy:.4f} on {measured.examples:,} images")
        reply(dataclasses.asdict(measured))


@main.command()
@click.argument("name", type=click.Choice(list(CANONICAL)))
@HOME
@DATA
def fetch(name: str, home: str, data: Path | None) -> None:
    """Brings a data set's canonical files, verified, into the home folder."""
    with told_errors():
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
    with told_errors(), output(as_json) as reply:
        where = Home.at(home, metadata)
        past = listing.past_runs(where, experiments.name_of(experiment))
        rows = [listing.run_row(where, run) for run in past]
        if not as_json:
            table("runs", rows, f"Nothing has run in {where.root} yet.")
        reply(rows)


@main.command()
@HOME
@METADATA
@JSON
@click.option(
    "--restore-metadata", is_flag=True, help="Returns to the newest copy of the metadata's SQLite file first."
)
def doctor(home: str, metadata: str | None, as_json: bool, restore_metadata: bool) -> None:
    """Looks at the stack, the device, the data and the disk; ends with 1 if something is wrong."""
    from pipeline.cli.doctor import examine

    with told_errors(), output(as_json) as reply:
        where = Home.at(home, metadata)
        if restore_metadata:
            with runner.locked(where):
                click.echo(f"The metadata are those of {backup.restore(where).name} again.")
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
        lines.append(("serving before", before))
    lines += [("because", reason) for reason in outcome.reasons]
    lines += [("drift", sentence) for sentence in outcome.drift]
    if outcome.version is not None:
        named = f" ({outcome.label})" if outcome.label else ""
        lines += [("version", f"{outcome.version}{named}"), ("served from", str(outcome.path))]
    if outcome.report:
        lines.append(("report", outcome.report))
    if outcome.path:
        lines.append(("serve it", f"conveyor serve {Path(outcome.path).parent.name}"))
    click.echo()
    for name, value in lines:
        click.echo(f"  {name:<14} {value}")


for verb in (*models.VERBS, *schedule.VERBS, *serving.VERBS):
    main.add_command(verb)
