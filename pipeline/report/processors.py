"""How busy the machine's processors are in the course of a time."""

import contextlib
import os
import threading
import time
from pathlib import Path

import numpy as np

EVERY = 0.25  # seconds from one look to the next, at first
MOST = 10_000  # looks: of a longer time, every other one is forgotten


class Processors:
    """Looks at the processors that this process may use, as long as the block lasts: what anybody does with them.

    Attributes:
      count: how many there are.
    """

    def __init__(self) -> None:
        self._names = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        self.count = len(self._names)
        self._looks: list[tuple[float, float]] = []  # time, and seconds that all of them have been busy until then
        self._every = EVERY
        self._clock = time.time() - time.monotonic()  # as it was: one that is set back would mix the looks up
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._go_on_looking, name="processors", daemon=True)

    def __enter__(self) -> "Processors":
        self._look()
        with contextlib.suppress(RuntimeError):  # of threads, there may be too many
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._look()

    def busy(self, begin: float, seconds: float, parts: int) -> list[float]:
        """Returns how many processors were busy in each of some equal parts of a time, from 0 to `count`.

        Nothing is returned where nobody may look.

        Args:
          begin: when the time begins, seconds since 1970.
          seconds: how long it is.
          parts: how many parts.
        """
        if not self._looks:
            return []
        times, until_then = zip(*self._looks, strict=True)
        edges = np.linspace(begin, begin + max(seconds, 1e-3), parts + 1)
        return (np.diff(np.interp(edges, times, until_then)) / np.diff(edges)).clip(0, self.count).tolist()

    def _go_on_looking(self) -> None:
        while not self._ended.wait(self._every):
            self._look()
            if len(self._looks) > MOST:
                self._looks, self._every = self._looks[::2], 2 * self._every

    def _look(self) -> None:
        # Too many files may be open, or nobody may look: the next look tells of both times, or nothing is shown.
        with contextlib.suppress(OSError, ValueError, IndexError):
            lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
            # Source: man 5 proc_stat: user, nice, system, idle, waiting, interrupts twice, stolen.
            ticks = [
                sum(map(int, numbers[:8])) - int(numbers[3]) - int(numbers[4])
                for name, *numbers in lines
                if name in self._names
            ]
            if ticks:
                self._looks.append((self._clock + time.monotonic(), sum(ticks) / os.sysconf("SC_CLK_TCK")))
