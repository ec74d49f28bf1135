"""The `conveyor` command."""

import dataclasses
import os
import sys
from pathlib import Path

import click

from pipeline import cli_serving, experiments, listing, runner
from pipeline import outcome as outcomes
from pipeline.config import override
from pipeline.console import Console
from pipeline.fetch import CANONICAL
from pipeline.fetch import fetch as fetch_files
from pipeline.home import Home
from pipeline.terminal import EXPERIMENT, HOME, JSON, output, table, told_errors

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


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="conveyor-tfx", prog_name="conveyor")
def main() -> None:
    """Takes labelled images to a gated, pushed, servable network.

    \b
    conveyor run mnist        fetch, ingest, validate, train, evaluate, check, push, report
    conveyor evaluate mnist   the test accuracy of the newest checkpoint or pushed model
    conveyor runs             what ran, and how it ended
    conveyor models           what is served
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
@JSON
def evaluate(experiment: str, settings: tuple[str, ...], home: str, data: Path | None, as_json: bool) -> None:
    """Prints the test accuracy of the newest checkpoint, or of the pushed model, and stops."""
    with told_errors(), output(as_json) as reply:
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
        rows = [listing.run_row(where, run) for run in listing.past_runs(where, experiment)]
        if not as_json:
            table("runs", rows, f"Nothing has run in {where.root} yet.")
        reply(rows)


@main.command()
@click.argument("experiment", required=False)
@HOME
@JSON
def models(experiment: str | None, home: str, as_json: bool) -> None:
    """Lists the pushed versions of each model, the newest last."""
    with told_errors(), output(as_json) as reply:
        where = Home.at(home)
        rows = listing.model_rows(where, experiment)
        if not as_json:
            table("models", rows, f"Nothing has been pushed in {where.root} yet.")
        reply(rows)


@main.command()
@HOME
@METADATA
@JSON
def doctor(home: str, metadata: str | None, as_json: bool) -> None:
    """Looks at the stack, the device, the data and the disk; ends with 1 if something is wrong."""
    from pipeline.doctor import examine

    with told_errors(), output(as_json) as reply:
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
        lines.append(("serve it", f"conveyor serve {Path(outcome.path).parent.name}"))
    click.echo()
    for name, value in lines:
        click.echo(f"  {name:<14} {value}")


for verb in cli_serving.VERBS:
    main.add_command(verb)
