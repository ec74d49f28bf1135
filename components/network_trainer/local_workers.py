"""Trains in several processes of this machine: `python -m components.network_trainer.local_workers SPEC`.

This process forks the workers, each the trainer with a `TF_CONFIG` of its own, and ends as they do. TensorFlow's
workers listen on all addresses of a machine, and whoever reaches one can run any operation in it: so they get a network
of their own, with nothing in it but themselves, where the system allows that.

The chief prints what the trainer prints; the output of any other worker is `worker-<number>.log` in the run's folder.
Where a worker is killed, all end, and begin anew from the last checkpoint. The workers end with this process.
"""

import contextlib
import ctypes
import fcntl
import json
import math
import os
import selectors
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import tensorflow as tf

from conveyor import processes
from conveyor.errors import ConfigError, ConveyorError, ExitCode, storage_errors
from conveyor.files import last_line
from conveyor.settings import from_json
from conveyor.words import counted
from trainer.__main__ import run as train
from trainer.settings import TrainingSpec

RESTARTS = 3  # of a training whose workers are killed
GRACE_SECONDS = 10  # in which the others end when one has
LOOK_SECONDS = 1  # between two looks for a stop signal
LOOPBACK = "127.0.0.1"
OWN_PORT = 2222  # of the first worker, in a network that has nothing else in it
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000  # of unshare(2)
_SET_FLAGS, _UP = 0x8914, 0x1  # of netdevice(7)


def main(spec: Path) -> int:
    """Trains with as many workers as a specification says; returns the exit code, or ends by the signal of a worker."""
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    given = from_json(TrainingSpec, spec.read_bytes())
    count, cores = given.job.training.workers, sorted(os.sched_getaffinity(0))
    gpus = _shared_out(_gpus(), count)
    is_private = _enter_own_network()
    if not is_private:
        print("The workers listen on all addresses of this machine: it does not let them have a network of their own.")
    for restart in range(RESTARTS + 1):
        workers = _Workers(Path(given.run), stopped)
        ports = range(OWN_PORT, OWN_PORT + count) if is_private else _free_ports(count)
        addresses = [f"{LOOPBACK}:{port}" for port in ports]
        for number in range(count):
            environment = {"TF_CONFIG": tf_config(addresses, number), **gpus[number]}
            workers.fork(number, spec, cores[number::count] or cores, environment)
        number, code = workers.wait()
        is_lost = code < 0 or code == os.EX_TEMPFAIL
        if not is_lost or stopped.is_set() or restart == RESTARTS:
            break
        what = f"Worker {number} was killed by signal {-code}" if code < 0 else "A worker does not reach the others"
        print(f"{what}: all begin anew, from the last checkpoint.", flush=True)
    if code > 0 and number > 0:
        print(workers.last_words(number), file=sys.stderr)
    if code < 0:
        _end_by(signal.Signals(-code))
    return code


def tf_config(addresses: Sequence[str], number: int) -> str:
    """Returns what TensorFlow wants to know of workers and of which of them it is."""
    return json.dumps({"cluster": {"worker": list(addresses)}, "task": {"type": "worker", "index": number}})


class _Workers:
    """The processes of one attempt, from the first fork until all have ended."""

    def __init__(self, folder: Path, stopped: threading.Event) -> None:
        self._folder, self._stopped = folder, stopped
        self._codes: dict[int, int] = {}  # by number, in the order of their ends; of none that this process killed
        self._running: dict[int, int] = {}  # processes, by number
        self._ended = selectors.DefaultSelector()
        folder.mkdir(parents=True, exist_ok=True)

    def fork(self, number: int, spec: Path, cores: Sequence[int], environment: Mapping[str, str]) -> None:
        """Begins a worker."""
        sys.stdout.flush()
        path, parent = self._log(number) if number else Path(os.devnull), os.getpid()
        with contextlib.ExitStack() as stack:
            with storage_errors("The log of a worker cannot be written"):
                log = stack.enter_context(path.open("ab"))
            stack.enter_context(_sigterm_held())
            process = os.fork()
            if process == 0:
                _be_worker(spec, parent, log.fileno() if number else None, cores, environment)
        self._running[number] = process
        self._ended.register(os.pidfd_open(process), selectors.EVENT_READ, number)

    def wait(self) -> tuple[int, int]:
        """Waits until all have ended; returns the number and the code of the worker that tells how.

        When one has ended, the others have a while to do so too, and none where it was killed or is the chief. A stop
        is the chief's alone: it writes a checkpoint, and the others end with it.
        """
        self._ended.register(sys.stdin, selectors.EVENT_READ)
        deadline, killing = math.inf, False
        while self._running:
            for key, _ in self._ended.select(LOOK_SECONDS):
                if key.data is None:  # who started this process is gone
                    os._exit(ExitCode.FAILED)
                number = key.data
                code = os.waitstatus_to_exitcode(os.waitpid(self._running.pop(number), 0)[1])
                self._ended.unregister(key.fd)
                os.close(key.fd)
                if not killing:
                    self._codes[number] = code
                deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
                killing = killing or code < 0 or (number == 0 and code != ExitCode.SUCCESS)
            killing = killing or time.monotonic() > deadline
            if killing:
                self._signal(signal.SIGKILL, *self._running)
            elif self._stopped.is_set():
                self._signal(signal.SIGTERM, 0)  # again and again: TensorFlow takes one that comes while it connects
        self._ended.close()
        return _telling(self._codes)

    def _signal(self, number: signal.Signals, *workers: int) -> None:
        for worker in workers:
            if worker in self._running:
                os.kill(self._running[worker], number)

    def _log(self, number: int) -> Path:
        return self._folder / f"worker-{number}.log"

    def last_words(self, number: int) -> str:
        """Returns the last line of a worker that failed."""
        return f"Worker {number}: {last_line(self._log(number))}"


def _telling(codes: Mapping[int, int]) -> tuple[int, int]:
    """Returns the number and the code of the worker that tells how all ended.

    That is the chief where it succeeded; else one with an error of its own, the chief before others, one that was
    killed, or any.
    """
    if codes.get(0) == ExitCode.SUCCESS:
        return 0, ExitCode.SUCCESS

    def rank(number: int) -> tuple[bool, bool, bool]:
        code = codes[number]
        return code in (ExitCode.SUCCESS, os.EX_TEMPFAIL), code < 0, number > 0

    number = min(codes, key=rank)
    return number, codes[number] or os.EX_TEMPFAIL  # without its chief, a worker's success is none


@contextlib.contextmanager
def _sigterm_held() -> Iterator[None]:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


def _be_worker(
    spec: Path, parent: int, log: int | None, cores: Sequence[int], environment: Mapping[str, str]
) -> NoReturn:
    """Is a worker, as long as this process, which has just been forked, and its parent last."""
    code = int(ExitCode.FAILED)
    try:
        processes.die_with_parent(parent)
        if log is not None:
            os.dup2(log, 1)
            os.dup2(log, 2)
        os.environ.update(environment)
        os.sched_setaffinity(0, cores)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        code = train(spec)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _end_by(number: signal.Signals) -> None:
    """Ends this process by a signal."""
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _gpus() -> list[str]:
    """Returns the GPUs that TensorFlow sees, as `CUDA_VISIBLE_DEVICES` names them.

    A child asks it: who has asked for GPUs cannot be forked any more.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, str(len(tf.config.list_physical_devices("GPU"))).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        count = int(answer.read() or 0)
    os.waitpid(child, 0)
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


def _shared_out(gpus: Sequence[str], count: int) -> list[dict[str, str]]:
    """Returns the environment of each worker that gives it its GPUs: as many as every other one has.

    Raises:
      ConfigError: there are fewer GPUs than workers.
    """
    if not gpus:
        return [{} for _ in range(count)]
    if len(gpus) < count:
        raise ConfigError(
            f"training.workers is {count}, and this machine has {counted(len(gpus), 'GPU')}: each worker needs one. "
            "One worker trains on all of them."
        )
    share = len(gpus) // count
    return [{"CUDA_VISIBLE_DEVICES": ",".join(gpus[number * share : (number + 1) * share])} for number in range(count)]


def _free_ports(count: int) -> list[int]:
    """Returns ports that nobody has now; where somebody takes one before TensorFlow does, the training fails."""
    with contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return [each.getsockname()[1] for each in sockets]


def _enter_own_network() -> bool:
    """Moves this process into a network with a loopback interface alone; returns whether the system lets it.

    A child tries it first: what is allowed only in part would leave this process half moved.
    """
    child = os.fork()
    if child == 0:
        os._exit(0 if _moved() else 1)
    return os.waitpid(child, 0)[1] == 0 and _moved()


def _moved() -> bool:
    libc, user, group = ctypes.CDLL(None, use_errno=True), os.geteuid(), os.getegid()
    try:
        if libc.unshare(_NEW_NETWORK):  # it is not for everybody; somebody else may where they are root to themselves
            if libc.unshare(_NEW_USER | _NEW_NETWORK):
                return False
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sH22x", b"lo", _UP))
    except OSError:
        return False
    return True


if __name__ == "__main__":
    try:
        ended_with = main(Path(sys.argv[1]))
    except ConveyorError as error:
        print(error, file=sys.stderr)
        ended_with = error.exit_code
    sys.stdout.flush()
    os._exit(ended_with)  # TensorFlow's own end, in a process that has forked, may wait for ever
