"""Signals between a process and those that it starts."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any


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
