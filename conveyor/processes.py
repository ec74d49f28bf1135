"""Processes that run a program of ours, and the signals between them and the one that started them.

They are forked from a process that has imported TensorFlow and has done nothing else; see `conveyor.fork_server`. So
none of them pays for the imports again, and none inherits a thread, a lock or a GPU.
"""

import atexit
import contextlib
import dataclasses
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import IO, Any

from conveyor.errors import ConveyorError
from conveyor.fork_server import Program

ROOT = Path(__file__).resolve().parents[1]
IMPORTED = ("trainer.export", "trainer.loop", "serving.server.models.bundle", "serving.warmup")  # by our programs


class ServerGone(ConveyorError):
    """The process that programs are forked from has ended."""


def end_with_parent() -> None:
    """Ends this process when the one that started it is gone: that one holds the other end of standard input.

    A pipeline that was killed would otherwise leave a training behind, which writes into the checkpoints that the next
    one continues from.
    """

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


class _ForkServer:
    """The fork server of this process, which is started when it is needed, and anew where it has ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None

    def start(self) -> socket.socket:
        """Returns the socket for requests at once; the server may still import what programs need."""
        with self._lock:
            if self._requests is None or self._process is None or self._process.poll() is not None:
                self.close()
                self._requests, theirs = socket.socketpair()
                command = [sys.executable, "-m", "conveyor.fork_server", str(theirs.fileno()), *IMPORTED]
                # In its folder: the user's may have modules of the same names.
                self._process = subprocess.Popen(
                    command, cwd=ROOT, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
                )
                theirs.close()
            return self._requests

    def close(self) -> None:
        """Ends the server, whatever it does; what was forked from it goes on."""
        if self._requests is not None and self._process is not None:
            self._requests.close()
            self._process.kill()
            self._process.wait()

    def fork(self, program: Program, files: Sequence[int]) -> tuple[socket.socket, int]:
        """Has a program begun with three standard files; returns the socket of its exit code, and its descriptor.

        Raises:
          ServerGone: the server has ended before it forked.
        """
        answers, theirs = socket.socketpair()
        with contextlib.ExitStack() as on_error:
            on_error.enter_context(answers)
            with os.fdopen(os.memfd_create("program"), "w") as request, theirs:
                json.dump(dataclasses.asdict(program), request)
                request.flush()
                with contextlib.suppress(BrokenPipeError):
                    socket.send_fds(self.start(), [b"."], [request.fileno(), *files, theirs.fileno()])
            _, descriptors, *_ = socket.recv_fds(answers, 1, 1)
            if not descriptors:
                raise ServerGone(
                    "The process that our programs are forked from has ended; standard error, or the log, says why."
                )
            on_error.pop_all()
            return answers, descriptors[0]


_SERVER = _ForkServer()
atexit.register(_SERVER.close)
_RUNNING: list["_Stop"] = []
_STOPPED = threading.Event()  # SIGTERM has come since the outermost block began
_ACTS: list[Callable[[], Any]] = []  # on SIGTERM, those of the innermost blocks last


def stop_running() -> None:
    """Sends SIGTERM to all programs that run, for Ctrl+C, which the main thread alone hears of."""
    for stop in tuple(_RUNNING):
        stop()


def import_ahead() -> None:
    """Starts the process that `run` forks from, which imports what they need meanwhile; returns at once."""
    _SERVER.start()


def run(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    output: IO[str] | None = None,
    stops: bool = False,
) -> tuple[int, str]:
    """Runs a program of ours, a module, as `python -m` would, and waits for it.

    Ctrl+C is no signal to it: it is told by SIGTERM. What it prints comes out line by line. A program that is to end
    with this process calls `end_with_parent`.

    Args:
      command: the module's name, and its arguments.
      folder: that it runs in.
      environment: what it has besides our environment.
      output: what it prints to; None for our standard output.
      stops: whether SIGTERM goes on to it; else it comes to its end.

    Returns:
      Its exit code, or the signal's number below zero, and the last line of what it wrote to standard error, which goes
      through ours.

    Raises:
      ServerGone: it could not be begun.
    """
    sys.stdout.flush()
    program = Program(list(command), str(folder), {**os.environ, **environment}, sys.path)
    (stdin, kept), (heard, stderr) = os.pipe(), os.pipe()
    stop = _Stop()
    passed_on = on_stop(stop) if stops else contextlib.nullcontext()
    with os.fdopen(kept, "wb"), os.fdopen(heard, errors="replace") as lines, passed_on:
        try:
            answers, descriptor = _SERVER.fork(program, [stdin, output.fileno() if output else 1, stderr])
        finally:
            os.close(stdin)
            os.close(stderr)
        with answers, stop.of(descriptor), futures.ThreadPoolExecutor(1) as thread:
            code = thread.submit(_exit_code, answers, descriptor)
            try:
                last_line = _repeated(lines)
            except KeyboardInterrupt:
                sys.stderr.write("Stopping; Ctrl+C again stops at once.\n")
                stop()
                _repeated(lines)
                raise
            return code.result(), last_line or "it said nothing"


def _exit_code(answers: socket.socket, descriptor: int) -> int:
    """Waits for the end of a program; where the server was killed, which alone would know its code, kills it too."""
    code = answers.recv(16)
    if not code:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    return int(code or -signal.SIGKILL)


def _repeated(lines: IO[str]) -> str:
    """Writes lines to standard error as they come, and returns the last one that is not empty."""
    last_line = ""
    for line in lines:
        sys.stderr.write(line)
        last_line = line.strip() or last_line
    return last_line


class _Stop:
    """Sends SIGTERM to a program; to one that has not begun yet, as soon as it has."""

    def __init__(self) -> None:
        self._descriptor: int | None = None
        self._asked = False

    def __call__(self) -> None:
        self._asked = True
        if self._descriptor is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, signal.SIGTERM)

    @contextlib.contextmanager
    def of(self, descriptor: int) -> Iterator[None]:
        """Has a process descriptor to send it to, as long as the block lasts, and closes it then."""
        self._descriptor = descriptor
        _RUNNING.append(self)
        try:
            if self._asked:
                self()
            yield
        finally:
            _RUNNING.remove(self)
            self._descriptor = None
            os.close(descriptor)


@contextlib.contextmanager
def on_stop(act: Callable[[], Any]) -> Iterator[None]:
    """Does something on SIGTERM, besides what was to be done before, as long as the block lasts.

    The outermost block is the main thread's; those in it may be of other threads, and hear of what came before them.
    Without one of the main thread's, nothing is done.

    Args:
      act: called in the main thread, between two steps of what runs there.
    """
    before = signal.getsignal(signal.SIGTERM)
    installs = threading.current_thread() is threading.main_thread() and getattr(before, "func", None) is not _act
    _ACTS.append(act)
    try:
        if installs:
            _STOPPED.clear()
            signal.signal(signal.SIGTERM, functools.partial(_act, before))
        elif _STOPPED.is_set():
            act()
        yield
    finally:
        _ACTS.remove(act)
        if installs:
            signal.signal(signal.SIGTERM, before)


def _act(before: Any, number: int, frame: Any) -> None:
    _STOPPED.set()
    for act in reversed(_ACTS):
        act()
    if callable(before):
        before(number, frame)
