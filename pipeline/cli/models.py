"""The verbs of `conveyor` that look after versions."""

import dataclasses
import sys
from typing import Any

import click
import rich.console
import rich.tree

from pipeline import experiments
from pipeline.cli.options import DATA, EXPERIMENT, HOME, JSON, METADATA, SET, output, table, told_errors
from pipeline.experiments.config import ConfigError, Experiment, override
from pipeline.home import listing
from pipeline.home import outcome as outcomes
from pipeline.home.folders import Home
from pipeline.release import promotion as moving
from pipeline.release import rollout
from pipeline.run import runner
from pipeline.run.console import Console


@click.command()
@click.argument("experiment", required=False)
@HOME
@METADATA
@JSON
def models(experiment: str | None, home: str, metadata: str | None, as_json: bool) -> None:
    """Lists the versions of each model, and the models that were turned away.

    \b
    serving    what clients get: the label stable
    canary     tried beside it: the label canary
    previous   served before; `conveyor rollback` returns to it
    kept       none of these
    rejected   not good enough, and never pushed
    """
    with told_errors(), output(as_json) as reply:
        where = Home.at(home, metadata)
        rows = listing.model_rows(where, experiments.name_of(experiment))
        if not as_json:
            shown = [{name: value for name, value in row.items() if name not in ("run", "folder")} for row in rows]
            table("models", shown, f"Nothing has been pushed in {where.root} yet.")
        reply(rows)


@click.command()
@EXPERIMENT
@click.option("--to", "version", type=click.IntRange(1), help="The version; else the one that served before.")
@HOME
@JSON
def rollback(experiment: str, version: int | None, home: str, as_json: bool) -> None:
    """Makes an earlier version serve again, at once.

    \b
    conveyor rollback mnist
    conveyor rollback mnist --to 3

    It stays so: over restarts, and as the model that the next one has to beat. Nothing is deleted; the next
    `conveyor rollback` goes back to what served until now. A `conveyor serve` that runs is waited for.
    """
    with told_errors(), output(as_json) as reply:
        where, chosen = Home.at(home), experiments.load(experiment)
        _moved(where, moving.rollback(where, chosen.serving.model_name, version), reply)


@click.command()
@EXPERIMENT
@click.option("--check", is_flag=True, help="Compares the two on a running server first, and promotes if it is good.")
@click.option("--images", type=click.IntRange(1), default=2000, show_default=True, help="Test images for --check.")
@click.option("--target", help="host:port of the server. [default: the `conveyor serve` that runs]")
@SET
@HOME
@DATA
@JSON
def promote(
    experiment: str,
    check: bool,
    images: int,
    target: str | None,
    settings: tuple[str, ...],
    home: str,
    data: Any,
    as_json: bool,
) -> None:
    """Makes the canary the version that serves.

    \b
    conveyor retrain mnist --set serving.canary=true
    conveyor promote mnist --check

    While there is a canary, clients that ask for the label stable get the one, for the label canary the other, and
    without a label, as TensorFlow Serving has it, the higher number. --check sends test images one by one to both, and
    promotes if the canary's accuracy is not below the other's by more than gate.tolerance and no request failed.

    \b
    Ends with  0  promoted
               1  the server did not answer
               3  the canary was not good enough; nothing was changed
    """
    with told_errors(), output(as_json) as reply:
        where, chosen = Home.at(home), override(experiments.load(experiment), settings)
        good, sides = _checked(where, chosen, images, target, data) if check else (True, {})
        if good:
            compared = sides["canary"]["version"] if sides else None
            _moved(where, moving.promote(where, chosen.serving.model_name, compared), reply, sides)
        else:
            click.echo("The canary is not good enough, so nothing was changed.")
            reply({"verdict": "rejected", "sides": sides})
    sys.exit(0 if good else outcomes.NOT_BLESSED)


def _checked(
    home: Home, experiment: Experiment, count: int, target: str | None, data: Any
) -> tuple[bool, dict[str, dict[str, Any]]]:
    from pipeline.run.evaluate import test_split

    address = target or rollout.endpoint(home)
    if address is None:
        raise ConfigError("No `conveyor serve` runs on this home folder: start one, or name a server with --target.")
    pixels, truth = test_split(experiment, runner.prepare_data(experiment, home, data, Console()))
    sides = moving.compare(address, experiment.serving.model_name, pixels[:count], truth[:count])
    rows = [{"label": label, **dataclasses.asdict(side)} for label, side in sides.items()]
    table(f"{min(count, len(pixels)):,} test images, one a request, latencies in ms", rows, "")
    stable, canary = sides["stable"], sides["canary"]
    good = canary.errors == 0 and canary.accuracy >= stable.accuracy - experiment.gate.tolerance
    return good, {row["label"]: row for row in rows}


def _moved(home: Home, move: moving.Move, reply: Any, sides: dict[str, dict[str, Any]] | None = None) -> None:
    target = rollout.settle(home, move.model)
    before = "" if move.before is None else f" in place of {move.before}"
    click.echo(f"{move.model}: version {move.after} serves{before}.")
    if target:
        click.echo(f"{target} answers with it.")
    reply({"verdict": "moved", **dataclasses.asdict(move), "target": target, "sides": sides or {}})


@click.command()
@click.argument("experiment", required=False)
@click.option("--keep", type=click.IntRange(1), help="Versions to keep of each model. [default: serving.keep_versions]")
@click.option("--yes", is_flag=True, help="Does it; without this it is only shown.")
@HOME
@METADATA
@JSON
def gc(experiment: str | None, keep: int | None, yes: bool, home: str, metadata: str | None, as_json: bool) -> None:
    """Removes old versions, and the artifacts and checkpoints that no kept version needs.

    \b
    conveyor gc                     shows what would go
    conveyor gc mnist --keep 3 --yes

    Kept are the newest versions, every version with a label (serving, canary, previous), what their runs made, and
    what the next run takes from the cache. Reports, logs and data are never touched.
    """
    from pipeline.home import gc as collecting

    with told_errors(), output(as_json) as reply:
        where = Home.at(home, metadata)
        number = keep or (experiments.load(experiment).serving.keep_versions if experiment else 5)
        with runner.locked(where):
            removals = collecting.plan(where, number, experiments.name_of(experiment))
            if yes:
                collecting.remove(where, removals)
        rows = [dataclasses.asdict(removal) for removal in removals]
        if not as_json:
            table("removed" if yes else "would be removed; --yes does it", rows, "There is nothing to remove.")
        click.echo(f"{len(rows)} folders, {sum(row['megabytes'] for row in rows):,.1f} MB")
        reply({"removed": yes, "folders": rows})


@click.command("lineage")
@EXPERIMENT
@click.argument("version", type=click.IntRange(1), required=False)
@HOME
@METADATA
@JSON
def lineage_(experiment: str, version: int | None, home: str, metadata: str | None, as_json: bool) -> None:
    """Prints where a version came from, step by step, down to the checksums of its input files.

    \b
    conveyor lineage mnist        of the version that serves
    conveyor lineage mnist 3

    All of it is ML Metadata's word: artifacts, the executions that made them, and what those took.
    """
    from pipeline.home import lineage, metadata_store

    with told_errors(), output(as_json) as reply:
        where, model = Home.at(home, metadata), experiments.load(experiment).serving.model_name
        number = version or moving.stable(where, model)
        origin = lineage.of_version(metadata_store.connect(where), model, number)
        if not as_json:
            tree = rich.tree.Tree(f"{model} version {number}")
            _grow(tree, origin)
            rich.console.Console().print(tree, soft_wrap=True, highlight=False, markup=False)
        reply(dataclasses.asdict(origin))


def _grow(tree: rich.tree.Tree, origin: Any) -> None:
    facts = "".join(f", {name} {value}" for name, value in origin.facts.items())
    branch = tree.add(f"{origin.name} #{origin.artifact}{facts}")
    if origin.told:
        branch.add(f"by {origin.component} #{origin.execution}, as above")
        return
    made = branch.add(f"by {origin.component} #{origin.execution}, {origin.finished}, run {origin.run}")
    for name, digest in origin.files.items():
        made.add(f"{name}  SHA-256 {digest}")
    for one in origin.inputs:
        _grow(made, one)


VERBS = (models, rollback, promote, gc, lineage_)
