"""The processes of a server: starts them, waits until they have loaded what they are to serve, and ends them."""

import contextlib
import math
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from conveyor.errors import ConveyorError, storage_errors
from conveyor.processes import ROOT
from serving.client import Client, ServingError

START_LIMIT = 300  # seconds until a server must answer
STOP_LIMIT = 30  # seconds that it is given to finish what runs
LONG = 15  # seconds until somebody who waits is told why
IN_ITS_PLACE = 10  # seconds that an older version is waited for where one cannot be loaded
OFTEN: dict[int, str] = {
    signal.SIGKILL: "most likely because memory ran out, or somebody did it",
    signal.SIGTERM: "which somebody sent to it alone",
}


class ServeFailed(ConveyorError):
    """The server ended, did not answer, or could load nothing."""


class ServerProcesses:
    """A server, and what runs beside it, as long as the block lasts.

    Attributes:
      log: what they write.
    """

    def __init__(self, commands: Sequence[Sequence[str]], output: IO[bytes], log: Path) -> None:
        self.log = log
        self._commands, self._output = commands, output
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "ServerProcesses":
        # Programs are found as from the user's folder, and modules are not: it may have some of the same names as ours.
        environment = {**os.environ, "PATH": os.pathsep.join(map(os.path.abspath, os.get_exec_path()))}
        try:
            for command in self._commands:
                with storage_errors(f"{command[0]} cannot be started"):
                    process = subprocess.Popen(
                        command, cwd=ROOT, env=environment, stdout=self._output, stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )  # fmt: skip
                self._started.append(process)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Lets each finish what it answers, and ends it by force if that takes too long."""
        running = [process for process in self._started if process.poll() is None]
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(STOP_LIMIT)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def check(self) -> None:
        """Sees that all run.

        Raises:
          ServeFailed: one has ended.
        """
        for process in self._started:
            if process.poll() is not None:
                if often := OFTEN.get(-process.returncode):  # from outside: what it said says nothing
                    name = signal.Signals(-process.returncode).name
                    raise ServeFailed(f"The server was ended by a signal, {name}, {often}. The log is {self.log}.")
                raise ServeFailed(
                    f"The server ended with {process.returncode}: {self._last_line()} The log is {self.log}."
                )

    def _last_line(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def loaded(
        self,
        target: str,
        models: Iterable[str],
        wanted: Callable[[str], list[int]],
        stopped: Callable[[], bool],
        slow: Callable[[str], None],
    ) -> tuple[dict[str, list[int]], list[str]]:
        """Waits until every version is loaded, or has failed to be, and each model has answered a request.

        Args:
          target: host:port of gRPC.
          models: their names.
          wanted: returns the versions of a model; more may come meanwhile.
          stopped: whether to wait no longer.
          slow: called once for a model that takes long, with a sentence: a server does not listen while it tries.

        Returns:
          The versions of each model that are loaded, of those that have one, and a sentence for each that is not.

        Raises:
          ServeFailed: a process has ended, a model did not answer in time, or none can be loaded.
        """
        loaded: dict[str, list[int]] = {}
        problems: list[str] = []
        for model in models:
            there, failed = self._settled(target, model, wanted, stopped, slow)
            problems += [not_loaded(model, number, why) for number, why in failed.items()]
            if there:
                loaded[model] = sorted(there)
            if failed and there and max(there) < min(failed):  # the embedded server takes an older one
                problems[-1] += f" In its place is version {max(there)}."
        if problems and not loaded and not stopped():
            raise ServeFailed(f"{' '.join(problems)} The log is {self.log}.")
        return loaded, problems

    def _settled(
        self,
        target: str,
        model: str,
        wanted: Callable[[str], list[int]],
        stopped: Callable[[], bool],
        slow: Callable[[str], None],
    ) -> tuple[set[int], dict[int, str]]:
        """Waits until each version that is wanted is loaded or has failed.

        Returns:
          What is loaded of the model, and which versions are not and why.
        """
        begun, failed_since, last, told = time.monotonic(), 0.0, "", False
        while not stopped():
            self.check()
            # Another client each time: one that was refused waits ever longer before it tries again.
            with Client(target, model, timeout=5, retries=0) as client:
                try:
                    versions = wanted(model)
                    there, failed = states(client, versions)
                    if there and there.issuperset(set(versions) - set(failed)):
                        _ask_once(client)
                        return there, failed
                    failed_since = failed_since or time.monotonic() if len(failed) == len(versions) else 0.0
                    if failed_since and time.monotonic() - failed_since > IN_ITS_PLACE:
                        return there, failed
                except ServingError as error:
                    last = f": {error}"
            if not told and time.monotonic() > begun + LONG:
                told = True
                slow(f"{model} does not answer yet; the server's log, {self.log}, ends with: {self._last_line()}")
            if time.monotonic() > begun + START_LIMIT:
                raise ServeFailed(f"{model} did not answer in {START_LIMIT} s{last}. The log is {self.log}.")
            time.sleep(0.1)
        return set(), {}

    def wait_for_page(self, host: str, port: int, stopped: Callable[[], bool]) -> None:
        """Waits until a page answers that is a process of its own."""
        while not stopped():
            self.check()
            with contextlib.suppress(OSError), socket.create_connection((host, port), 1):
                return
            time.sleep(0.1)


def states(client: Client, versions: Sequence[int]) -> tuple[set[int], dict[int, str]]:
    """Returns the versions that a server has loaded, and which of some versions it could not load and why.

    Raises:
      ServingError: it does not answer, or knows none of the model.
    """
    statuses = client.status()
    there = {status.version for status in statuses if status.state == "AVAILABLE"}
    failed = {s.version: s.error_message or s.error_code for s in statuses if s.error_code != "OK"}
    return there, {version: why for version, why in failed.items() if version in versions and version not in there}


def not_loaded(model: str, version: int, why: str) -> str:
    """Returns a sentence on a version that a server could not load."""
    first_line = why.strip().splitlines()[0].rstrip(".")
    return f"Version {version} of {model} cannot be loaded: {first_line}."


def _ask_once(client: Client) -> None:
    """Asks for one prediction of a blank image; of a model without images, for its metadata."""
    signature = client.metadata().get("predict_pixels")
    images = signature.inputs.get("images") if signature else None
    if images and images.shape and images.dtype == np.uint8 and math.prod(images.shape[1:]) > 0:
        client.predict(np.zeros((1, *images.shape[1:]), np.uint8))


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Yields a function that tells whether a stop signal has come: also that of a terminal that closes."""
    seen: list[int] = []
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as `nohup` has it
        numbers.append(signal.SIGHUP)
    before: list[Any] = [signal.signal(number, lambda received, _: seen.append(received)) for number in numbers]
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
