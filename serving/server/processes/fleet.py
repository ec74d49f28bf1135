"""Several processes that have loaded the same versions and answer at the same addresses; one that ends is replaced.

A version is loaded by one process first: what ends the process that loads it ends no other. It answers once all have
loaded it, and in all of them at once, but for the milliseconds that it takes to tell them.
"""

import argparse
import concurrent.futures
import dataclasses
import itertools
import logging
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
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
PING = 5  # seconds between looks whether a process hangs
STOP = 20  # seconds until all processes must have ended
BACK = 120  # seconds that a version waits for the process that it, or something else, has ended
PAUSES = (0, 1, 2, 4, 8, 16, 30)  # seconds before a process is replaced that ended soon after its start
SOON = 60
HOPELESS = 5  # failures in a row, where no other process is left, after which the fleet is lost

Run = Callable[[argparse.Namespace, int, Connection], None]
Key = tuple[str, int]  # model, and number of the version
Labels = Mapping[str, Mapping[str, int]]


@dataclasses.dataclass(eq=False)
class _Member:
    """A process, and what it has loaded.

    Attributes:
      number: of its place, from 0; the one that takes its place has it too.
      has: which loading of each version it has.
      labels: that it was told.
    """

    number: int
    process: BaseProcess
    link: Link
    has: dict[Key, int] = dataclasses.field(default_factory=dict)
    labels: Labels | None = None


class Fleet:
    """The processes of a server. All methods may be called from any thread."""

    def __init__(
        self,
        size: int,
        run: Run,
        given: argparse.Namespace,
        answers: Mapping[str, Callable[..., Any]],
        lost: Callable[[], object] = lambda: None,
    ) -> None:
        """Makes a fleet without processes.

        Args:
          size: how many there are to be.
          run: what a process does; it must be importable. It is given the flags, the process's number and a pipe, on
            which it sends what keeps it from starting, or None, and is then asked as `worker` answers.
          given: the flags.
          answers: what a process may ask, by name.
          lost: called when no process is left, and none can take a place.
        """
        self._size, self._run, self._given, self._answers, self._lost = size, run, given, answers, lost
        self._changed = threading.Condition()  # of all below; notified when a process comes or goes
        self._members: list[_Member] = []
        self._processes: set[BaseProcess] = set()  # those that start, too
        self._links: set[Link] = set()
        self._offered: dict[Key, tuple[int, Path]] = {}  # what all members have loaded: which loading, from where
        self._first: dict[Key, int] = {}  # which process tries a version first that has ended one
        self._labels: Labels = {}
        self._listens = False
        self._loadings = itertools.count()
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
        _ended(calls)
        _raise_first(calls)

    def load(self, model: str, number: int, path: Path) -> None:
        """Loads a version in all processes, and lets it answer; see `Replicas`.

        Raises:
          StatusError: as one of them says; UNKNOWN, where the first that loaded it has ended meanwhile.
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
            holders = [member for member in self._members if member.has.pop(key, None) is not None]
        calls = [member.link.submit("unload", *key) for member in holders]
        _ended(calls)
        for member, call in zip(holders, calls, strict=True):
            if isinstance(error := call.exception(), StatusError):
                log.error("%s/%d in process %d: %s", model, number, member.number, error)

    def label(self, labels: Labels) -> None:
        """Sets the labels in all processes; see `Replicas`."""
        with self._changed:
            self._labels = labels
            for member in self._members:
                member.labels = labels
        self._tell_all("label", labels)

    def take(self) -> list[Any]:
        """Returns what each process has counted since it was asked last."""
        return self._tell_all("take")

    def close(self) -> None:
        """Lets the processes answer what they have begun, and end; ends those that do not."""
        self._closed.set()
        with self._changed:
            self._changed.notify_all()
            processes, links = list(self._processes), list(self._links)
        for link in links:
            link.close()
        deadline = time.monotonic() + STOP
        for process in processes:
            process.join(max(0, deadline - time.monotonic()))
        for process in processes:
            process.kill()
        for keeper in self._keepers:
            keeper.join()

    def _prepare(self, key: Key, path: Path) -> None:
        """Loads a version in one process, then in all others, and in those that come meanwhile."""
        loading = next(self._loadings)
        first = self._one_that_tries(key)
        if self._prepare_in([first], key, path, loading):
            self._first[key] = first.number
            raise StatusError("UNKNOWN", f"Process {first.number} ended while it loaded this version.")
        self._first.pop(key, None)
        deaths = 0
        while deaths <= self._size:  # which may have other reasons: a process that comes loads it as well
            with self._changed:
                without = [member for member in self._living() if member.has.get(key) != loading]
                if not without:
                    self._offered[key] = (loading, path)
                    return
            deaths += self._prepare_in(without, key, path, loading)
        raise StatusError("UNKNOWN", f"{deaths} processes ended while they loaded this version.")

    def _prepare_in(self, members: Sequence[_Member], key: Key, path: Path, loading: int) -> int:
        """Loads a version in some processes; returns how many of them ended meanwhile.

        Raises:
          StatusError: as one of them says, or UNAVAILABLE where the server stops.
        """
        calls = [member.link.submit("prepare", *key, path) for member in members]
        ended = _ended(calls)
        for member, call in zip(members, calls, strict=True):
            if call.exception() is None:
                member.has[key] = loading
        self._require_open()
        _raise_first(calls)
        return ended

    def _one_that_tries(self, key: Key) -> _Member:
        """Returns the process that loads a version first: the one in the place of which it has ended one before."""
        number = self._first.get(key)

        def candidates() -> list[_Member]:
            return [member for member in self._living() if number in (None, member.number)]

        with self._changed:
            self._changed.wait_for(lambda: candidates() or self._closed.is_set(), BACK)
            self._require_open()
            if found := sorted(candidates(), key=lambda member: member.number):
                return found[0]
        who = "no process" if number is None else f"process {number}, which ended when it loaded it,"
        raise StatusError("UNAVAILABLE", f"{who} has come back in {BACK} s.")

    def _require_open(self) -> None:
        if self._closed.is_set():
            raise StatusError("UNAVAILABLE", "The server is stopping.")

    def _living(self) -> list[_Member]:
        """Returns the members but for those that have ended a moment ago; called under the lock."""
        return [member for member in self._members if not member.link.closed]

    def _tell_all(self, name: str, *arguments: Any) -> list[Any]:
        """Asks all for what takes no time, and returns what those answer that have not ended."""
        with self._changed:
            members = list(self._members)
        calls = [member.link.submit(name, *arguments) for member in members]
        _end_those_that_hang(members, calls)
        return [call.result() for call in calls if call.exception() is None]

    def _keep(self, number: int, first: Future[None]) -> None:
        """Starts a process, and another one each time that it ends.

        Args:
          number: of its place.
          first: is told when the first one can load, or why it cannot start.
        """
        # A terminal sends SIGINT to all. A process has this from who starts it, before it could say so by itself.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        failures = 0
        while not self._closed.wait(PAUSES[min(failures, len(PAUSES) - 1)]):
            began = time.monotonic()
            try:
                self._run_one(number, first)
            except Exception as error:  # none of them may end the keeper
                if not first.done():
                    problem = StatusError("INTERNAL", f"process {number} cannot start: {error}")
                    first.set_exception(error if isinstance(error, StatusError) else problem)
                    return
                log.error("process %d cannot take its place: %s", number, error)
            failures = failures + 1 if time.monotonic() - began < SOON else 0
            with self._changed:
                if failures >= HOPELESS and not self._members:
                    self._lost()

    def _run_one(self, number: int, first: Future[None]) -> None:
        """Starts a process, and returns when it has ended.

        Raises:
          StatusError: it cannot start, or cannot load what the others have.
        """
        spawn = multiprocessing.get_context("spawn")  # TensorFlow has threads as soon as it is imported
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=self._run, args=(self._given, number, theirs), daemon=True)
        process.start()
        with self._changed:
            self._processes.add(process)
            if self._closed.is_set():
                process.kill()
        theirs.close()
        try:
            member = self._met(number, process, ours)
            self._join(member)
            if not first.done():
                first.set_result(None)
            process.join()
            if not self._closed.is_set():
                log.error("process %d ended with %s; another one takes its place", number, process.exitcode)
        finally:
            process.kill()
            process.join()
            with self._changed:
                self._processes.discard(process)
                self._members = [other for other in self._members if other.process is not process]
                self._links = {link for link in self._links if not link.closed}
                self._changed.notify_all()

    def _met(self, number: int, process: BaseProcess, connection: Connection) -> _Member:
        """Waits until a process can be asked."""
        try:
            problem = connection.recv()
        except (EOFError, OSError):
            process.join()
            problem = StatusError("INTERNAL", f"process {number} ended with {process.exitcode} before it could start")
        if problem:
            raise problem
        member = _Member(number, process, Link(connection, self._answers))
        threading.Thread(target=self._ping, args=(member,), name=f"ping {number}", daemon=True).start()
        with self._changed:
            self._links.add(member.link)
            if self._closed.is_set():
                member.link.close()
        return member

    def _ping(self, member: _Member) -> None:
        """Ends a process that hangs: what waits for it would wait for ever, and its connections with it."""
        while not member.link.closed and not self._closed.wait(PING):
            _end_those_that_hang([member], [member.link.submit("ping")])

    def _join(self, member: _Member) -> None:
        """Lets a process load what the others have, and answer with them."""
        try:
            while not self._closed.is_set():
                with self._changed:
                    offered, labels = dict(self._offered), self._labels
                    wanted = {key: loading for key, (loading, _) in offered.items()}
                    if member.has == wanted and member.labels is labels:
                        self._members.append(member)
                        self._changed.notify_all()
                        listens = self._listens
                        break
                for key in [key for key, loading in member.has.items() if wanted.get(key) != loading]:
                    member.link.call("unload", *key)
                    del member.has[key]
                for key in [key for key in wanted if key not in member.has]:
                    member.link.call("prepare", *key, offered[key][1])
                    member.link.call("offer", *key)
                    member.has[key] = wanted[key]
                member.link.call("label", labels)
                member.labels = labels
            else:
                return
            if listens:
                member.link.call("listen")
        except LinkClosed:  # it has ended
            pass


def _ended(calls: Sequence[Future]) -> int:
    """Waits for calls, and returns how many were to processes that have ended."""
    return sum([isinstance(call.exception(), LinkClosed) for call in calls])


def _raise_first(calls: Sequence[Future]) -> None:
    for call in calls:
        if isinstance(error := call.exception(), StatusError):
            raise error


def _end_those_that_hang(members: Sequence[_Member], calls: Sequence[Future]) -> None:
    """Waits for calls that take no time; ends the processes that have not done them in all that time."""
    concurrent.futures.wait(calls, PROMPT)
    for member, call in zip(members, calls, strict=True):
        if not call.done():
            log.error("process %d does not answer, and is ended", member.number)
            member.process.kill()
    concurrent.futures.wait(calls)
