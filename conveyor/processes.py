"""Processes that run a program of ours, and the signals between them and the one that started them.

They are forked from a process that has imported TensorFlow and has done nothing else; see `conveyor.fork_server`. So
none of them pays for the imports again, and none inherits a thread, a lock or a GPU.
"""

import atexit
import contextlib
import ctypes
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
from typing import IO, Any, NoReturn

from conveyor.errors import ConveyorError
from conveyor.fork_server import Program

ROOT = Path(__file__).resolve().parents[1]
_PR_SET_PDEATHSIG = 1  # of prctl(2)
IMPORTED = ("trainer.export", "trainer.loop", "serving.server.models.bundle", "serving.warmup")  # by our programs


class NotBegun(ConveyorError):
    """A program could not be begun."""


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


def die_with_parent(parent: int | None = None) -> None:
    """Has the kernel kill this process when the thread that started it ends.

    For what waits with Python's lock, as TensorFlow does for other workers: no thread of ours could end it then.

    Args:
      parent: the process that started it; None for the one that is its parent now.
    """
    parent = parent or os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended meanwhile
        os._exit(1)


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

    def ask(self, program: Program, files: Sequence[int]) -> socket.socket:
        """Asks for a program with three standard files; returns the socket of the answers.

        Where that is closed before the first answer, the program is killed as it begins.
        """
        answers, theirs = socket.socketpair()
        with contextlib.ExitStack() as on_error:
            on_error.enter_context(answers)
            with os.fdopen(os.memfd_create("program"), "w") as request, theirs:
                json.dump(dataclasses.asdict(program), request)
                request.flush()
                with contextlib.suppress(BrokenPipeError):
                    socket.send_fds(self.start(), [b"."], [theirs.fileno(), request.fileno(), *files])
            on_error.pop_all()
            return answers


_SERVER = _ForkServer()
atexit.register(_SERVER.close)
_RUNNING: list["_Running"] = []


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

    Ctrl+C is no signal to it: one that `stops` is told by SIGTERM, another is killed, as any is by a second one. What
    it prints comes out line by line. A program that is to end with this process calls `end_with_parent`.

    Args:
      command: the module's name, and its arguments.
      folder: that it runs in.
      environment: what it has besides our environment.
      output: what it prints to; None for our standard output.
      stops: whether SIGTERM goes on to it; else it is ignored, and the program comes to its end.

    Returns:
      Its exit code, or the signal's number below zero, and the last line of what it wrote to standard error, which goes
      through ours.

    Raises:
      NotBegun: it could not be begun.
    """
    if sys.stdout:  # None where it is closed
        sys.stdout.flush()
    path = [entry for entry in sys.path if isinstance(entry, str)]
    program = Program(list(command), str(folder.absolute()), {**os.environ, **environment}, path, stops)
    (stdin, kept), (heard, stderr) = os.pipe(), os.pipe()
    running = _Running(stops)
    passed_on = on_stop(running.stop) if stops else contextlib.nullcontext()
    with os.fdopen(kept, "wb"), os.fdopen(heard, errors="replace") as lines, running, passed_on:
        try:
            answers = _SERVER.ask(program, [stdin, output.fileno() if output else 1, stderr])
        finally:
            os.close(stdin)
            os.close(stderr)
        with answers, futures.ThreadPoolExecutor(1) as thread:
            try:
                try:
                    descriptor = running.begun(answers, program)
                    code = thread.submit(_exit_code, answers, descriptor)
                    last_line = _repeated(lines)
                    return code.result(), last_line or "it said nothing"
                except KeyboardInterrupt:
                    tell("Stopping; Ctrl+C again stops at once.")
                    running.stop()
                    running.begun(answers, program)
                    _repeated(lines)
                    raise
            except BaseException:
                running.kill()  # or the end of the block would wait for it
                raise


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
        with contextlib.suppress(OSError):  # of a log on a full disk: what runs may go on
            sys.stderr.write(line)
        last_line = line.strip() or last_line
    return last_line


def tell(text: str) -> None:
    """Says something at once, also in a signal handler: in the terminal, or on standard error, which may be a log."""
    with contextlib.suppress(OSError):  # nobody reads it, or the log's disk is full
        if os.isatty(1):
            os.write(1, f"\r\x1b[2K{text}\n".encode())  # in place of a line that is written over and over
        else:
            os.write(2, f"{text}\n".encode())


class _Running:
    """A program from before it is begun until it has ended, and the signals to it; a block.

    Its methods are called in signal handlers: they take no lock.
    """

    def __init__(self, stops: bool) -> None:
        self._signal = signal.SIGTERM if stops else signal.SIGKILL
        self._descriptor: int | None = None
        self._asked: signal.Signals | None = None

    def __enter__(self) -> None:
        _RUNNING.append(self)
        if _SIGTERM.killing:
            self.kill()

    def __exit__(self, *error: object) -> None:
        _RUNNING.remove(self)
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def begun(self, answers: socket.socket, program: Program) -> int:
        """Waits until it has begun, and sends the signal that was asked for meanwhile; returns its process descriptor.

        Raises:
          NotBegun: the server has ended before it forked, or cannot fork.
        """
        if self._descriptor is None:
            answer, descriptors, *_ = socket.recv_fds(answers, 1024, 1)
            if not descriptors:
                why = answer.decode()
                why = why or "what it is forked from has ended, or may open no file; see standard error, or the log"
                raise NotBegun(f"A process for {program.command[0]} could not be begun: {why}.")
            (self._descriptor,) = descriptors
            if self._asked is not None:
                self._send(self._asked)
        return self._descriptor

    def stop(self) -> None:
        """Asks it to stop; kills one that is not to hear of that."""
        self._send(self._signal)

    def kill(self) -> None:
        """Kills it."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        self._asked = number
        descriptor = self._descriptor
        if descriptor is not None:
            with contextlib.suppress(OSError):  # it has ended
                signal.pidfd_send_signal(descriptor, number)


def kill_running() -> None:
    """Kills all programs that run, or that threads begin, until the outermost `on_stop` ends."""
    _SIGTERM.killing = True
    for running in tuple(_RUNNING):
        running.kill()


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
    _SIGTERM.acts.append(act)
    try:
        if installs:
            signal.signal(signal.SIGTERM, functools.partial(_act, before))
        elif _SIGTERM.came:
            act()
        yield
    finally:
        if installs:
            signal.signal(signal.SIGTERM, before)
            _SIGTERM.came = _SIGTERM.killing = False
        _SIGTERM.acts.remove(act)


_ABANDONED = threading.Event()
LEAVE_SECONDS = 3  # for what is registered to be done at the end


def abandon_threads() -> None:
    """Says that threads of a library may never end, so that `leave` does not wait for them."""
    _ABANDONED.set()


def leave(code: int) -> NoReturn:
    """Ends this process with an exit code."""
    if _ABANDONED.is_set():
        ending = threading.Timer(LEAVE_SECONDS, os._exit, [code])
        ending.daemon = True
        ending.start()
        atexit._run_exitfuncs()  # which the interpreter does only when all threads have ended
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


@contextlib.contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Makes SIGTERM what Ctrl+C is, as long as the block lasts, but where an `on_stop` in it says what to do."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Sigterm:
    """What is known of SIGTERM. Plain attributes: a handler may be called in the midst of itself, and takes no lock.

    Attributes:
      acts: what is done when it comes, the innermost blocks' last.
      came: whether it came since the outermost block began.
      killing: whether programs are killed, whenever they begin.
    """

    def __init__(self) -> None:
        self.acts: list[Callable[[], Any]] = []
        self.came = self.killing = self._acting = False

    def act(self) -> None:
        """Does all that is to be done; nothing where it is being done."""
        self.came = True
        if not self._acting:
            self._acting = True
            try:
                for act in reversed(tuple(self.acts)):
                    act()
            finally:
                self._acting = False


_SIGTERM = _Sigterm()


def _act(before: Any, number: int, frame: Any) -> None:
    _SIGTERM.act()
    if callable(before) and before is not signal.default_int_handler:
        before(number, frame)
