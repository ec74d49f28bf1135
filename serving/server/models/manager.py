"""Keeps the wanted versions of every model loaded, and hands them out.

A new version is loaded and warmed up before the one that it replaces is unloaded; an old one is unloaded when its last
request has been answered. A version that cannot be loaded is retried, reported, and takes nothing away.

Source: https://www.tensorflow.org/tfx/serving/architecture (the availability-preserving policy)
"""

import contextlib
import dataclasses
import enum
import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from serving.server.models import version_policy
from serving.server.models.bundle import Bundle
from serving.server.protocol.errors import StatusError, invalid_argument

log = logging.getLogger(__name__)


class State(enum.IntEnum):
    """A version's state, numbered as in get_model_status.proto."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclasses.dataclass(eq=False)
class Version:
    """A version of a model, and who uses it.

    Attributes:
      error: why it could not be loaded; None where nothing is wrong.
      users: requests that run on it now.
    """

    model: str
    number: int
    path: Path
    state: State = State.START
    error: StatusError | None = None
    bundle: Bundle | None = None
    users: int = 0


@dataclasses.dataclass
class Model:
    """A configured model."""

    config: Any
    versions: dict[int, Version] = dataclasses.field(default_factory=dict)
    labels: dict[str, int] = dataclasses.field(default_factory=dict)
    missing: str = ""

    def available(self) -> list[int]:
        """Returns the numbers of the versions that answer, rising."""
        return sorted(number for number, version in self.versions.items() if version.state == State.AVAILABLE)


class Manager:
    """The models of a server. All methods may be called from any thread."""

    def __init__(
        self,
        load: Callable[[str, Path], Bundle],
        *,
        poll_seconds: float = 1,
        max_retries: int = 5,
        retry_seconds: float = 60,
        early_labels: bool = False,
        any_labels: bool = False,
        unloaded: Callable[[Version], None] = lambda _: None,
    ) -> None:
        """Makes a manager without models.

        Args:
          load: loads and warms up a version of a named model; raises StatusError where it cannot.
          poll_seconds: how often the folders are read; 0 for once, below 0 for never.
          max_retries: how often loading is tried again.
          retry_seconds: how long between.
          early_labels: whether a new label may name a version that is not loaded yet.
          any_labels: whether any label may.
          unloaded: told of each version before it is freed.
        """
        self._load, self._unloaded = load, unloaded
        self._poll_seconds, self._max_retries, self._retry_seconds = poll_seconds, max_retries, retry_seconds
        self._early_labels, self._any_labels = early_labels, any_labels
        self._models: dict[str, Model] = {}
        self._changed = threading.Condition()
        self._reload = threading.Lock()
        self._reconciling = threading.Lock()
        self._stopped = threading.Event()
        self._workers = ThreadPoolExecutor(thread_name_prefix="load")
        self._poller = threading.Thread(target=self._poll, name="poll", daemon=True)

    # What requests ask.

    def names(self) -> list[str]:
        """Returns the models' names."""
        with self._changed:
            return sorted(self._models)

    def serves(self, name: str) -> bool:
        """Whether a model of this name is configured."""
        return name in self._models

    @contextlib.contextmanager
    def use(self, spec: Any) -> Iterator[Version]:
        """Yields the version that a ModelSpec asks for; it stays loaded until the block is left.

        Raises:
          StatusError: INVALID_ARGUMENT without a name or for an unknown label, NOT_FOUND for a version not served.
        """
        with self._changed:
            version = self._find(spec)
            version.users += 1
        try:
            yield version
        finally:
            self.release(version)

    def keep(self, version: Version) -> None:
        """Counts one more user of a version in use: one that outlives the request."""
        with self._changed:
            version.users += 1

    def release(self, version: Version) -> None:
        """Counts one user less."""
        with self._changed:
            version.users -= 1
            if not version.users:
                self._changed.notify_all()

    def status(self, spec: Any) -> list[Version]:
        """Returns what is known of a model's versions, the newest first, or of the one that is asked for.

        Raises:
          StatusError: NOT_FOUND, INVALID_ARGUMENT for an unknown label.
        """
        with self._changed:
            model = self._models.get(spec.name)
            known = dict(model.versions) if model else {}
            choice = spec.WhichOneof("version_choice")
            if choice is None:
                if not known:
                    raise StatusError("NOT_FOUND", f"Could not find any versions of model {spec.name}")
                return [known[number] for number in sorted(known, reverse=True)]
            number = spec.version.value if choice == "version" else self._labelled(spec)
            if number not in known:
                raise StatusError("NOT_FOUND", f"Could not find version {number} of model {spec.name}")
            return [known[number]]

    def _find(self, spec: Any) -> Version:
        if not spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        choice = spec.WhichOneof("version_choice")
        model = self._models.get(spec.name)
        asked = f"Latest({spec.name})"
        numbers = model.available() if model else []
        if choice is not None:
            number = spec.version.value if choice == "version" else self._labelled(spec)
            asked = f"Specific({spec.name}, {number})"
            numbers = [number] if number in numbers else []
        if not numbers or model is None:
            raise StatusError("NOT_FOUND", f"Servable not found for request: {asked}")
        return model.versions[numbers[-1]]

    def _labelled(self, spec: Any) -> int:
        model = self._models.get(spec.name)
        if model is None or spec.version_label not in model.labels:
            raise invalid_argument(f"Unrecognized servable version label: {spec.version_label}")
        return model.labels[spec.version_label]

    # What is configured.

    def configure(self, config: Any, timeout: float | None = None) -> None:
        """Takes a ModelServerConfig, and waits until each new model of it has a version that answers, or has failed.

        Args:
          config: the configuration; models that it does not name are unloaded.
          timeout: how long to wait, seconds; None for as long as it takes.

        Raises:
          StatusError: INVALID_ARGUMENT, FAILED_PRECONDITION for a label of a version that is not loaded, UNKNOWN
            where a new model did not become available. What was served before is served on.
        """
        with self._reload:
            self._validate(config)
            with self._changed:
                labels = {entry.name: self._checked_labels(entry) for entry in config.model_config_list.config}
                new = [name for name in labels if name not in self._models]
                for name in set(self._models) - set(labels):
                    self._models[name].config = None
                for entry in config.model_config_list.config:
                    model = self._models.setdefault(entry.name, Model(entry))
                    model.config, model.labels = entry, labels[entry.name]
            self._reconcile()
            if not self._poller.is_alive() and self._poll_seconds > 0 and not self._stopped.is_set():
                self._poller.start()
            self._wait_for(new, timeout)

    def close(self) -> None:
        """Stops polling and loading, and frees every version once its requests have been answered."""
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()
            loaded = [v for model in self._models.values() for v in model.versions.values() if v.bundle]
        self._workers.shutdown(wait=True)
        for version in loaded:
            if version.state == State.AVAILABLE:
                self._unload(version)

    def _validate(self, config: Any) -> None:
        if config.WhichOneof("config") != "model_config_list":
            raise invalid_argument("Only a model_config_list can be served; custom_model_config is not supported.")
        seen = set()
        for entry in config.model_config_list.config:
            if not entry.name or not entry.base_path:
                raise invalid_argument("Each model in model_config_list needs a name and a base_path.")
            if entry.name in seen:
                raise invalid_argument(f"Illegal to list model {entry.name} multiple times in config list")
            seen.add(entry.name)
            if entry.model_platform != "tensorflow" and entry.model_type != 1:  # 1: the deprecated TENSORFLOW
                raise invalid_argument(
                    f"Model {entry.name} requests unsupported platform {entry.model_platform!r}; only 'tensorflow' is."
                )
            if "://" in entry.base_path:
                raise invalid_argument(f"Model {entry.name}: only local folders are served, not {entry.base_path}.")
            if not Path(entry.base_path).is_absolute():
                raise invalid_argument(
                    f"Expected model {entry.name} to have an absolute path or URI; got base_path()={entry.base_path}"
                )

    def _checked_labels(self, entry: Any) -> dict[str, int]:
        model = self._models.get(entry.name)
        numbers = model.available() if model else []
        for label, number in entry.version_labels.items():
            new = model is None or model.labels.get(label) is None
            if number not in numbers and not self._any_labels and not (new and self._early_labels):
                raise StatusError(
                    "FAILED_PRECONDITION",
                    f"Request to assign label to version {number} of model {entry.name}, "
                    "which is not currently available for inference",
                )
        return dict(entry.version_labels)

    def _wait_for(self, names: list[str], timeout: float | None) -> None:
        def settled() -> bool:
            return self._stopped.is_set() or all(
                self._models[name].available()
                or self._models[name].missing
                or any(v.state == State.END and v.error for v in self._models[name].versions.values())
                for name in names
            )

        with self._changed:
            self._changed.wait_for(settled, timeout)
            failed = [name for name in names if not self._models[name].available()]
            if failed:
                reasons = [str(v.error) for name in failed for v in self._models[name].versions.values() if v.error] + [
                    self._models[name].missing for name in failed if self._models[name].missing
                ]
                raise StatusError(
                    "UNKNOWN",
                    f"{len(failed)} servable(s) did not become available: {{{', '.join(failed)}}}; "
                    f"{'; '.join(reasons) or 'nothing was found to load'}",
                )

    # What happens in the background.

    def _poll(self) -> None:
        while not self._stopped.wait(self._poll_seconds):
            try:
                self._reconcile()
            except Exception:
                log.exception("reading the model folders failed; it is tried again")

    def _reconcile(self) -> None:
        """Starts to load what is wanted and not there, and to unload what is not wanted and can be spared."""
        with self._reconciling:  # a folder read earlier must not be acted on later
            self._reconcile_once()

    def _reconcile_once(self) -> None:
        with self._changed:
            entries = [(name, model.config) for name, model in self._models.items()]
        for name, config in entries:
            paths = self._wanted(name, config)
            with self._changed:
                model = self._models.get(name)
                if model is None or paths is None:
                    continue
                for number, path in paths.items():
                    version = model.versions.get(number)
                    if version is None or (version.state == State.END and (not version.error or path != version.path)):
                        version = model.versions[number] = Version(name, number, path)
                        self._workers.submit(self._bring, version)
                self._spare(model, paths)
                if model.config is None and all(v.state == State.END for v in model.versions.values()):
                    del self._models[name]

    def _wanted(self, name: str, config: Any) -> dict[int, Path] | None:
        """Returns the versions to serve; None where the folder does not say, and all stays as it is."""
        if config is None:
            return {}
        complaint = ""
        found: dict[int, Path] = {}
        paths: dict[int, Path] | None = None
        try:
            found = version_policy.available(Path(config.base_path))
            paths = version_policy.wanted(found, config.model_version_policy)
        except OSError as error:
            complaint = f"Could not find base path {config.base_path} for servable {name}: {error.strerror}"
        if not paths and not complaint:
            complaint = f"No versions of servable {name} found under base path {config.base_path}"
        with self._changed:
            model = self._models[name]
            if complaint and complaint != model.missing:
                log.warning("%s. What is loaded is served on.", complaint)
            model.missing = complaint
            return (paths | self._substitute(model, paths, found)) if paths else None

    def _substitute(self, model: Model, paths: dict[int, Path], found: dict[int, Path]) -> dict[int, Path]:
        """Returns the newest older version, where nothing answers and all that is wanted has failed at least once."""
        failed = {number for number, version in model.versions.items() if version.error}
        if model.config is None or not set(paths) <= failed or set(model.available()) & set(paths):
            return {}
        older = [number for number in found if number < min(paths) and number not in failed]
        return {max(older): found[max(older)]} if older else {}

    def _spare(self, model: Model, paths: dict[int, Path]) -> None:
        """Unloads versions that are not wanted, if a wanted one answers; forgets failed ones that are gone."""
        answering = [number for number in model.available() if number in paths]
        for number in sorted(model.versions):
            version = model.versions[number]
            if number in paths:
                continue
            if version.state == State.AVAILABLE and (answering or model.config is None):
                version.state = State.UNLOADING
                self._workers.submit(self._unload, version)
            elif version.state == State.END and version.error and not version.path.exists():
                del model.versions[number]

    def _bring(self, version: Version) -> None:
        """Loads a version, with retries."""
        version.state = State.LOADING
        for attempt in range(self._max_retries + 1):
            started = time.monotonic()
            try:
                bundle = self._load(version.model, version.path)
            except Exception as error:  # whatever a model does, the others are served on
                if not isinstance(error, StatusError):
                    error = StatusError("UNKNOWN", f"{type(error).__name__}: {error}")
                version.error = error
                log.error("%s/%d, attempt %d: %s", version.model, version.number, attempt + 1, error)
                if not self._stopped.is_set():
                    self._reconcile()  # an older one may have to take its place
                gone = not version.path.exists()
                if gone or attempt == self._max_retries or self._stopped.wait(self._retry_seconds):
                    break
            else:
                with self._changed:
                    version.bundle, version.error, version.state = bundle, None, State.AVAILABLE
                    self._changed.notify_all()
                log.info("%s/%d is loaded, %.1f s", version.model, version.number, time.monotonic() - started)
                if not self._stopped.is_set():
                    self._reconcile()
                return
        with self._changed:
            version.state = State.END
            self._changed.notify_all()

    def _unload(self, version: Version) -> None:
        with self._changed:
            version.state = State.UNLOADING
            self._changed.wait_for(lambda: not version.users)
            bundle, version.bundle = version.bundle, None
        if bundle:
            self._unloaded(version)
            bundle.close()
        with self._changed:
            version.state = State.END
            self._changed.notify_all()
        del bundle
        gc.collect()  # graphs are full of cycles, and each holds what the session loaded
        log.info("%s/%d is unloaded", version.model, version.number)
