"""What a person sees while a pipeline runs: a line for each component, with its state and time."""

import contextlib
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import rich.console
from rich.control import Control
from rich.segment import ControlType

from components.image_example_gen.spans import BASE, node_id
from conveyor.errors import storage_errors
from conveyor.words import counted

STYLES = {"cached": "cyan", "done": "green", "failed": "bold red", "rejected": "bold yellow"}
OF_SPANS = f"{node_id(BASE)}-"  # the names of components begin with it
STREAMS_OUTPUT = ("Trainer", "Tuner")  # print lines of their own while they run


class Console:
    """Writes progress to standard output, in colour where that is a terminal."""

    def __init__(self) -> None:
        self._running: list[str] = []
        self._cached_spans: list[float] = []  # seconds of those that have no line yet: one line says it of all
        self._lock = threading.Lock()

    def note(self, text: str) -> None:
        """Says a sentence."""
        with self._lock:
            self._show_spans()
        self._out().print(text, highlight=False, markup=False, soft_wrap=True)

    def start(self, component: str) -> None:
        """Says that a component runs; in a terminal, what comes next writes over it."""
        with self._lock:
            self._running.append(component)
            if not component.startswith(OF_SPANS):
                self._show_spans()
            if component in STREAMS_OUTPUT:
                self._out().print(f"  {component:<20} running", highlight=False)
            else:
                self._show_running()

    def end(self, component: str, state: str, seconds: float) -> None:
        """Says how a component ended, and after how long."""
        with self._lock:
            self._running.remove(component)
            if state == "cached" and component.startswith(OF_SPANS):
                self._cached_spans.append(seconds)
                return
            self._show_spans()
            if state == "cached" and component in STREAMS_OUTPUT and self._out().is_terminal:
                self._out().control(Control((ControlType.CURSOR_UP, 1)))  # it had nothing to say: over its first line
            self._ended(component, state, seconds)
            self._show_running()

    @contextlib.contextmanager
    def cleared(self) -> Iterator[None]:
        """Takes away what says that something runs, where an error or a signal ends the block."""
        try:
            yield
        except BaseException:
            with self._lock:
                self._running.clear()
                self._erase()
            raise

    def _show_spans(self) -> None:
        spans, self._cached_spans = self._cached_spans, []
        if spans:
            self._ended(counted(len(spans), "span"), "cached", sum(spans))

    def _ended(self, what: str, state: str, seconds: float) -> None:
        style = STYLES.get(state, "none")
        what = what.removeprefix(OF_SPANS)  # which has its own name
        self._erase()
        self._out().print(f"  {what:<20} [{style}]{state:<8}[/] {seconds:7.1f} s", highlight=False)

    def _show_running(self) -> None:
        if self._running and self._out().is_terminal:
            self._erase()
            self._out().print(f"  {', '.join(self._running):<20} running", end="\r", highlight=False)

    def _erase(self) -> None:
        if self._out().is_terminal:
            self._out().control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2)))  # after a ^C

    def _out(self) -> rich.console.Console:
        # Made anew each time: where standard output leads may have changed in between.
        return rich.console.Console(file=sys.stdout)


@contextlib.contextmanager
def redirected(log: Path) -> Iterator[None]:
    """Sends standard error into a log, also what the C++ of libraries and child processes write to it."""
    sys.stderr.flush()
    with storage_errors(f"The log {log} cannot be written"), log.open("ab") as file:
        saved = os.dup(2)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keeps TensorFlow, where the block is the first to import it, and others from writing among what is printed."""
    before = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2")
    if before == "2":  # as `pipeline.cli.main` has it; else the user has asked for another
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # which TensorFlow reads once; processes that we start say more
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = before
