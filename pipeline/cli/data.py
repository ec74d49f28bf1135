"""The verbs that bring data, look at it, and take it out: fetch, check, add, remove."""

import dataclasses
from pathlib import Path

import click

from conveyor.errors import ExitCode
from conveyor.words import counted
from pipeline.cli.options import DATA, HOME, JSON, SET, Chosen, experiment, experiment_or_folder
from pipeline.cli.output import Verb, error, reply, table, warn
from pipeline.data import add as adding
from pipeline.data import check as checking
from pipeline.data import fetch as fetching
from pipeline.data import remove as removing
from pipeline.data.inputs import input_folder, input_place
from pipeline.data.published import CANONICAL
from pipeline.home.folders import Home
from pipeline.home.lock import locked
from pipeline.run.console import Console, quiet_libraries


@click.command(cls=Verb)
@click.argument("name", type=click.Choice(list(CANONICAL)))
@HOME
@DATA
@JSON
def fetch(name: str, home: Home, data: Path | None) -> None:
    """Download the canonical files of a data set, and verify them.

    \b
    conveyor fetch cifar10
    conveyor fetch mnist --data ./downloads

    With --data the files come from a folder of yours, and are verified all the same.

    \b
    Exit codes  0  the files are there, and their checksums are right
                1  they could not be had, or are not the published ones
                2  the command is wrong
    """
    with locked(home):
        folder = fetching.fetch(name, home.data, data)
    click.echo(f"{name} is in {folder}, and its checksums are right.")
    reply({"name": name, "folder": str(folder)})


@click.command(cls=Verb)
@experiment
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--date",
    metavar="DATE",
    help="Names the span by a date, 2026-11-22, instead of the next number; all spans of a data set, or none.",
)
@SET
@HOME
@DATA
@JSON
def add(chosen: Chosen, path: Path, date: str | None, home: Home) -> ExitCode:
    """Add labelled images to an experiment's data, as its next span.

    \b
    conveyor add mnist ./monday
    conveyor add my_experiment.py ./monday --data ./images

    PATH holds an IDX pair, CIFAR-10 binary files, or class folders of PNG and JPEG files. Every file is read whole
    before anything is added; the span then appears by one rename. Images that are in the test split are refused.

    \b
    Exit codes  0  added
                1  a file is wrong; the message says which, nothing was added
                2  the command or a setting is wrong
                4  the same files were added before
    """
    folder = input_folder(chosen.experiment, home, chosen.data, Console().note)
    with quiet_libraries():
        added = adding.add(chosen.experiment, folder, path, date)
    chosen.remember(Console().note)
    counts = ", ".join(f"{name} {count:,}" for name, count in added.by_class.items())
    for warning in added.warnings:
        warn(warning)
    state = "is" if added.new else "was there already:"
    click.echo(f"{added.span} {state} {added.folder}: {counted(added.images, 'image')} ({counts})")
    reply(dataclasses.asdict(added))
    return ExitCode.SUCCESS if added.new else ExitCode.NOTHING_NEW


@click.command(cls=Verb)
@experiment
@click.argument("span")
@HOME
@DATA
@JSON
def remove(chosen: Chosen, span: str, home: Home) -> None:
    """Take a span out of an experiment's data.

    \b
    conveyor remove mnist span-3
    conveyor remove my_experiment.py 2026-11-22 --data ./images

    The span is moved into the folder .removed beside the others, whole and at once. The next `conveyor retrain` trains
    without it. Versions that were trained on it stay, with their lineage; what to do with them is yours to decide.

    \b
    Exit codes  0  taken out
                1  it cannot be moved, or a run is in progress
                2  there is no such span, or the command is wrong
    """
    with locked(home):
        removed = removing.remove(input_place(chosen.experiment, home, chosen.data), span)
    click.echo(f"{span} is taken out, and kept in {removed.kept}.")
    model = home.models.model(chosen.experiment.serving.model_name)
    trained = [v for v in model.versions() if (record := model.record(v)) is not None and span in record.parts]
    if trained:
        click.echo(
            f"Trained on a span of that name, and still there: {', '.join(f'version {v}' for v in trained)} of "
            f"{model.name}. A warm start from one carries on what it learnt there; training.warm_steps=0 does not."
        )
    reply({**dataclasses.asdict(removed), "versions": trained})


@click.command(cls=Verb)
@experiment_or_folder
@SET
@HOME
@DATA
@JSON
def check(chosen: Chosen, home: Home) -> ExitCode:
    """Read every file of an experiment's data, and list what is wrong.

    \b
    conveyor check my_experiment.py --data ./images
    conveyor check --data ./flowers

    A run would stop at the same files. Spans are looked at whether they are in the window of training or not. Images
    that are there with two labels are named, and are no reason to stop.

    \b
    Exit codes  0  every file can be used
                1  some cannot; each is listed with its reason
                2  the command or a setting is wrong
    """
    if chosen.choice.record.definition:
        click.echo(chosen.description)
    with quiet_libraries():
        folder = input_folder(chosen.experiment, home, chosen.data, Console().note)
        checks = checking.check(chosen.experiment, folder)
    rows = [
        {
            "part": c.part,
            "images": None if c.problems and not c.images else c.images,  # they were not counted
            "problems": len(c.problems),
            "folder": c.folder,
        }
        for c in checks
    ]
    table("data", rows, "")
    for warning in (warning for part in checks for warning in part.warnings):
        warn(warning)
    for problem in (problem for part in checks for problem in part.problems):
        error(problem)
    uncounted = {"images": None, "by_class": None}
    found = [dataclasses.asdict(c) | (uncounted if c.problems and not c.images else {}) for c in checks]
    reply({"parts": found})
    return ExitCode.FAILED if any(part.problems for part in checks) else ExitCode.SUCCESS


VERBS = (fetch, check, add, remove)
