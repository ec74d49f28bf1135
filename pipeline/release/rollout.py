"""Brings a running server to what the labels say, without a request lost.

TensorFlow Serving refuses to move a label to a version that is not loaded, and unloads a version that its policy no
longer names although a label still does. So a change takes three steps, each when the server has made the one before:
load the new versions beside the old ones, move the labels, let the old ones go.

Source: https://www.tensorflow.org/tfx/serving/serving_config#assigning_string_labels_to_model_versions
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator

import filelock

from conveyor.errors import StorageError, storage_errors
from conveyor.files import replace_file
from pipeline.home.folders import Home
from pipeline.release import server_files
from pipeline.release.server_files import Served
from serving.client import Client, ServingError
from serving.model_store import LabelsDamaged
from serving.model_store.labels import STABLE

ENDPOINT, FOLLOWED, LOCK = "endpoint.json", "followed.json", "serve.lock"
WAIT_SECONDS = 60
_AVAILABLE = "AVAILABLE"


@dataclasses.dataclass
class Rollout:
    """How a server serves, and what it is to change next.

    Attributes:
      home: whose models are served.
      target: host:port of the server's gRPC.
      models: those whose labels are followed.
      current: how each model is served, as the server's file says.
    """

    home: Home
    target: str
    models: tuple[str, ...]
    current: dict[str, Served]

    def step(self) -> None:
        """Looks once at the labels and at the server, and writes the server's file where the next step can be made.

        What cannot be read or written now is tried again at the next look; what serves, serves on.
        """
        with contextlib.suppress(LabelsDamaged, StorageError, OSError):
            after = dict(self.current)
            for model in self.models:
                wanted = server_files.labelled(self.home, model)
                if wanted.versions and wanted != self.current[model]:
                    after[model] = self._next(model, self.current[model], wanted)
            if after != self.current:
                server_files.write_models(self.home, after)
                self.current = after

    def _next(self, model: str, current: Served, wanted: Served) -> Served:
        if not set(wanted.versions) <= set(current.versions):
            return Served(tuple(sorted({*current.versions, *wanted.versions})), current.labels)
        if not set(wanted.versions) <= answering(self.target, model):
            return current
        if current.labels != wanted.labels:
            return Served(current.versions, wanted.labels)
        moved = all(answering(self.target, model, label) == {number} for label, number in wanted.labels.items())
        return wanted if moved else current


def answering(target: str, model: str, label: str | None = None) -> set[int]:
    """Returns the versions of a model that a server has loaded, or the one of a label; none if it does not answer."""
    with Client(target, model, label=label, timeout=2, retries=0) as client:
        try:
            return {status.version for status in client.status() if status.state == _AVAILABLE}
        except ServingError:
            return set()


def announce(home: Home, models: tuple[str, ...]) -> None:
    """Writes down whose labels the server's files follow; nobody's where versions were chosen otherwise."""
    with storage_errors(f"The server's files in {home.server} cannot be written"):
        if models:
            replace_file(home.server / FOLLOWED, json.dumps(models))
        else:
            (home.server / FOLLOWED).unlink(missing_ok=True)


@contextlib.contextmanager
def following(home: Home, target: str, models: tuple[str, ...], current: dict[str, Served]) -> Iterator[Rollout]:
    """Yields a rollout; other commands know meanwhile that somebody follows the labels, and where the server is."""
    with contextlib.ExitStack() as stack:
        if not models:
            yield Rollout(home, target, models, current)
            return
        with contextlib.suppress(filelock.Timeout):  # another `conveyor serve` follows them too
            stack.enter_context(filelock.FileLock(home.server / LOCK, timeout=0))
        with storage_errors(f"The server's files in {home.server} cannot be written"):
            replace_file(home.server / ENDPOINT, json.dumps(target))
        stack.callback((home.server / ENDPOINT).unlink, missing_ok=True)
        yield Rollout(home, target, models, current)


def endpoint(home: Home) -> str | None:
    """Returns host:port of the `conveyor serve` that follows this home's labels; None where none does."""
    path = home.server / ENDPOINT
    return json.loads(path.read_text()) if path.exists() else None


def settle(home: Home, model: str) -> str | None:
    """Sees a change of labels through, and returns the address of the server that has made it, if one runs.

    Where `conveyor serve` follows the labels, waits for it. Where it does not, but left its files, as for a server
    that was started on them otherwise, writes them anew; that server reads them within a second.
    """
    with storage_errors(f"The labels are changed, but the server's files in {home.server} cannot be"):
        return _settle(home, model)


def _settle(home: Home, model: str) -> str | None:
    followed = home.server / FOLLOWED
    models = json.loads(followed.read_text()) if followed.exists() else []
    if model not in models:
        return None
    try:
        with filelock.FileLock(home.server / LOCK, timeout=0):
            server_files.write_models(home, {name: server_files.labelled(home, name) for name in models})
            return None
    except filelock.Timeout:
        pass
    deadline = time.monotonic() + WAIT_SECONDS
    while (target := endpoint(home)) and time.monotonic() < deadline:
        wanted = server_files.labelled(home, model)
        moved = answering(target, model, STABLE) == {wanted.labels.get(STABLE)}
        if moved and answering(target, model) == set(wanted.versions):
            return target
        time.sleep(0.2)
    return None
