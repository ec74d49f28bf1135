"""What a process has loaded, and what every request asks of it: which version answers, and that it stays meanwhile."""

import contextlib
import dataclasses
import functools
import gc
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tensorflow_serving.apis import model_pb2

from serving.server.models.bundle import Bundle
from serving.server.protocol.errors import StatusError, invalid_argument
from serving.server.protocol.requests import Servable


@dataclasses.dataclass(eq=False)
class LoadedVersion:
    """A version of a model, and who uses it. Its users are counted under the replica's lock.

    Attributes:
      model: the model's name.
      number: the version's number.
      path: its folder.
      bundle: what is loaded; None once it is unloaded.
      users: requests that run on it now.
    """

    model: str
    number: int
    path: Path
    bundle: Bundle | None
    users: int = 0

    @property
    def loaded(self) -> Bundle:
        """The bundle of a version in use."""
        assert self.bundle is not None  # who uses a version keeps it loaded
        return self.bundle

    @functools.cached_property
    def servable(self) -> Servable:
        """What a request to a version in use is checked against."""
        return Servable(self.model, self.number, self.loaded.signatures, self.loaded.plans)


class Replica:
    """The versions that this process has loaded. All methods may be called from any thread."""

    def __init__(
        self,
        load: Callable[[str, Path], Bundle],
        unloaded: Callable[[LoadedVersion], None] = lambda _: None,
    ) -> None:
        """Makes a replica that has loaded nothing.

        Args:
          load: loads and warms up a version of a named model; raises StatusError where it cannot.
          unloaded: called with each version before it is freed.
        """
        self._load, self._unloaded = load, unloaded
        self._lock = threading.Condition()  # of all below; notified when a version has one user less
        self._prepared: dict[tuple[str, int], LoadedVersion] = {}
        self._offered: dict[str, dict[int, LoadedVersion]] = {}  # model -> number -> version
        self._labels: dict[str, dict[str, int]] = {}  # model -> label -> number

    # What requests ask.

    def names(self) -> list[str]:
        """Returns the names of the models that answer."""
        with self._lock:
            return sorted(self._offered)

    @contextlib.contextmanager
    def use(self, spec: model_pb2.ModelSpec) -> Iterator[LoadedVersion]:
        """Yields the version that a ModelSpec asks for; it stays loaded until the block is left.

        Raises:
          StatusError: INVALID_ARGUMENT without a name or for an unknown label, NOT_FOUND for a version not served.
        """
        with self._lock:
            version = self._find(spec)
            version.users += 1
        try:
            yield version
        finally:
            self.release(version)

    def acquire(self, version: LoadedVersion) -> None:
        """Counts one more user of a version in use: one that outlives the request."""
        with self._lock:
            version.users += 1

    def release(self, version: LoadedVersion) -> None:
        """Counts one user less."""
        with self._lock:
            version.users -= 1
            if not version.users:
                self._lock.notify_all()

    def _find(self, spec: model_pb2.ModelSpec) -> LoadedVersion:
        if not spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        choice = spec.WhichOneof("version_choice")
        versions = self._offered.get(spec.name, {})
        if choice is None:
            if not versions:
                raise StatusError("NOT_FOUND", f"Servable not found for request: Latest({spec.name})")
            return versions[max(versions)]
        number = spec.version.value if choice == "version" else self._labelled(spec)
        if number not in versions:
            raise StatusError("NOT_FOUND", f"Servable not found for request: Specific({spec.name}, {number})")
        return versions[number]

    def _labelled(self, spec: model_pb2.ModelSpec) -> int:
        number = self._labels.get(spec.name, {}).get(spec.version_label)
        if number is None:
            raise invalid_argument(f"Unrecognized servable version label: {spec.version_label}")
        return number

    # What the manager asks.

    def load(self, model: str, number: int, path: Path) -> None:
        """Loads a version, and lets it answer.

        Raises:
          StatusError: it cannot be loaded, or does not answer its own warm-up requests.
        """
        self.prepare(model, number, path)
        self.offer(model, number)

    def prepare(self, model: str, number: int, path: Path) -> None:
        """Loads a version that does not answer yet; see `load`."""
        version = LoadedVersion(model, number, path, self._load(model, path))
        with self._lock:
            self._prepared[model, number] = version

    def offer(self, model: str, number: int) -> None:
        """Lets a version answer that `prepare` has loaded; one that answers already does so on."""
        with self._lock:
            if (version := self._prepared.pop((model, number), None)) is not None:
                self._offered.setdefault(model, {})[number] = version

    def unload(self, model: str, number: int) -> None:
        """Lets a version answer no more, and frees it once its last request has been answered."""
        with self._lock:
            version = self._prepared.pop((model, number), None) or self._offered.get(model, {}).pop(number, None)
            if not self._offered.get(model, True):
                del self._offered[model]
            if version is None:
                return
            self._lock.wait_for(lambda: not version.users)
            bundle, version.bundle = version.loaded, None
        self._unloaded(version)
        bundle.close()
        del bundle
        gc.collect()  # graphs are full of cycles, and each holds what the session loaded

    def label(self, labels: Mapping[str, Mapping[str, int]]) -> None:
        """Sets the labels of all models: model -> label -> number."""
        with self._lock:
            self._labels = {model: dict(numbers) for model, numbers in labels.items()}
