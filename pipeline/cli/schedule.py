"""The verb of `conveyor` that retrains by the clock."""

import os
import sys
from pathlib import Path

import click

from pipeline import experiments
from pipeline.cli.options import (
    DATA,
    HOME,
    HOOK,
    JSON,
    METADATA,
    NOTIFY,
    NOTIFY_ON,
    SET,
    notifier,
    output,
    table,
    told_errors,
)
from pipeline.experiments.config import ConfigError, Experiment, override
from pipeline.home.folders import Home
from pipeline.schedule import daemon as scheduling
from pipeline.schedule import export
from pipeline.schedule.cron import Cron, zone


@click.command()
@click.argument("experiment", required=False)
@click.option(
    "--cron", metavar="EXPRESSION", help='When: minute hour day month weekday, "0 3 * * *"; or seconds first.'
)
@click.option(
    "--timezone", metavar="ZONE", help="What its hours are in, such as Europe/Berlin. [default: this machine's]"
)
@click.option(
    "--jitter", type=click.IntRange(0), default=0, metavar="SECONDS", help="Moves each time by at most so much."
)
@click.option("--now", is_flag=True, help="Makes a first run at once.")
@click.option("--list", "listing", is_flag=True, help="Shows every schedule of the home folder, and stops.")
@click.option(
    "--export", "kind", type=click.Choice(export.KINDS), help="Writes files for another scheduler, and stops."
)
@click.option("--output", "folder", type=click.Path(path_type=Path), help="Where --export writes. [default: prints]")
@click.option("--image", default=export.IMAGE, show_default=True, help="The container image of --export kubernetes.")
@NOTIFY
@NOTIFY_ON
@HOOK
@SET
@HOME
@DATA
@METADATA
@JSON
def schedule(
    experiment: str | None,
    cron: str | None,
    timezone: str | None,
    jitter: int,
    now: bool,
    listing: bool,
    kind: str | None,
    folder: Path | None,
    image: str,
    notify: tuple[str, ...],
    notify_on: tuple[str, ...],
    hook: str | None,
    settings: tuple[str, ...],
    home: str,
    data: Path | None,
    metadata: str | None,
    as_json: bool,
) -> None:
    """Retrains by the clock, until it is stopped.

    \b
    conveyor schedule mnist --cron "0 3 * * *" --timezone Europe/Berlin --jitter 300
    conveyor schedule mnist --cron "0 3 * * *" --now --notify json://localhost/hook
    conveyor schedule --list
    conveyor schedule mnist --cron "0 3 * * 1-5" --export systemd --output /etc/systemd/system

    One run at a time; times that pass while one lasts, or while nothing runs here, make one run together. SIGTERM and
    Ctrl+C let the running component finish, or the trainer write a checkpoint; the next start goes on from there. The
    state is in the home folder, so that a scheduler that was killed knows what it missed.
    """
    with told_errors():
        where = Home.at(home, metadata)
        if listing:
            _list(where, as_json)
            return
        if experiment is None or cron is None:
            raise click.UsageError('Give an EXPERIMENT and --cron, such as mnist --cron "0 3 * * *"; or --list.')
        chosen = override(experiments.load(experiment), settings)
        arguments = _arguments(experiment, settings, where, data)
        plan = scheduling.Plan(chosen.name, arguments, Cron.of(cron), str(zone(timezone)), jitter)
        if kind:
            _export(export.files(kind, plan, where, _writes(chosen, data), image), folder)
            return
        if metadata:
            os.environ["CONVEYOR_METADATA"] = metadata  # by the environment: it may hold a password
        told = notifier(notify, notify_on, hook)
        scheduling.Scheduler(where, plan, told, lambda text: click.echo(text, err=as_json)).serve(now)


def _arguments(experiment: str, settings: tuple[str, ...], home: Home, data: Path | None) -> tuple[str, ...]:
    """Returns the arguments of `conveyor retrain`, with absolute paths."""
    name = str(Path(experiment).resolve()) if experiment.endswith(".py") else experiment
    sets = [part for setting in settings for part in ("--set", setting)]
    return (name, "--home", str(home.root), *sets, *(("--data", str(data.resolve())) if data else ()))


def _writes(experiment: Experiment, data: Path | None) -> tuple[Path, ...]:
    return (data.resolve(),) if data and not experiment.dataset.canonical else ()


def _export(files: dict[str, str], folder: Path | None) -> None:
    for name, text in files.items():
        if folder is None:
            click.echo(text if len(files) == 1 else f"# {name}\n{text}")
            continue
        if not folder.is_dir():
            raise ConfigError(f"--output {folder}: there is no such folder.")
        (folder / name).write_text(text)
        click.echo(folder / name)


def _list(home: Home, as_json: bool) -> None:
    with output(as_json) as reply:
        rows = scheduling.rows(home)
        if not as_json:
            table("schedules", rows, f"Nothing is scheduled in {home.root}.")
        reply(rows)
    sys.exit(0)


VERBS = (schedule,)
