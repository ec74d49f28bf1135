"""Trains on a Ray cluster: `python -m components.network_trainer.ray_workers SPEC`.

Ray Train places the workers; where one is lost, it begins all anew, as many as there is room for. On each, the trainer
runs in a process of its own, and hears of the others by the `TF_CONFIG` that Ray sets. All see the run's folder, where
`worker-<rank>.out` and `.log` are what a worker printed and logged; this process repeats what the chief prints.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import ray
import ray.train
import ray.train.tensorflow
from ray.exceptions import RayError

from components.code_digest import whole_digest
from conveyor.errors import ConveyorError, ExitCode
from conveyor.settings import from_json
from trainer.settings import TrainingSpec

RESTARTS = 3  # of a training whose workers are lost
POLL_SECONDS = 0.5  # between two looks at what the chief has said
CHIEF = "0"


class RayFailed(ConveyorError):
    """The cluster cannot be reached, or cannot train."""


class Unfit(Exception):
    """A worker that cannot take part, or not any more; the text says why."""


def main(spec: Path) -> int:
    """Trains with up to as many workers as a specification says, and returns the exit code.

    Raises:
      RayFailed: the cluster cannot be reached, or its workers cannot train.
    """
    given = from_json(TrainingSpec, spec.read_bytes())
    run, count = Path(given.run), given.job.training.workers
    for file in _code_files(run):  # of an attempt before
        file.unlink()
    _connect(os.environ["RAY_ADDRESS"])
    gpus = int(ray.cluster_resources().get("GPU", 0))
    trainer = ray.train.tensorflow.TensorflowTrainer(
        train_on_worker,
        train_loop_config={"spec": str(spec), "run": str(run), "digest": whole_digest()},
        scaling_config=ray.train.ScalingConfig(
            num_workers=(1, count),
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": 1} | ({"GPU": max(1, gpus // count)} if gpus else {}),
            placement_strategy="PACK" if gpus else "SPREAD",
        ),
        run_config=ray.train.RunConfig(
            name="ray", storage_path=str(run), failure_config=ray.train.FailureConfig(max_failures=RESTARTS)
        ),
    )
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: _stop(stopped))
    with _repeated(_file(run, CHIEF, "out")):
        try:
            trainer.fit()
        except (RayError, ray.train.TrainingFailedError, SystemExit) as error:
            if not stopped.is_set():
                raise RayFailed(_reason(error)) from error
    if stopped.is_set():
        print("Stopped. Run again to continue from the last checkpoint.", file=sys.stderr)
        return ExitCode.INTERRUPTED
    return _outcome(run)


def train_on_worker(told: dict[str, str]) -> None:
    """Runs the trainer; Ray calls it in a process of each worker.

    Args:
      told: `spec`, the specification's file; `run`, the run's folder; `digest`, of the code and libraries that train.

    Raises:
      Unfit: this worker cannot train; Ray begins all workers anew, up to `RESTARTS` times.
    """
    rank, host, run = str(ray.train.get_context().get_world_rank()), socket.gethostname(), Path(told["run"])
    if whole_digest() != told["digest"]:
        raise Unfit(f"The worker on {host} has another version of Conveyor, or of its libraries, than this one.")
    if not Path(told["spec"]).exists():
        raise Unfit(f"The worker on {host} does not see the home folder: there is no {told['spec']}.")
    with _file(run, rank, "out").open("ab") as out, _file(run, rank, "log").open("ab") as log:
        # The trainer ends with this process, which holds its standard input.
        command = [sys.executable, "-m", "trainer", told["spec"]]
        code = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=log, cwd=run).wait()
    if code > 0 and code != os.EX_TEMPFAIL:  # an error of its own, which it would make again
        _file(run, rank, "code").write_text(str(code))
    elif code and not _code_files(run):
        how = f"was killed by signal {-code}" if code < 0 else "lost another"
        raise Unfit(f"Worker {rank}, on {host}, {how}.")


def _file(run: Path, rank: str, kind: str) -> Path:
    """Returns where a worker writes what it prints, `out`, logs, `log`, and the code of an error of its own, `code`."""
    return run / f"worker-{rank}.{kind}"


def _code_files(run: Path) -> list[Path]:
    return sorted(run.glob("worker-*.code"))


def _outcome(run: Path) -> int:
    """Returns the exit code of a training that Ray has come to an end with, when the reason of a failure is said."""
    failed = _code_files(run)
    if not failed:
        return ExitCode.SUCCESS
    lines = failed[0].with_suffix(".log").read_text(encoding="utf-8", errors="replace").splitlines()
    print(lines[-1] if lines else "it said nothing", file=sys.stderr)
    return int(failed[0].read_text())


def _stop(stopped: threading.Event) -> None:
    stopped.set()
    signal.raise_signal(signal.SIGINT)  # on which Ray ends the workers


def _connect(address: str) -> None:
    """Connects to a cluster.

    Raises:
      RayFailed: there is none, or one of another version of Ray or Python.
    """
    try:
        ray.init(address, log_to_driver=False)
    except (OSError, RuntimeError, ValueError, RayError) as error:
        raise RayFailed(f"RAY_ADDRESS names no cluster to train on, {address}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Returns what went wrong in one line: of workers, what the first of them says."""
    told = next(iter(getattr(error, "worker_failures", {}).values()), error)
    cause = getattr(told, "cause", None) or told
    return next(iter(str(cause).splitlines()), type(cause).__name__)


@contextlib.contextmanager
def _repeated(log: Path) -> Iterator[None]:
    """Prints what is written to a log during the block, as it comes."""
    log.touch()
    ended = threading.Event()
    with log.open(encoding="utf-8", errors="replace") as file:
        file.seek(0, os.SEEK_END)
        thread = threading.Thread(target=_repeat, args=(file, ended))
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _repeat(file: TextIO, ended: threading.Event) -> None:
    part = ""
    while True:
        is_last = ended.wait(POLL_SECONDS)
        *lines, part = (part + file.read()).split("\n")
        for line in lines:
            print(line, flush=True)
        if is_last:
            return


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1])))
    except ConveyorError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
