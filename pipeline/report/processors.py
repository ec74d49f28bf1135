"""How busy the machine's processors are in the course of a time."""

import contextlib
import os
import threading
import time
from pathlib import Path

import numpy as np

EVERY = 0.25  # seconds from one look to the next


class Processors:
    """Looks at the processors that this process may use, as long as the block lasts: what anybody does with them.

    Attributes:
      count: how many there are.
    """

    def __init__(self) -> None:
        self._names = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        self.count = len(self._names)
        self._looks: list[tuple[float, float]] = []  # time, and seconds that all of them have been busy until then
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._go_on_looking, name="processors", daemon=True)

    def __enter__(self) -> "Processors":
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._look()

    def busy(self, begin: float, seconds: float, parts: int) -> list[float]:
        """Returns how many processors were busy in each of some equal parts of a time, from 0 to `count`.

        Args:
          begin: when the time begins, seconds since 1970.
          seconds: how long it is.
          parts: how many parts.
        """
        if not self._looks:  # nobody may look
            return [0.0] * parts
        times, until_then = zip(*self._looks, strict=True)
        edges = np.linspace(begin, begin + max(seconds, 1e-3), parts + 1)
        return (np.diff(np.interp(edges, times, until_then)) / np.diff(edges)).clip(0, self.count).tolist()

    def _go_on_looking(self) -> None:
        while not self._ended.wait(EVERY):
            self._look()

    def _look(self) -> None:
        with contextlib.suppress(OSError):  # too many files are open, say: the next look tells of both times
            lines = [line.split() for line in Path("/proc/stat").read_text().splitlines() if line.startswith("cpu")]
            # Source: man 5 proc_stat: user, nice, system, idle, waiting, interrupts twice, stolen.
            ticks = sum(
                sum(map(int, numbers[:8])) - int(numbers[3]) - int(numbers[4])
                for name, *numbers in lines
                if name in self._names
            )
            self._looks.append((time.time(), ticks / os.sysconf("SC_CLK_TCK")))
