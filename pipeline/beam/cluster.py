"""What a cluster must have before a job is sent to it, and how what is wrong with it is told."""

import contextlib
import dataclasses
import json
import re
import secrets
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from conveyor import processes
from conveyor.errors import ConveyorError, storage_errors
from conveyor.words import counted
from pipeline.beam import probe
from pipeline.beam.runners import WORKERS, BeamRunner

SECONDS = 10  # for an answer of Flink's
LOOKS = 8  # for each slot: they are dealt out in turn, so that each worker should get some
SLOTS = 16  # of a cluster that cannot be asked


class ClusterUnfit(ConveyorError):
    """A cluster that cannot do the work; says why, and what to do."""


@dataclasses.dataclass(frozen=True)
class Worker:
    """A worker that took part in the look.

    Attributes:
      host: the machine's name.
      process: its number there.
    """

    host: str
    process: int


def ready(runner: BeamRunner, home: Path, say: Callable[[str], object]) -> BeamRunner:
    """Returns a runner as a run may use it, when it is known that its cluster can do the work.

    Args:
      runner: what was chosen.
      home: the home folder, that all workers must see at the same path.
      say: prints a line.

    Raises:
      ClusterUnfit: see `with_slots` and `look_at_workers`.
    """
    if runner.is_here:
        return runner
    runner = with_slots(runner)
    workers = look_at_workers(runner, home)
    hosts = sorted({worker.host for worker in workers})
    say(f"Beam: {runner.name} ({runner.source}), {counted(len(workers), 'worker')} on {', '.join(hosts)}")
    return runner


def with_slots(runner: BeamRunner) -> BeamRunner:
    """Returns a runner that uses all slots of its Flink cluster, unless it says how many; others as they are.

    Raises:
      ClusterUnfit: there is no such cluster, or it has no slot.
    """
    master = runner.option("flink_master")
    if runner.name != "flink" or master is None or master.startswith("["):  # Flink within the job server
        return runner
    url = (master if "://" in master else f"http://{master}").rstrip("/") + "/overview"
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:
            overview = json.loads(answer.read(1 << 20))
        slots, free, managers = (int(overview[key]) for key in ("slots-total", "slots-available", "taskmanagers"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "reason", None) or error
        raise ClusterUnfit(
            f"There is no Flink at {master}: {reason}. {runner.source} names its REST address with --flink_master."
        ) from error
    if not free:
        lacks = (
            f"none of its {counted(slots, 'slot')} is free; wait, or add one" if managers else "it has no TaskManager"
        )
        raise ClusterUnfit(f"The Flink cluster at {master} cannot take a job: {lacks}.")
    if runner.option("parallelism") is not None:
        return runner
    return dataclasses.replace(runner, options=(*runner.options, f"--parallelism={free}"))


def look_at_workers(runner: BeamRunner, home: Path) -> list[Worker]:
    """Sends a small job ahead, which finds out whether its workers can take part; returns those that it met.

    Args:
      runner: of a cluster.
      home: the home folder, that all of them must see at the same path.

    Raises:
      ClusterUnfit: a worker sees another home folder, or runs another Python or Conveyor; or there is none.
    """
    import apache_beam as beam

    if runner.name in ("flink", "spark") and not runner.option("job_endpoint") and not shutil.which("java"):
        raise ClusterUnfit(
            f"{runner.name}: Beam needs Java here, to start its job server; or name one: --job_endpoint."
        )
    with _token(home) as (folder, token):
        looks = LOOKS * max(1, int(runner.option("parallelism") or SLOTS))
        with _explained(runner), beam.Pipeline(argv=[*runner.arguments(False), *_no_second_try(runner)]) as job:
            _ = job | beam.Create(range(looks), reshuffle=True) | beam.ParDo(probe.Look(str(folder), token))
        found = [Worker(**json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))]
    if not found:
        raise ClusterUnfit(
            f"The workers wrote to another folder than {home}. It must be on a file system that all see."
        )
    return found


def _no_second_try(runner: BeamRunner) -> list[str]:
    return ["--number_of_execution_retries=0"] if runner.name == "flink" else []


@contextlib.contextmanager
def _token(home: Path) -> Iterator[tuple[Path, str]]:
    """Gives a folder of the home with a file that no other has, as long as the block lasts."""
    token = secrets.token_hex(16)
    folder = home / f"beam-{token[:8]}"
    with storage_errors(f"The home folder {home} cannot be written to"):
        folder.mkdir(parents=True)
        (folder / probe.TOKEN).write_text(token)
    try:
        yield folder, token
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _explained(runner: BeamRunner) -> Iterator[None]:
    """Says in a sentence why a job of the block could not be done."""
    try:
        yield
    except Exception as error:
        raise ClusterUnfit(_sentence(str(error), runner)) from error
    except KeyboardInterrupt:
        processes.abandon_threads()  # of Beam's, some wait for an answer of a cluster for ever
        raise


def _sentence(text: str, runner: BeamRunner) -> str:
    """Returns what a failed job's text says of the cluster."""
    if unfit := re.search(r"\bUnfit: (.+?)(?: \[while running|\\n|\n|$)", text):
        return f"{runner.name}: {unfit[1]}. Every worker needs this Conveyor, its libraries and the home folder."
    if "No module named 'pipeline" in text or "No module named 'components" in text:
        return f"{runner.name}: a worker has no Conveyor, or an older one. Start its pool with `conveyor worker`."
    workers = runner.option("environment_config") or WORKERS
    if "UNAVAILABLE" in text and re.search(rf"\b{workers.rpartition(':')[2]}\b", text):
        return f"{runner.name}: no worker answers at {workers}, beside the runner. Start one there: conveyor worker."
    if "NoResourceAvailable" in text or "Could not acquire the minimum required resources" in text:
        return f"{runner.name}: the cluster has too few free slots. Ask for fewer with --parallelism, or add some."
    last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it says nothing")
    return f"{runner.name} ({runner.source}): a small job that was sent ahead failed: {last}"
