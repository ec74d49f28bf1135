"""Processes that run a program of ours, and the signals between them and the one that started them.

They are forked from a process that has imported TensorFlow and has done nothing else: the standard library's fork
server. So none of them pays for the imports again, and none inherits a thread, a lock or a GPU.
"""

import atexit
import contextlib
import functools
import multiprocessing
import os
import runpy
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
# What the programs import, and in front what keeps the server from ending with a signal that is for all processes.
IMPORTED = ("conveyor.fork_server", "trainer.export", "trainer.loop", "serving.server.models.bundle", "serving.warmup")
_CONTEXT = multiprocessing.get_context("forkserver")


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


@functools.cache
def import_ahead() -> None:
    """Starts the process that `run` forks from, which imports what they need meanwhile; returns at once."""
    _CONTEXT.set_forkserver_preload(list(IMPORTED))
    before = Path.cwd()
    os.chdir(ROOT)  # from where it imports: a folder of the user's may have modules of the same names
    try:
        forkserver.ensure_running()
    finally:
        os.chdir(before)


def run(
    command: Sequence[str], cwd: Path, environment: Mapping[str, str], output: IO[str] | None = None
) -> tuple[int, str]:
    """Runs a program of ours, a module, and waits for it; SIGTERM goes on to it, as Ctrl+C does.

    It runs as `python -m` would run it, and what it prints comes out line by line. A program that is to end with this
    process calls `end_with_parent`.

    Args:
      command: the module's name, and its arguments.
      cwd: the folder that it runs in.
      environment: what it has besides our environment.
      output: what it prints to; None for our standard output.

    Returns:
      Its exit code, or the signal's number below zero, and the last line of what it wrote to standard error, which goes
      through ours.
    """
    import_ahead()
    sys.stdout.flush()
    (stdin, kept), (heard, stderr) = os.pipe(), os.pipe()
    stdout = os.dup(output.fileno() if output else 1)
    ends = (Connection(stdin, writable=False), Connection(stdout, readable=False), Connection(stderr, readable=False))
    process = _CONTEXT.Process(target=_program, args=(list(command), cwd, dict(environment), ends))
    with os.fdopen(kept, "wb"), os.fdopen(heard, errors="replace") as lines:
        process.start()
        for end in ends:
            end.close()
        last_line = ""
        with on_stop(process.terminate):
            try:
                for line in lines:
                    sys.stderr.write(line)
                    last_line = line.strip() or last_line
            except KeyboardInterrupt:
                sys.stderr.write("Stopping; Ctrl+C again stops at once.\n")
                process.terminate()
                for line in lines:
                    sys.stderr.write(line)
                raise
            process.join()
    return process.exitcode or 0, last_line


def _program(command: list[str], cwd: Path, environment: dict[str, str], ends: Sequence[Connection]) -> None:
    """What the forked process does."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for number, end in enumerate(ends):
        os.dup2(end.fileno(), number)
        end.close()
    sys.stdin = os.fdopen(0)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
    os.chdir(cwd)
    os.environ |= environment
    sys.argv = command
    try:
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # a forked process would leave them out, and TensorFlow's files of traced code behind


@contextlib.contextmanager
def on_stop(act: Callable[[], Any]) -> Iterator[None]:
    """Does something on SIGTERM, besides what was to be done before, as long as the block lasts.

    Args:
      act: called in the main thread, between two steps of what runs there.
    """
    before = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: Any) -> None:
        act()
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
