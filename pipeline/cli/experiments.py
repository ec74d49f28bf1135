"""The verbs that write an experiment's file, look at its settings, change and tune them: new, settings, set, tune."""

import dataclasses
import functools
import json
import shlex
from pathlib import Path
from typing import Any

import click

from conveyor.errors import ConfigError
from pipeline.cli.options import DATA, HOME, JSON, METADATA, SET, Chosen, choose, experiment
from pipeline.cli.output import Verb, reply, table
from pipeline.data.published import CANONICAL
from pipeline.experiments import new_file
from pipeline.experiments.overrides import field_of
from pipeline.home.folders import Home


@click.command(cls=Verb)
@click.argument("name")
@click.option("--data", type=click.Path(path_type=Path), help="The folder of pictures. [default: ./NAME]")
@click.option("--file", type=click.Path(path_type=Path), help="The file to write. [default: ./NAME.py]")
@JSON
def new(name: str, data: Path | None, file: Path | None) -> None:
    """Write the Python file of a new experiment, for a folder of pictures.

    \b
    conveyor new flowers --data ./pictures
    conveyor run flowers.py --data ./pictures

    The folder holds CLASS/*.jpg, or train/CLASS/*.jpg and test/CLASS/*.jpg. The file has its classes, a small residual
    network in plain Keras, how it is trained and what it must reach. It runs as it stands, and is yours to change.

    \b
    Exit codes  0  written
                1  the file cannot be written
                2  there are no pictures of two classes, or the file is there
    """
    folder, target = data or Path(name), file or Path(f"{name}.py")
    made = new_file.write(name, folder, target)
    click.echo(f"{target}: {len(made.dataset.classes)} classes, {made.training.steps:,} steps.")
    click.echo(f"Run it with: conveyor run {shlex.quote(str(target))} --data {shlex.quote(str(folder))}")
    reply({"experiment": name, "file": str(target.resolve()), "data": str(folder.resolve()), **made.to_dict()})


@click.command(cls=Verb)
@experiment
@SET
@HOME
@JSON
def settings(chosen: Chosen, home: Home) -> None:
    """Show an experiment's settings, and where each comes from.

    \b
    conveyor settings mnist
    conveyor settings my_experiment.py --json

    \b
    default     nobody said anything else
    experiment  the experiment's file, or its folder of pictures
    standing    conveyor set
    --set       this command line

    \b
    Exit codes  0  shown
                2  there is no such experiment, or a setting is wrong
    """
    rows = [dataclasses.asdict(setting) for setting in chosen.choice.settings()]
    shown = [{"field": row["field"], "value": _text(row["value"]), "from": row["origin"]} for row in rows]
    table(f"settings of {chosen.choice.name}", shown, "")
    source = chosen.choice.record.source or None
    data = str(chosen.data) if chosen.data else None
    for name, value in (("file", source), ("data", data)):
        if value:
            click.echo(f"  {name:<6} {value}")
    reply({"experiment": chosen.choice.name, "file": source, "data": data, "settings": rows})


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@click.command("set", cls=Verb)
@click.argument("experiment")
@click.argument("assignments", nargs=-1, metavar="[FIELD=VALUE]...")
@click.option("--unset", multiple=True, metavar="FIELD", help="Takes a standing setting back; may be given again.")
@HOME
@DATA
@JSON
def set_(experiment: str, assignments: tuple[str, ...], unset: tuple[str, ...], home: Home, data: Path | None) -> None:
    """Change settings of an experiment for all commands to come.

    \b
    conveyor set mnist training.warm_steps=500 serving.keep_versions=3
    conveyor set mnist --unset training.warm_steps
    conveyor set my_experiment.py --data ./images

    They are kept in the home folder, and hold for `run`, `retrain`, `schedule` and all others. What a command itself is
    given with --set comes after them. `conveyor settings` shows them.

    \b
    Exit codes  0  changed
                1  the home folder cannot be written
                2  there is no such experiment or field, or a value is wrong;
                   nothing was changed
    """
    if not assignments and not unset and data is None:
        raise click.UsageError("Give a FIELD=VALUE, --unset FIELD or --data FOLDER.")
    if data is not None and not data.is_dir():
        raise ConfigError(f"--data {data}: there is no such folder.")
    if data is not None and choose(home, experiment, (), None).experiment.dataset.name in CANONICAL:
        raise ConfigError(f"--data {data}: the data of {experiment} are published ones, which are downloaded.")
    choice = home.experiments.change(experiment, assignments, unset)
    chosen = Chosen(home, choice, data)
    if data is not None:
        chosen.remember(click.echo)
        click.echo(f"{choice.name}: the data are in {data.resolve()} from now on.")
    values = {setting.field: setting.value for setting in choice.settings()}
    for field in (*unset, *map(field_of, assignments)):
        again = " again" if field in unset else ""
        click.echo(f"{choice.name}: {field} is {_text(values.get(field, 'changed'))}{again} from now on.")
    standing = choice.record.settings
    reply({"experiment": choice.name, "settings": standing, "data": str(chosen.data) if chosen.data else None})


class TuneVerb(Verb):
    """A verb that can be stopped and run again."""

    interrupted = "Interrupted. Run again to go on with the trials that there are."


@click.command(cls=TuneVerb)
@experiment
@click.option(
    "--trials", type=click.IntRange(1), default=10, show_default=True, help="How many there are to be in all."
)
@SET
@HOME
@DATA
@METADATA
@JSON
def tune(chosen: Chosen, trials: int, home: Home) -> None:
    """Try different settings, and find the best ones.

    \b
    conveyor tune my_experiment.py --trials 20
    conveyor run my_experiment.py --best

    The experiment says what to try: tuning=Tuning({"network.width": Choice((16, 32))}). Each trial is a training in a
    process of its own, from the beginning, measured on the split eval. The settings of the first ones are drawn, three
    trials a setting; then Keras Tuner chooses them by what was reached. The test split is not looked at. What was
    stopped goes on when it is run again, and a larger --trials adds to what there is. `conveyor run --best` trains
    with the winner. Other runs in the same home have to wait.

    \b
    Exit codes  0    tuned
                1    something failed; the message says what
                2    a setting is wrong, there is nothing to try, or nothing to
                     measure trials on
                130  stopped or interrupted; run again to continue
    """
    from components.network_tuner.trials import best_first, shown
    from pipeline.run.console import Console
    from pipeline.tuning import search

    for name in map(field_of, chosen.choice.assignments):
        if name in chosen.experiment.tuning.ranges:
            raise ConfigError(
                f"--set {name}: it is one of tuning.ranges, which says what to try. Give it in one place."
            )
    console = Console()
    remember = functools.partial(chosen.remember, console.note)
    found = search.tune(chosen.experiment, home, chosen.data, trials, console, planned=remember)
    ranked = best_first(found.trials)
    rows = [
        {
            "trial": t.trial,
            **{name: shown(t.settings[name]) for name in chosen.experiment.tuning.ranges},
            "accuracy": t.accuracy,
            "seconds": round(t.seconds),
            "reason": t.error,
        }
        for t in ranked
    ]
    table(f"trials of {chosen.choice.name}, the best one first", rows, "")
    if len(ranked) < trials:
        click.echo(f"  {'of':<14} {trials}: the others would have had settings that these had")
    elif len(ranked) > trials:
        click.echo(f"  {'asked for':<14} {trials}; the search has {len(ranked)} already")
    others = [a for a in chosen.choice.assignments if not field_of(a).startswith("tuning.")]
    sets = "".join(f" --set {shlex.quote(assignment)}" for assignment in others)
    click.echo(f"  {'best':<14} {' '.join(map(shlex.quote, ranked[0].assignments))}")
    click.echo(f"  {'report':<14} {found.report}")
    click.echo(f"  {'logs':<14} {found.folder}")
    command = f"conveyor run {chosen.choice.name}{sets} --best{home.option}"
    click.echo(f"  {'use it':<14} {command}")
    trials_found = [dataclasses.asdict(trial) for trial in ranked]
    places = {"run": found.run, "report": str(found.report), "folder": str(found.folder)}
    reply({**places, "best": trials_found[0], "use_it": command, "trials": trials_found})


VERBS = (new, settings, set_, tune)
