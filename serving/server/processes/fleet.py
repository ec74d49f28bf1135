"""Several processes that have loaded the same versions and answer at the same addresses; one that ends is replaced.

A version is loaded by one process first: what ends the process that loads it ends no other. It answers once all have
loaded it, and in all of them at once, but for the milliseconds that it takes to tell them.
"""

import argparse
import concurrent.futures
import dataclasses
import logging
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from serving.server.processes.link import Link, LinkClosed
from serving.server.protocol.errors import StatusError

log = logging.getLogger(__name__)

PROMPT = 30  # seconds until a process must have done what takes none; one that has not hangs, and is ended
STOP = 20  # seconds until a process must have ended
PAUSES = (0, 1, 2, 4, 8, 16, 30)  # seconds before a process is replaced that ended soon after its start
SOON = 60

Run = Callable[[argparse.Namespace, int, Connection], None]
Key = tuple[str, int]  # model, and number of the version


@dataclasses.dataclass(eq=False)
class _Member:
    """A process, and what it has loaded."""

    process: BaseProcess
    link: Link
    has: set[Key] = dataclasses.field(default_factory=set)

    def tell(self, name: str, *arguments: Any) -> Any:
        """Asks for what takes no time; ends a process that does not do it.

        Raises:
          LinkClosed: it has ended, or is ended now.
        """
        try:
            return self.link.call(name, *arguments, timeout=PROMPT)
        except concurrent.futures.TimeoutError as error:
            log.error("process %d does not answer, and is ended", self.process.pid)
            self.process.kill()
            raise LinkClosed from error


class Fleet:
    """The processes of a server. All methods may be called from any thread."""

    def __init__(
        self, size: int, run: Run, given: argparse.Namespace, answers: Mapping[str, Callable[..., Any]]
    ) -> None:
        """Makes a fleet without processes.

        Args:
          size: how many there are to be.
          run: what a process does; it must be importable. It is given the flags, the process's number and a pipe, on
            which it sends what keeps it from starting, or None, and is then asked as `worker` answers.
          given: the flags.
          answers: what a process may ask, by name.
        """
        self._size, self._run, self._given, self._answers = size, run, given, answers
        self._changed = threading.Condition()  # of all below; notified when a process comes or goes
        self._members: list[_Member] = []
        self._offered: dict[Key, Path] = {}  # what all members have loaded
        self._labels: Mapping[str, Mapping[str, int]] = {}
        self._listens = False
        self._closed = threading.Event()
        self._keepers: list[threading.Thread] = []

    def start(self) -> None:
        """Starts the processes, and waits until they can load.

        Raises:
          StatusError: one cannot start.
        """
        resource_tracker.ensure_running()  # it would take SIGINT out of the mask of the keeper that starts it
        started: list[Future[None]] = [Future() for _ in range(self._size)]
        for number, first in enumerate(started):
            keeper = threading.Thread(target=self._keep, args=(number, first), name=f"keeper {number}", daemon=True)
            keeper.start()
            self._keepers.append(keeper)
        for first in started:
            first.result()

    def listen(self) -> None:
        """Lets all processes listen, those that come later too.

        Raises:
          StatusError: one cannot.
        """
        with self._changed:
            self._listens = True
            members = list(self._members)
        calls = [member.link.submit("listen") for member in members]
        _results(calls)
        for call in calls:
            if isinstance(error := call.exception(), StatusError):
                raise error

    def load(self, model: str, number: int, path: Path) -> None:
        """Loads a version in all processes, and lets it answer; see `Replicas`.

        Raises:
          StatusError: as one of them says; UNKNOWN, where it ended meanwhile.
        """
        key = (model, number)
        try:
            self._prepare(key, path)
        except StatusError:
            self.unload(*key)
            raise
        self._tell_all("offer", *key)

    def unload(self, model: str, number: int) -> None:
        """Unloads a version in all processes; see `Replicas`."""
        key = (model, number)
        with self._changed:
            self._offered.pop(key, None)
            holders = [member for member in self._members if key in member.has]
            for member in holders:
                member.has.discard(key)
        _results([member.link.submit("unload", *key) for member in holders])

    def label(self, labels: Mapping[str, Mapping[str, int]]) -> None:
        """Sets the labels in all processes; see `Replicas`."""
        with self._changed:
            self._labels = labels
        self._tell_all("label", labels)

    def take(self) -> list[Any]:
        """Returns what each process has counted since it was asked last."""
        return self._tell_all("take")

    def close(self) -> None:
        """Lets the processes answer what they have begun, and end."""
        self._closed.set()
        with self._changed:
            members = list(self._members)
            self._changed.notify_all()
        for member in members:
            member.link.close()
        for member in members:
            member.process.join(STOP)
            member.process.kill()
        for keeper in self._keepers:
            keeper.join()

    def _prepare(self, key: Key, path: Path) -> None:
        """Loads a version in one process, then in all others, and in those that come meanwhile."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._living() or self._closed.is_set())
                if self._closed.is_set():
                    raise StatusError("UNAVAILABLE", "The server is stopping.")
                without = [member for member in self._living() if key not in member.has]
                if not without:
                    self._offered[key] = path
                    return
                if len(without) == len(self._living()):
                    without = without[:1]
            calls = [member.link.submit("prepare", *key, path) for member in without]
            ended = _results(calls)
            for member, call in zip(without, calls, strict=True):
                if call.exception() is None:
                    member.has.add(key)
            for call in calls:
                if isinstance(error := call.exception(), StatusError):
                    raise error
            if ended:
                raise StatusError("UNKNOWN", f"{ended} of {self._size} processes ended while they loaded it.")

    def _living(self) -> list[_Member]:
        """Returns the members but for those that have ended a moment ago; called under the lock."""
        return [member for member in self._members if not member.link.closed]

    def _tell_all(self, name: str, *arguments: Any) -> list[Any]:
        with self._changed:
            members = list(self._members)
        answers = []
        for member in members:
            try:
                answers.append(member.tell(name, *arguments))
            except LinkClosed:
                continue
        return answers

    def _keep(self, number: int, first: Future[None]) -> None:
        """Starts a process, and another one each time that it ends.

        Args:
          number: of the process.
          first: is told when the first one can load, or why it cannot start.
        """
        # A terminal sends SIGINT to all. A process has this from who starts it, before it could say so by itself.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        failures = 0
        while not self._closed.wait(PAUSES[min(failures, len(PAUSES) - 1)]):
            began = time.monotonic()
            try:
                member = self._start(number)
            except StatusError as error:
                if not first.done():
                    first.set_exception(error)
                    return
                log.error("process %d cannot start: %s", number, error)
            else:
                self._join(member, number)
                if not first.done():
                    first.set_result(None)
                self._await_end(member, number)
            failures = failures + 1 if time.monotonic() - began < SOON else 0

    def _start(self, number: int) -> _Member:
        spawn = multiprocessing.get_context("spawn")  # TensorFlow has threads as soon as it is imported
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=self._run, args=(self._given, number, theirs), daemon=True)
        process.start()
        theirs.close()
        try:
            problem = ours.recv()
        except EOFError:
            process.join()
            problem = StatusError("INTERNAL", f"process {number} ended with {process.exitcode} before it could start")
        if problem:
            raise problem
        return _Member(process, Link(ours, self._answers))

    def _join(self, member: _Member, number: int) -> None:
        """Lets a process load what the others have, and answer with them; ends it if it cannot."""
        try:
            while not self._is_alike(member):
                with self._changed:
                    offered = dict(self._offered)
                for key in member.has - set(offered):
                    member.link.call("unload", *key)
                    member.has.discard(key)
                for key in set(offered) - member.has:
                    member.link.call("prepare", *key, offered[key])
                    member.link.call("offer", *key)
                    member.has.add(key)
            if self._listens and not self._closed.is_set():
                member.link.call("listen")
        except StatusError as error:
            log.error("process %d cannot take its place: %s", number, error)
            member.process.kill()
        except LinkClosed:  # it has ended
            pass

    def _is_alike(self, member: _Member) -> bool:
        """Makes a process that has loaded what all have one of the members; also when the server stops."""
        with self._changed:
            if self._closed.is_set():
                member.link.close()
                return True
            if member.has != set(self._offered):
                return False
            member.tell("label", self._labels)
            self._members.append(member)
            self._changed.notify_all()
            return True

    def _await_end(self, member: _Member, number: int) -> None:
        member.process.join()
        with self._changed:
            if member in self._members:
                self._members.remove(member)
            self._changed.notify_all()
        if not self._closed.is_set():
            log.error("process %d ended with %s; another one takes its place", number, member.process.exitcode)


def _results(calls: list[Future]) -> int:
    """Waits for calls, and returns how many were to processes that have ended."""
    return sum([isinstance(call.exception(), LinkClosed) for call in calls])
