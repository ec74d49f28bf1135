"""The verbs that have runs begun: schedule, by the clock, and compile, for Kubeflow Pipelines."""

import dataclasses
import os
from pathlib import Path

import click

from conveyor.errors import ConfigError, storage_errors
from conveyor.words import counted
from pipeline.cli.options import (
    DATA,
    EXPERIMENT_NAME,
    HOME,
    JSON,
    METADATA,
    NOTIFIER,
    SET,
    Chosen,
    NotifierOptions,
    bundle,
    choose,
    experiment_or_folder,
)
from pipeline.cli.output import StreamingVerb, Verb, reply, reply_now, table, warn
from pipeline.data.inputs import check_source
from pipeline.data.published import CANONICAL
from pipeline.home.folders import Home
from pipeline.home.lock import locked
from pipeline.schedule import daemon, export
from pipeline.schedule.cron import Cron, zone


@dataclasses.dataclass(frozen=True)
class When:
    """The options that say when to run."""

    cron: str | None
    timezone: str | None
    jitter: int
    now: bool


@dataclasses.dataclass(frozen=True)
class Export:
    """The options of an export to another scheduler."""

    kind: str | None
    folder: Path | None
    image: str


WHEN = bundle(
    "when",
    When,
    click.option(
        "--cron", metavar="EXPRESSION", help='When: minute hour day month weekday, "0 3 * * *"; or seconds first.'
    ),
    click.option(
        "--timezone", metavar="ZONE", help="Time zone of its hours, such as Europe/Berlin. [default: this machine's]"
    ),
    click.option(
        "--jitter", type=click.IntRange(0), default=0, metavar="SECONDS", help="Moves each time by at most so much."
    ),
    click.option("--now", is_flag=True, help="Makes a first run at once."),
)
EXPORT = bundle(
    "exported",
    Export,
    click.option(
        "--export", "kind", type=click.Choice(export.KINDS), help="Writes files for another scheduler, and stops."
    ),
    click.option("--output", "folder", type=click.Path(path_type=Path), help="Folder for --export. [default: prints]"),
    click.option("--image", default=export.IMAGE, show_default=True, help="Container image of --export kubernetes."),
)


@click.command(cls=StreamingVerb)
@EXPERIMENT_NAME
@WHEN
@click.option("--list", "listing", is_flag=True, help="Shows every schedule of the home folder, and stops.")
@EXPORT
@NOTIFIER
@SET
@HOME
@DATA
@METADATA
@JSON
def schedule(
    experiment: str | None,
    assignments: tuple[str, ...],
    when: When,
    listing: bool,
    exported: Export,
    notifications: NotifierOptions,
    home: Home,
    data: Path | None,
) -> None:
    """Retrain by the clock.

    \b
    conveyor schedule mnist --cron "0 3 * * *" --timezone Europe/Berlin
    conveyor schedule mnist --cron "0 3 * * *" --now --notify json://localhost/x
    conveyor schedule --list
    conveyor schedule mnist --cron "0 3 * * 1-5" --export systemd

    It runs until it is stopped, one run at a time. Times that pass during a run, or while no scheduler runs, make
    one run together. SIGTERM and Ctrl+C let the running component finish, or the trainer write a checkpoint; the
    next start continues from there. The state is in the home folder, so that a scheduler that was killed knows what
    it missed. After each verdict on a model, what no kept version needs is removed, as by `conveyor gc`;
    serving.keep_versions=0 keeps everything. With --json, each run is one object on one line.

    \b
    Exit codes  0  stopped by SIGTERM or Ctrl+C; listed; exported
                1  it is scheduled already, or the home cannot be written
                2  the command or a setting is wrong
    """
    if listing:
        rows = daemon.rows(home)
        left_out = ("timezone", "exit_code", "process", "runs", "last", "cron")
        table("schedules", rows, f"Nothing is scheduled in {home.root}.", left_out)
        reply({"schedules": rows})
        return
    if experiment is None or when.cron is None:
        raise click.UsageError('Give an EXPERIMENT and --cron, such as mnist --cron "0 3 * * *"; or --list.')
    chosen = choose(home, experiment, assignments, data)
    if not exported.kind:
        chosen.remember(warn)
    # What the home remembers may change before the next run: it is not handed over. A run in a container, or as another
    # user's job, may be the first that this home sees.
    is_remembered = not exported.kind and chosen.data is not None and chosen.data.resolve() == chosen.remembered_data
    named = chosen.data if chosen.data and not is_remembered else None
    folders = ("--home", str(home.root), *(("--data", str(named.resolve())) if named else ()))
    plan = daemon.SchedulePlan(
        chosen.experiment.name,
        (*chosen.arguments(by_name=not exported.kind), *folders, "--gc"),
        Cron.of(when.cron),
        str(zone(when.timezone)),
        when.jitter,
    )
    check_source(chosen.experiment, home, chosen.data)
    if exported.kind:
        writes = (chosen.data.resolve(),) if chosen.data and chosen.experiment.dataset.name not in CANONICAL else ()
        plan = dataclasses.replace(plan, arguments=(*plan.arguments, *notifications.for_file))
        needs = tuple(path for path in (Path(plan.arguments[0]), *writes) if path.is_absolute())
        _export(export.files(exported.kind, plan, home, needs, writes, exported.image), exported.folder)
        return
    if home.metadata:
        os.environ["CONVEYOR_METADATA"] = home.metadata  # by the environment: it may hold a password
    daemon.Scheduler(home, plan, notifications.notifier(), click.echo, reply_now()).serve(when.now)


def _export(files: dict[str, str], folder: Path | None) -> None:
    for name, text in files.items():
        if folder is None:
            click.echo(text if len(files) == 1 else f"# {name}\n{text}")
            continue
        if not folder.is_dir():
            raise ConfigError(f"--output {folder}: there is no such folder.")
        with storage_errors(f"{folder / name} cannot be written"):
            (folder / name).write_text(text)
        click.echo(folder / name)
    reply(files)


@click.command(name="compile", cls=Verb)
@experiment_or_folder
@click.option("--image", required=True, help="Container image with this version of Conveyor.")
@click.option("--root", required=True, metavar="URI", help="Where artifacts go, such as gs://bucket/conveyor.")
@click.option(
    "--output",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The YAML file. [default: <experiment>.yaml here]",
)
@SET
@HOME
@DATA
@JSON
def compile_(chosen: Chosen, image: str, root: str, file: Path | None, home: Home) -> None:
    """Write a run as a pipeline for Kubeflow Pipelines or Vertex.

    \b
    conveyor compile mnist --image registry/conveyor:1 --root gs://bucket/runs

    Each component becomes a task in a container. The home folder must be at the same path in all of them: it has the
    data, the checkpoints, and the served models, where the version is pushed to. The pipeline is of the data, the
    settings and the stable version of now; a later run is compiled anew. It needs the extra `kubeflow`.

    \b
    Exit codes  0  written
                1  the extra is not installed, or something failed
                2  the command or a setting is wrong; the experiment has spans
    """
    from pipeline.kubeflow.compiled import compile_run

    file = file or Path(f"{chosen.experiment.name}.yaml")
    with locked(home):
        compiled = compile_run(chosen.experiment, home, chosen.data, image, root, file, warn)
    click.echo(f"{counted(len(compiled.tasks), 'task')} of run {compiled.run_id} are in {file}")
    reply(dataclasses.asdict(compiled) | {"file": str(file)})


VERBS = (schedule, compile_)
