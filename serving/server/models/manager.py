"""Keeps the wanted versions of every model loaded.

A new version is loaded and warmed up before the one that it replaces is unloaded. A version that cannot be loaded is
retried, reported, and takes nothing away. Where versions are loaded, in this process or in several, is not its matter.

States, threads and locks are explained in docs/architecture.md, "The version manager".

Source: https://www.tensorflow.org/tfx/serving/architecture (the availability-preserving policy)
"""

import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from tensorflow_serving.apis import model_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving.server.models import model_config, version_policy
from serving.server.models.versions import Model, State, Version
from serving.server.protocol.errors import StatusError, invalid_argument

log = logging.getLogger(__name__)


class Replicas(Protocol):
    """Where versions are loaded: a `Replica`, or one in each of several processes."""

    def load(self, model: str, number: int, path: Path) -> None:
        """Loads a version, and lets it answer.

        Raises:
          StatusError: it cannot be loaded, or does not answer its own warm-up requests.
        """

    def unload(self, model: str, number: int) -> None:
        """Lets a version answer no more, and frees it once its last request has been answered."""

    def label(self, labels: Mapping[str, Mapping[str, int]]) -> None:
        """Sets the labels of all models: model -> label -> number."""


class Manager:
    """The models of a server. All methods may be called from any thread."""

    def __init__(
        self,
        replicas: Replicas,
        *,
        poll_seconds: float = 1,
        max_retries: int = 5,
        retry_seconds: float = 60,
        early_labels: bool = False,
        any_labels: bool = False,
    ) -> None:
        """Makes a manager without models.

        Args:
          replicas: where versions are loaded.
          poll_seconds: how often the folders are read; 0 for once, below 0 for never.
          max_retries: how often loading is tried again.
          retry_seconds: how long between.
          early_labels: whether a new label may name a version that is not loaded yet.
          any_labels: whether any label may.
        """
        self._replicas = replicas
        self._poll_seconds, self._max_retries, self._retry_seconds = poll_seconds, max_retries, retry_seconds
        self._early_labels, self._any_labels = early_labels, any_labels
        self._models: dict[str, Model] = {}
        self._config = model_server_config_pb2.ModelServerConfig()  # what was taken last, from wherever it came
        self._changed = threading.Condition()  # the lock of all state above; notified when a version changes
        self._configuring = threading.Lock()  # one configuration at a time
        self._reconciling = threading.Lock()  # a folder that was read earlier must not be acted on later
        self._stopped = threading.Event()
        self._workers = ThreadPoolExecutor(thread_name_prefix="load")
        self._configurer = ThreadPoolExecutor(1, thread_name_prefix="configure")  # waits long, and keeps no other out
        self._poller = threading.Thread(target=self._poll, name="poll", daemon=True)

    def status(self, spec: model_pb2.ModelSpec) -> list[Version]:
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

    def _labelled(self, spec: model_pb2.ModelSpec) -> int:
        model = self._models.get(spec.name)
        if model is None or spec.version_label not in model.labels:
            raise invalid_argument(f"Unrecognized servable version label: {spec.version_label}")
        return model.labels[spec.version_label]

    # What is configured.

    @property
    def config(self) -> model_server_config_pb2.ModelServerConfig:
        """The configuration that was taken last."""
        with self._changed:
            return self._config

    def configure(self, config: model_server_config_pb2.ModelServerConfig, timeout: float | None = None) -> None:
        """Takes a ModelServerConfig, and waits until each new model of it has a version that answers, or has failed.

        Args:
          config: the configuration; models that it does not name are unloaded.
          timeout: how long to wait, seconds; None for as long as it takes.

        Raises:
          StatusError: INVALID_ARGUMENT, FAILED_PRECONDITION for a label of a version that is not loaded, UNKNOWN
            where a new model did not become available. What was served before is served on.
        """
        with self._configuring:
            model_config.validate(config)
            with self._reconciling:  # no version is unloaded that a label still names
                with self._changed:
                    labels = {entry.name: self._checked_labels(entry) for entry in config.model_config_list.config}
                    new = [name for name in labels if name not in self._models]
                    for name in set(self._models) - set(labels):
                        self._models[name].config = None
                    for entry in config.model_config_list.config:
                        model = self._models.setdefault(entry.name, Model(entry))
                        model.config, model.labels = entry, labels[entry.name]
                    self._config = config
                self._replicas.label(labels)
            self._reconcile()
            if not self._poller.is_alive() and self._poll_seconds > 0 and not self._stopped.is_set():
                self._poller.start()
            self._wait_for(new, timeout)

    def configure_soon(self, config: model_server_config_pb2.ModelServerConfig) -> Future[None]:
        """Takes a ModelServerConfig after those that came before; see `configure`."""
        return self._configurer.submit(self.configure, config)

    def stop(self) -> None:
        """Stops polling, and begins to load nothing more."""
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Stops, waits for what is being loaded, and frees every version once its requests have been answered."""
        self.stop()
        self._configurer.shutdown(wait=True, cancel_futures=True)
        self._workers.shutdown(wait=True)
        with self._changed:
            versions = [version for model in self._models.values() for version in model.versions.values()]
            loaded = [version for version in versions if version.state == State.AVAILABLE]
        for version in loaded:
            self._unload(version)

    def _checked_labels(self, entry: model_server_config_pb2.ModelConfig) -> dict[str, int]:
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
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopped.is_set() or all(self._models[name].is_settled() for name in names), timeout
            )
            failed = [name for name in names if not self._models[name].available()]
            reasons = [reason for name in failed for reason in self._models[name].failures()]
        if failed:
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
        """Starts to load what is wanted and not there, and to unload what is not wanted and not needed."""
        with self._reconciling:
            with self._changed:
                entries = [(name, model.config) for name, model in self._models.items()]
            for name, config in entries:
                found, complaint = _found(name, config)
                with self._changed:
                    if (model := self._models.get(name)) is not None:
                        self._reconcile_model(name, model, config, found, complaint)

    def _reconcile_model(
        self,
        name: str,
        model: Model,
        config: model_server_config_pb2.ModelConfig | None,
        found: dict[int, Path],
        complaint: str,
    ) -> None:
        """Brings one model to what its folder and its configuration say. Called under the lock.

        Args:
          name: the model's name.
          model: the model.
          config: the configuration that the folder was read for; None to unload all versions.
          found: the folder's versions, number to path.
          complaint: why the folder could not be read; empty where it could.
        """
        paths = {} if config is None else version_policy.wanted(found, config.model_version_policy)
        unreadable = bool(complaint)
        if config is not None and not paths:
            complaint = (
                complaint or f"No versions of servable {name} found under base path {config.base_path}{_hint(config)}"
            )
        if complaint and complaint != model.missing:
            log.warning("%s.%s", complaint, " What is loaded is served on." if unreadable else "")
        model.missing = complaint
        if unreadable:
            return  # the folder does not say, so all stays as it is
        asked = set(paths)
        if config is not None:
            paths |= self._fallback(model, paths, found)
        for number, path in paths.items():
            version = model.versions.get(number)
            if version is None or _is_wanted_anew(version, path, number in asked):
                version = model.versions[number] = Version(name, number, path)
                self._workers.submit(self._load_with_retries, version)
        for number, version in model.versions.items():
            version.wanted = number in asked
        self._unload_unwanted(model, paths, found)
        if model.config is None and all(version.state == State.END for version in model.versions.values()):
            del self._models[name]

    def _fallback(self, model: Model, paths: dict[int, Path], found: dict[int, Path]) -> dict[int, Path]:
        """Returns the newest older version, where nothing answers and all that is wanted has failed at least once."""
        failed = {number for number, version in model.versions.items() if version.error}
        if not paths or not set(paths) <= failed or set(model.available()) & set(paths):
            return {}
        older = [number for number in found if number < min(paths) and number not in failed]
        return {max(older): found[max(older)]} if older else {}

    def _unload_unwanted(self, model: Model, paths: dict[int, Path], found: dict[int, Path]) -> None:
        """Unloads versions that are not wanted, if a wanted one answers; forgets failed ones that are gone."""
        answering = [number for number in model.available() if number in paths]
        for number in sorted(set(model.versions) - set(paths)):
            version = model.versions[number]
            if version.state == State.AVAILABLE and (answering or not paths):
                version.state = State.UNLOADING
                self._workers.submit(self._unload, version)
            elif version.state == State.END and version.error and number not in found:
                del model.versions[number]

    def _load_with_retries(self, version: Version) -> None:
        """Loads a version, with retries; runs in a worker."""
        self._change(version, State.LOADING)
        for attempt in range(self._max_retries + 1):
            started = time.monotonic()
            try:
                self._replicas.load(version.model, version.number, version.path)
            except Exception as problem:  # whatever a model does, the others are served on
                error = problem if isinstance(problem, StatusError) else StatusError("UNKNOWN", _described(problem))
                if self._stopped.is_set():
                    self._change(version, State.END, error)
                    return
                self._change(version, State.LOADING, error)
                log.error("%s/%d, attempt %d: %s", version.model, version.number, attempt + 1, error)
                self._reconcile_unless_stopped()  # an older one may have to take its place
                gone = not version.path.exists()
                if gone or attempt == self._max_retries or self._stopped.wait(self._retry_seconds):
                    self._change(version, State.END, error)
                    return
            else:
                self._change(version, State.AVAILABLE)
                log.info("%s/%d is loaded, %.1f s", version.model, version.number, time.monotonic() - started)
                self._reconcile_unless_stopped()
                return

    def _unload(self, version: Version) -> None:
        """Frees a version once its last request has been answered."""
        self._change(version, State.UNLOADING)
        self._replicas.unload(version.model, version.number)
        self._change(version, State.END)
        log.info("%s/%d is unloaded", version.model, version.number)

    def _change(self, version: Version, state: State, error: StatusError | None = None) -> None:
        """Sets a version's state and error together, and wakes who waits for a change."""
        with self._changed:
            version.state, version.error = state, error
            self._changed.notify_all()

    def _reconcile_unless_stopped(self) -> None:
        if not self._stopped.is_set():
            self._reconcile()


def _found(name: str, config: model_server_config_pb2.ModelConfig | None) -> tuple[dict[int, Path], str]:
    """Returns the versions in a model's folder, or why it cannot be read. Reads the disk: called without the lock."""
    if config is None:
        return {}, ""
    try:
        return version_policy.available(Path(config.base_path)), ""
    except OSError as error:
        return {}, f"Could not find base path {config.base_path} for servable {name}: {error.strerror}"


def _hint(config: model_server_config_pb2.ModelConfig) -> str:
    """Returns what to do where a base path is a version's own folder."""
    is_one = (Path(config.base_path) / "saved_model.pb").exists()
    return ": it is a version itself; name the folder that it is in, under a number" if is_one else ""


def _is_wanted_anew(version: Version, path: Path, asked: bool) -> bool:
    """Whether to load a version again: one that was unloaded, or that failed and is asked for anew, or is elsewhere."""
    return version.state == State.END and (not version.error or path != version.path or (asked and not version.wanted))


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
