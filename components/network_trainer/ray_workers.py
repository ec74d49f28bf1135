"""Trains on a Ray cluster: `python -m components.network_trainer.ray_workers SPEC`.

Ray Train places the workers; where one is lost, it begins all anew, as many as there is room for. On each, the trainer
runs in a process of its own, and hears of the others by the `TF_CONFIG` that Ray sets. All see the run's folder, where
`worker-<rank>.out` and `.log` are what a worker printed and logged; this process repeats what the chief prints.
"""

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import ray
import ray.train
import ray.train.tensorflow
from ray.exceptions import RayError

from components.code_digest import whole_digest
from conveyor import processes
from conveyor.errors import ConveyorError, ExitCode
from conveyor.files import last_line
from conveyor.settings import from_json
from conveyor.words import counted
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
    _connect(os.environ["RAY_ADDRESS"])
    each = _share(ray.nodes(), count)
    print(f"Ray places up to {counted(count, 'worker')}, each with {each} of a node.", flush=True)
    trainer = ray.train.tensorflow.TensorflowTrainer(
        train_on_worker,
        train_loop_config={"spec": str(spec), "run": str(run), "digest": whole_digest()},
        scaling_config=ray.train.ScalingConfig(
            num_workers=(1, count),
            use_gpu="GPU" in each,
            resources_per_worker=each,
            placement_strategy="PACK" if "GPU" in each else "SPREAD",
            elastic_resize_monitor_interval_s=math.inf,  # it would end workers that are well, without a checkpoint
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
            return _stopped()
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
    attempt = json.loads(os.environ["TF_CONFIG"])["cluster"]  # the addresses of all, which are new each time
    failed = [told for told in _ends(run) if told["attempt"] == attempt and _is_own_error(told["code"])]
    if code < 0 or (code == os.EX_TEMPFAIL and not failed):
        how = f"was killed by signal {-code}" if code < 0 else "lost another"
        raise Unfit(f"Worker {rank}, on {host}, {how}.")
    # An error of its own is no reason for Ray to begin anew: it would be made again.
    _file(run, rank, "end").write_text(json.dumps({"attempt": attempt, "rank": rank, "code": code}))


def _share(nodes: list[dict[str, Any]], count: int) -> dict[str, int]:
    """Returns what each worker has of its node: as many GPUs as leave enough for all the others.

    Args:
      nodes: as `ray.nodes` tells of them.
      count: how many workers there are to be.
    """
    gpus = [int(node["Resources"].get("GPU", 0)) for node in nodes if node["Alive"]]
    shares = [share for share in range(1, max(gpus, default=0) + 1) if sum(each // share for each in gpus) >= count]
    return {"CPU": 1} | ({"GPU": max(shares, default=1)} if any(gpus) else {})


def _file(run: Path, rank: str, kind: str) -> Path:
    """Returns where a worker writes what it prints, `out`, logs, `log`, and how it ended, `end`."""
    return run / f"worker-{rank}.{kind}"


def _ends(run: Path) -> list[dict[str, Any]]:
    """Returns how workers have ended, in any attempt."""
    return [json.loads(file.read_text()) for file in sorted(run.glob("worker-*.end"))]


def _is_own_error(code: int) -> bool:
    return code > 0 and code != os.EX_TEMPFAIL


def _outcome(run: Path) -> int:
    """Returns the exit code of a training that Ray has come to an end with, when the reason of a failure is said."""
    ends = _ends(run)
    (last,) = (told["attempt"] for told in ends if told["rank"] == CHIEF)
    failed = [told for told in ends if told["attempt"] == last and _is_own_error(told["code"])]
    if not failed:
        return ExitCode.SUCCESS
    rank = failed[0]["rank"]
    said = last_line(_file(run, rank, "log"))
    print(said if rank == CHIEF else f"Worker {rank}: {said}", file=sys.stderr)
    return int(failed[0]["code"])


def _stop(stopped: threading.Event) -> None:
    stopped.set()
    if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, signal.SIG_DFL, signal.default_int_handler):
        os._exit(_stopped())  # Ray has begun nothing yet
    signal.raise_signal(signal.SIGINT)  # on which Ray ends the workers


def _stopped() -> int:
    print("Stopped. Run again to continue from the last checkpoint.", file=sys.stderr, flush=True)
    return ExitCode.INTERRUPTED


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
    processes.end_with_parent()
    try:
        sys.exit(main(Path(sys.argv[1])))
    except ConveyorError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
