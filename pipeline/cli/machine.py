"""The verbs of a machine: doctor, which checks what a run needs and says how to mend it, and worker."""

import dataclasses
import os
from pathlib import Path

import click

from conveyor.errors import ConfigError, ExitCode
from conveyor.words import counted
from pipeline.beam.runners import WORKERS
from pipeline.cli.options import HOME, JSON, METADATA
from pipeline.cli.output import Verb, reply, warn
from pipeline.home import backup
from pipeline.home.folders import Home
from pipeline.home.lock import locked
from pipeline.run import health
from pipeline.run.console import redirected


@click.command(cls=Verb)
@HOME
@METADATA
@JSON
@click.option(
    "--restore-metadata", is_flag=True, help="Returns to the newest copy of the metadata's SQLite file first."
)
@click.option(
    "--moved", is_flag=True, help="Writes down the new place of a home folder that was moved or copied first."
)
def doctor(home: Home, restore_metadata: bool, moved: bool) -> ExitCode:
    """Check the installation, the home folder and the data.

    \b
    conveyor doctor
    conveyor doctor --restore-metadata
    conveyor doctor --moved

    It looks at the stack, the disk, the metadata and what they know of, the labels, and every span of the experiments
    that the home folder knows, whose files are read whole.

    \b
    Exit codes  0  a run can begin
                1  something is wrong; the line below it says how to mend it
                2  there are no copies: no home folder, or metadata on a server
    """
    if restore_metadata and not home.root.is_dir():
        raise ConfigError(f"There is no home folder {home.root}, so there is no copy of its metadata.")
    if restore_metadata:
        with locked(home):
            restored = backup.restore(home)
        for copy in restored.damaged:
            warn(f"{copy} is damaged too.")
        click.echo(f"The metadata are those of {restored.copy.name} again.")
    if moved:
        with locked(home):
            count = health.bring_home(home)
        click.echo(
            f"{counted(count, 'artifact')} of the metadata {'is' if count == 1 else 'are'} known by the new place."
        )
    with redirected(Path(os.devnull)):
        findings = list(health.examine(home))
    for finding in findings:
        mark = click.style("ok   ", fg="green") if finding.ok else click.style("wrong", fg="red")
        click.echo(f"{mark} {finding.subject:<14} {finding.detail}")
        if not finding.ok:
            click.echo(f"{'':20} {finding.mend}")
    reply({"findings": [dataclasses.asdict(finding) for finding in findings]})
    return ExitCode.SUCCESS if all(finding.ok for finding in findings) else ExitCode.FAILED


@click.command(cls=Verb)
@click.option(
    "--address",
    default=WORKERS,
    show_default=True,
    metavar="HOST:PORT",
    help="Where a runner on this machine asks for workers. Whoever reaches it can run any code here.",
)
def worker(address: str) -> ExitCode:
    """Start workers for Beam, beside a TaskManager of Flink or an executor of Spark.

    \b
    conveyor worker
    conveyor worker --address localhost:50001

    Each machine of the cluster needs one, with this version of Conveyor, Python and their libraries, and with the home
    folder and the data at the same paths. It starts a process for each worker that the runner asks for, and ends with
    SIGTERM. `conveyor run --beam flink` looks at them before it sends a job.

    \b
    Exit codes  0  stopped by a signal
                1  another process listens there
                2  it is no address, or stands for all of the machine's
    """
    from pipeline.beam import worker as pool  # with gRPC

    pool.serve(address, lambda: click.echo(f"Workers for Beam at {address}"))
    return ExitCode.SUCCESS


VERBS = (doctor, worker)
