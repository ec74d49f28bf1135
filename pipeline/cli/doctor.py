"""The verb that checks what a run needs, and says what is wrong and how to mend it: doctor."""

import dataclasses
import errno
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from components.code_digest import stack_versions
from conveyor.errors import ConfigError, ConveyorError, ExitCode
from conveyor.words import counted
from pipeline.cli.options import HOME, JSON, METADATA
from pipeline.cli.output import Verb, reply, warn
from pipeline.data.fetch import CANONICAL, is_complete
from pipeline.home import backup
from pipeline.home.folders import Home
from pipeline.home.lock import locked
from pipeline.run.console import redirected

NEEDED_BYTES = 3 * 2**30  # a run of CIFAR-10 with its checkpoints


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
      subject: what.
      ok: whether a run can go on with it.
      detail: what is there.
      mend: what to do about it, where it is not ok.
    """

    subject: str
    ok: bool
    detail: str
    mend: str = ""


def examine(home: Home) -> Iterator[Finding]:
    """Yields a finding for each thing that a run needs."""
    checks: list[Callable[[Home], Finding]] = [_stack, _evaluation, _device, _folder, _disk, _metadata]
    for check in checks:
        try:
            finding = check(home)
            yield dataclasses.replace(finding, mend="") if finding.ok else finding
        except Exception as error:  # a broken installation fails in its own ways; the others are still worth a look
            yield Finding(check.__name__.strip("_"), False, f"{type(error).__name__}: {error}", "run make setup again")
    for name in CANONICAL:
        there = is_complete(name, home.data)
        detail = "there, and its checksums are right" if there else f"not there; conveyor fetch {name} downloads it"
        yield Finding(f"data {name}", True, detail)


def _stack(_: Home) -> Finding:
    libc = " ".join(platform.libc_ver()).strip() or platform.system()
    versions = ", ".join(f"{name} {version}" for name, version in stack_versions().items())
    return Finding("stack", True, f"{versions}, {libc}")


def _evaluation(_: Home) -> Finding:
    import tensorflow_model_analysis as tfma

    whole = hasattr(tfma, "default_eval_shared_model")
    detail = f"tensorflow-model-analysis {importlib.metadata.version('tensorflow-model-analysis')}"
    return Finding("evaluation", whole, detail if whole else f"{detail} is only half there", "pip install ipykernel")


def _device(_: Home) -> Finding:
    from trainer import devices

    return Finding("device", True, devices.choose("auto").description)


def _folder(home: Home) -> Finding:
    place = home.existing
    try:
        if place == home.root:
            probe = home.root / ".probe"
            probe.touch()
            probe.unlink()
        elif not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        return Finding("home", False, f"{place}: {error.strerror}", "choose a folder you can write to with --home")
    return Finding("home", True, str(home.root) if place == home.root else f"{home.root}, not made yet")


def _disk(home: Home) -> Finding:
    free = shutil.disk_usage(home.existing).free
    mend = f"free {(NEEDED_BYTES - free) / 2**30:.1f} GiB, or choose another --home"
    return Finding("disk", free >= NEEDED_BYTES, f"{free / 2**30:.1f} GiB free", mend)


def _metadata(home: Home) -> Finding:
    place = home.metadata_place
    if not home.has_metadata:
        return Finding("metadata", True, f"{place}, not made yet")
    from pipeline.home import metadata_store

    try:
        count = len(metadata_store.runs(metadata_store.connect(home)))
    except ConveyorError as error:
        return Finding("metadata", False, str(error), "mend that, and run conveyor doctor again")
    return Finding("metadata", True, f"{place}, {counted(count, 'run')}")


@click.command(cls=Verb)
@HOME
@METADATA
@JSON
@click.option(
    "--restore-metadata", is_flag=True, help="Returns to the newest copy of the metadata's SQLite file first."
)
def doctor(home: Home, restore_metadata: bool) -> ExitCode:
    """Check the installation, the home folder and the data.

    \b
    conveyor doctor
    conveyor doctor --restore-metadata

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
    with redirected(Path(os.devnull)):
        findings = list(examine(home))
    for finding in findings:
        mark = click.style("ok   ", fg="green") if finding.ok else click.style("wrong", fg="red")
        click.echo(f"{mark} {finding.subject:<14} {finding.detail}")
        if not finding.ok:
            click.echo(f"{'':20} {finding.mend}")
    reply({"findings": [dataclasses.asdict(finding) for finding in findings]})
    return ExitCode.SUCCESS if all(finding.ok for finding in findings) else ExitCode.FAILED


VERBS = (doctor,)
