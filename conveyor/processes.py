"""Signals between a process and those that it starts."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any


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


def run(
    command: Sequence[str], cwd: Path, environment: Mapping[str, str], output: IO[str] | None = None
) -> tuple[int, str]:
    """Runs a program of ours that calls `end_with_parent`, and waits for it; SIGTERM goes on to it, as Ctrl+C does.

    Args:
      command: the program and its arguments.
      cwd: the folder that it runs in.
      environment: what it has besides our environment.
      output: what it prints to; None for our standard output.

    Returns:
      Its exit code, or the signal's number below zero, and the last line of what it wrote to standard error, which goes
      through ours.
    """
    with (
        subprocess.Popen(
            command,
            cwd=cwd,
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
        on_stop(process.terminate),
    ):
        assert process.stderr is not None  # it is a pipe
        last_line = ""
        try:
            for line in process.stderr:
                sys.stderr.write(line)
                last_line = line.strip() or last_line
        except KeyboardInterrupt:
            sys.stderr.write("Stopping; Ctrl+C again stops at once.\n")
            process.terminate()
            for line in process.stderr:
                sys.stderr.write(line)
            raise
    return process.returncode, last_line


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
