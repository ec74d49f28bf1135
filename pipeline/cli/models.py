"""The verbs that look after runs and versions: runs, models, rollback, promote, lineage, gc."""

import dataclasses
from pathlib import Path
from typing import Any

import click

from conveyor.errors import ConfigError, ExitCode
from pipeline.cli.options import (
    DATA,
    EXPERIMENT_NAME,
    HOME,
    JSON,
    METADATA,
    NAMED_EXPERIMENT,
    SET,
    Chosen,
    experiment,
    experiment_name,
    is_file,
    require_known,
)
from pipeline.cli.output import Verb, reply, table, wants_json, warn
from pipeline.experiments import BUILT_IN
from pipeline.experiments.config import Experiment
from pipeline.home import listing
from pipeline.home.folders import Home
from pipeline.home.lock import locked
from serving.model_store import LabelsDamaged, StableMove, StoredModel

# Columns that a narrow terminal does without, the first ones first.
RUNS_LEFT_OUT = ("cached", "seconds", "started", "component", "reason", "version", "accuracy")
MODELS_LEFT_OUT = ("date", "megabytes", "data")


@click.command(cls=Verb)
@EXPERIMENT_NAME
@HOME
@METADATA
@JSON
def runs(experiment: str | None, home: Home) -> None:
    """List the runs and how they ended.

    \b
    conveyor runs
    conveyor runs mnist --json

    The seconds are from the first component's start to the last one's end, without a component whose process was
    killed: nobody knows when.

    \b
    Exit codes  0  listed
                1  the metadata cannot be read
                2  nothing is known of such an experiment
    """
    name = experiment_name(home, experiment)
    rows = listing.run_rows(home, name)
    require_known(home, experiment, bool(rows))
    table("runs", rows, f"Nothing{_of(name)} has run in {home.root} yet.", RUNS_LEFT_OUT)
    reply({"runs": rows})


@click.command(cls=Verb)
@EXPERIMENT_NAME
@HOME
@METADATA
@JSON
def models(experiment: str | None, home: Home) -> None:
    """List the versions of each model, and the rejected models.

    \b
    conveyor models
    conveyor models mnist --json

    \b
    stable     the version that serves
    canary     a version that is tried beside it
    previous   the version that served before; `conveyor rollback` returns to it
    kept       a version without a label
    rejected   a model that was not good enough, and never pushed

    \b
    Exit codes  0  listed
                1  the home folder cannot be read
                2  nothing is known of such an experiment
    """
    name = experiment_name(home, experiment)
    rows = listing.model_rows(home, name)
    require_known(home, experiment, bool(rows))
    digests = ("configuration", "trainer_digest")  # of use whole, and too long for a table
    shown = [{key: value for key, value in row.items() if key not in ("run", "folder", *digests)} for row in rows]
    table("models", shown, f"Nothing{_of(name)} has been pushed in {home.root} yet.", MODELS_LEFT_OUT)
    reply({"models": rows})


def _of(experiment: str | None) -> str:
    return "" if experiment is None else f" of {experiment}"


@click.command(cls=Verb)
@NAMED_EXPERIMENT
@click.option("--to", "version", type=click.IntRange(1), help="The version. [default: the previous one]")
@HOME
@JSON
def rollback(experiment: str, version: int | None, home: Home) -> ExitCode:
    """Make an earlier version stable again.

    \b
    conveyor rollback mnist
    conveyor rollback mnist --to 3

    The version stays stable over restarts, and is the baseline of the next run. Nothing is deleted; the next `conveyor
    rollback` returns to the version that was stable until now. A running `conveyor serve` is waited for.

    \b
    Exit codes  0  the version is stable
                1  the labels cannot be changed, or a server that follows fails to
                2  there is no such version
    """
    return _settle(home, _model_of(home, experiment).rollback(version), {})


def _model_of(home: Home, experiment: str) -> StoredModel:
    """Returns the pushed model of an experiment, whose file need not be there any more.

    Raises:
      ConfigError: it has none, or several.
    """
    if is_file(experiment) or experiment in BUILT_IN:
        chosen = home.experiments.choose(experiment) if is_file(experiment) else home.experiments.find(experiment)
        return home.models.pushed(chosen.experiment.serving.model_name if chosen else experiment)
    found = listing.models_of(home, experiment)
    require_known(home, experiment, bool(found))
    called_like_it = [model for model in found if model.name == experiment]
    if len(found) > 1 and not called_like_it:
        names = ", ".join(model.name for model in found)
        raise ConfigError(f"Versions of {experiment} are in several models: name one of {names}.")
    return (called_like_it or found or [home.models.pushed(experiment)])[0]


@click.command(cls=Verb)
@experiment
@click.option("--check", is_flag=True, help="Compares the two on a running server first, and promotes a good canary.")
@click.option("--images", type=click.IntRange(1), default=2000, show_default=True, help="Test images for --check.")
@click.option("--target", help="host:port of the server. [default: the `conveyor serve` that runs]")
@SET
@HOME
@DATA
@JSON
def promote(chosen: Chosen, check: bool, images: int, target: str | None, home: Home) -> ExitCode:
    """Make the canary stable.

    \b
    conveyor retrain mnist --set serving.canary=true
    conveyor promote mnist --check

    While there is a canary, requests with the label stable go to the one, with the label canary to the other, and
    without a label to the highest version. --check sends test images one by one to both. It promotes if no request to
    either failed, and if the canary's accuracy is not below gate.min_accuracy, nor below the other's by more than
    gate.tolerance.

    \b
    Exit codes  0  promoted
                1  the server did not answer
                2  a setting is wrong, there is no canary, or no server runs
                3  the canary was not good enough; nothing was changed
    """
    model = home.models.pushed(chosen.experiment.serving.model_name)
    if not check or model.labels().canary is None:
        return _settle(home, model.promote(), {})
    comparison = _compare(home, chosen.experiment, images, target, chosen.data)
    sides = {label: _side_row(label, side) for label, side in comparison.sides.items()}
    table("test images, one a request; latencies in ms", list(sides.values()), "")
    reasons = comparison.reasons(chosen.experiment.gate)
    if not reasons:
        return _settle(home, model.promote(compared=comparison.canary.version), sides)
    click.echo(f"Nothing was changed: {'; '.join(reasons)}.")
    reply({"verdict": "rejected", "reasons": reasons, "sides": sides})
    return ExitCode.REJECTED


def _side_row(label: str, side: Any) -> dict[str, Any]:
    return {"label": label, "version": side.version, "accuracy": side.accuracy} | dataclasses.asdict(side)


def _compare(home: Home, experiment: Experiment, count: int, target: str | None, data: Path | None) -> Any:
    from pipeline.cli.serving import explained, require_address
    from pipeline.data.inputs import input_folder
    from pipeline.release import promotion, rollout
    from pipeline.run.console import Console, redirected

    address = target or rollout.endpoint(home, experiment.serving.model_name)
    if address is None:
        raise ConfigError(
            "No `conveyor serve` follows the labels of this model: start one, or name a server with --target."
        )
    model = experiment.serving.model_name
    require_address(address, model)
    folder = input_folder(experiment, home, data, Console().note)
    with redirected(home.log("promote")):
        from pipeline.run.evaluate import test_split

        pixels, truth = test_split(experiment, folder)
    with explained(address, model, []):
        return promotion.compare(address, model, pixels[:count], truth[:count])


def _settle(home: Home, move: StableMove, sides: dict[str, Any]) -> ExitCode:
    """Waits until the running servers have made the change, prints what they answer with, and returns the exit code."""
    from pipeline.release import rollout

    before = "" if move.before is None else f" in place of {move.before}"
    change = " already" if move.before == move.after else before
    click.echo(f"{move.model}: version {move.after} is stable{change}.")
    settled = rollout.settle(home, move.model)
    for server in settled:
        if server.made:
            click.echo(f"{server.target} answers with it.")
        if not server.runs:
            warn(server.problem)
        elif not server.made:
            why = server.problem or f"see {home.logs}/serve-{server.target.rpartition(':')[2]}.log."
            warn(f"{server.target} does not answer with it: {why}")
    if not settled:
        click.echo("No running `conveyor serve` of this home has the model.")
    elif move.before not in (None, move.after) and any(server.runs and not server.made for server in settled):
        warn(f"`conveyor rollback {move.model} --to {move.before}{home.option}` takes it back.")
    servers = [dataclasses.asdict(server) for server in settled]
    reply({"verdict": "moved", **dataclasses.asdict(move), "servers": servers, "sides": sides})
    return ExitCode.SUCCESS if all(server.made or not server.runs for server in settled) else ExitCode.FAILED


@click.command(cls=Verb)
@NAMED_EXPERIMENT
@click.argument("version", type=click.IntRange(1), required=False)
@HOME
@METADATA
@JSON
def lineage(experiment: str, version: int | None, home: Home) -> None:
    """Print where a version came from, down to its input files.

    \b
    conveyor lineage mnist        of the stable version
    conveyor lineage mnist 3

    All of it comes from ML Metadata: artifacts, the executions that made them, and what those took.

    \b
    Exit codes  0  printed
                1  the metadata cannot be read
                2  there is no such version
    """
    import rich.console
    import rich.tree

    from pipeline.home import metadata_store
    from pipeline.home.lineage import of_version

    model = _model_of(home, experiment)
    number = version or model.stable()
    assert number is not None  # there is a version, so one of them is stable
    origin = of_version(metadata_store.connect(home), model.name, number)
    if not wants_json():
        tree = rich.tree.Tree(f"{model.name} version {number}")
        _grow(tree, origin)
        # As wide as its lines: a checksum is only of use whole.
        rich.console.Console(width=1000).print(tree, soft_wrap=True, highlight=False, markup=False)
    reply(dataclasses.asdict(origin))


def _grow(tree: Any, origin: Any) -> None:
    facts = "".join(f", {name} {value}" for name, value in origin.facts.items())
    branch = tree.add(f"{origin.name} #{origin.artifact}{facts}")
    if origin.repeated:
        branch.add(f"by {origin.component} #{origin.execution}, as above")
        return
    made = branch.add(f"by {origin.component} #{origin.execution}, {origin.finished}, run {origin.run}")
    for name, digest in origin.files.items():
        made.add(f"{name}  SHA-256 {digest}")
    for source in origin.inputs:
        _grow(made, source)
    if origin.further is not None:
        made.add(f"and so on: `conveyor lineage` of version {origin.further} goes further back")


@click.command(cls=Verb)
@EXPERIMENT_NAME
@click.option("--keep", type=click.IntRange(1), help="Versions to keep of each model. [default: serving.keep_versions]")
@click.option("--yes", is_flag=True, help="Removes them; without this they are only shown.")
@HOME
@METADATA
@JSON
def gc(experiment: str | None, keep: int | None, yes: bool, home: Home) -> None:
    """Remove old versions, and what only they needed.

    \b
    conveyor gc                     shows what would be removed
    conveyor gc mnist --keep 3 --yes

    Kept are the newest versions, every version with a label (stable, canary, previous) or in a running `conveyor
    serve`, what their runs made, what the next run takes from the cache, and the checkpoints of a training that has not
    finished; of a trial, where its search is the newest. Reports, logs and data are never removed.

    \b
    Exit codes  0  removed or shown
                1  a folder cannot be removed, or a run is in progress
                2  nothing is known of such an experiment
    """
    from pipeline.home import gc as collector
    from pipeline.release.server_folder import served_versions

    name = experiment_name(home, experiment)
    if name is not None:
        found = listing.past_runs(home, name) or listing.models_of(home, name)
        require_known(home, experiment, bool(found))
    if not home.root.exists():
        click.echo(f"Nothing is in {home.root} yet.")
        reply({"removed": False, "folders": []})
        return
    with locked(home):
        removals = (collector.collect if yes else collector.plan)(home, keep, name, lambda: served_versions(home))
    for model in home.models.models():
        try:
            model.labels()
        except LabelsDamaged as damaged:
            warn(f"Every version of {model.name} is kept: {damaged}")
    rows = [dataclasses.asdict(removal) for removal in removals]
    table("removed" if yes else "would be removed; --yes does it", rows, "There is nothing to remove.")
    click.echo(f"folders: {len(rows)}, together {sum(row['megabytes'] for row in rows):,.1f} MB")
    reply({"removed": yes, "folders": rows})


VERBS = (runs, models, rollback, promote, lineage, gc)
