"""Brings a running server to what the labels say, without a request lost.

TensorFlow Serving refuses to move a label to a version that is not loaded, and unloads a version that its policy no
longer names although a label still does. So a change takes three steps, each when the server has made the one before:
load the new versions beside the old ones, move the labels, let the old ones go.

Source: https://www.tensorflow.org/tfx/serving/serving_config#assigning_string_labels_to_model_versions
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from conveyor.errors import StorageError, storage_errors
from pipeline.home.folders import Home
from pipeline.release import server_files
from pipeline.release.server_files import Served
from pipeline.release.server_folder import FolderHeld, ServerFolder, ServerRecord, known_servers, server_folders
from pipeline.release.server_processes import not_loaded, states
from serving.client import Client, ServingError
from serving.model_store import LabelsDamaged

WAIT_SECONDS = 60
FAILED_SECONDS = 5  # until a failure is of this change, and not of an earlier one
LEFT_SECONDS = 5  # the same for a server that may be another's


@dataclasses.dataclass(frozen=True)
class Followed:
    """What became of a change of a model's labels.

    Attributes:
      model: its name.
      labels: versions by label, as the labels are now.
      problem: why the server does not serve them so, a sentence; empty where it does.
    """

    model: str
    labels: dict[str, int]
    problem: str = ""


@dataclasses.dataclass
class Rollout:
    """How a server serves, and what it is to change next.

    Attributes:
      home: whose models are served.
      folder: of the server's files.
      target: host:port of the server's gRPC.
      models: those whose labels are followed.
      current: how each model is served, as the server's file says.
      say: is told when the server serves a model as its labels say now, and when it cannot.
      moving: models of which the former is still to be told.
      told: what was told last of a model that it cannot.
    """

    home: Home
    folder: Path
    target: str
    models: tuple[str, ...]
    current: dict[str, Served]
    say: Callable[[Followed], None]
    moving: set[str] = dataclasses.field(default_factory=set)
    told: dict[str, str] = dataclasses.field(default_factory=dict)

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
                    self.moving.add(model)
                    self._tell_of_failure(model, wanted)
                elif model in self.moving and self._answers(model, wanted):
                    self.moving.remove(model)
                    self.told.pop(model, None)
                    self.say(Followed(model, wanted.labels))
            if after != self.current:
                server_files.write_models(self.home, self.folder, after)
                self.current = after

    def _next(self, model: str, current: Served, wanted: Served) -> Served:
        if not set(wanted.versions) <= set(current.versions):
            return Served(tuple(sorted({*current.versions, *wanted.versions})), current.labels)
        if not set(wanted.versions) <= answering(self.target, model):
            return current
        if current.labels != wanted.labels:
            return Served(current.versions, wanted.labels)
        return wanted if self._answers(model, wanted) else current

    def _tell_of_failure(self, model: str, wanted: Served) -> None:
        """Says once why the server cannot load what the labels say."""
        problem = failure(self.target, model, wanted.versions)
        if problem and problem != self.told.get(model):
            self.told[model] = problem
            self.say(Followed(model, wanted.labels, f"{problem} What was served before is served on."))

    def _answers(self, model: str, wanted: Served) -> bool:
        """Whether the server answers to every label with the version that has it."""
        return all(answering(self.target, model, label) == {number} for label, number in wanted.labels.items())


def answering(target: str, model: str, label: str | None = None) -> set[int]:
    """Returns the versions of a model that a server has loaded, or the one of a label; none if it does not answer."""
    try:
        with Client(target, model, label=label, timeout=2, retries=0) as client:
            return states(client, ())[0]
    except ServingError:
        return set()


def failure(target: str, model: str, versions: Sequence[int]) -> str:
    """Returns a sentence on the first of some versions that a server could not load; empty where there is none."""
    try:
        with Client(target, model, timeout=2, retries=0) as client:
            _, failed = states(client, versions)
    except ServingError:
        return ""
    return next((not_loaded(model, number, why) for number, why in failed.items()), "")


@dataclasses.dataclass(frozen=True)
class Settled:
    """Whether a server has made a change of the labels.

    Attributes:
      target: host:port of its gRPC, or its folder where that is not known.
      made: whether it answers as the labels say.
      problem: what is in the way, where that is known; a sentence.
      runs: whether it runs, or may, and is to follow; else `problem` says what there is to know.
    """

    target: str
    made: bool
    problem: str = ""
    runs: bool = True


def endpoint(home: Home, model: str) -> str | None:
    """Returns host:port of a running `conveyor serve` that follows a model's labels; None where none does."""
    return next((server.target for server in known_servers(home) if model in server.followed), None)


def settle(home: Home, model: str) -> list[Settled]:
    """Sees a change of a model's labels through, and returns how each running server took it.

    A running `conveyor serve` that follows the labels is waited for. Where none runs, the files that one left are
    written anew, as somebody may have started a server on them; that server reads them within a second. What goes
    wrong with one server is told of it, and hinders no other: the labels have moved.
    """
    settled = []
    for folder in server_folders(home):
        target, runs = str(folder.path), True
        try:
            record = folder.record()
            if record is not None and model in record.pinned and folder.is_held:
                problem = f"{record.target} was started with --versions or --label, and does not follow."
                settled.append(Settled(record.target, made=False, problem=problem, runs=False))
            if record is None or model not in record.followed:
                continue
            target, runs = record.target, folder.is_held
            if not runs:
                with contextlib.suppress(FolderHeld), folder.held():
                    _write_as_labelled(home, folder, record)
                if not folder.is_held:
                    settled += _left_behind(home, model, target)
                    continue
                runs = True  # since a moment ago
            made = _answers_as_labelled(home, model, target, WAIT_SECONDS)
            problem = "" if made else failure(target, model, server_files.labelled(home, model).versions)
            settled.append(Settled(target, made, problem))
        except (LabelsDamaged, StorageError) as error:
            problem = str(error) if runs else f"The files of {target}, which does not run, are as they were: {error}"
            settled.append(Settled(target, made=False, problem=problem, runs=runs))
    return settled


def _left_behind(home: Home, model: str, target: str) -> list[Settled]:
    """Returns how a server took a change that answers although no `conveyor serve` of this home looks after it.

    One that was killed leaves its server behind, and `--files-only` is for servers that others start. Both read the
    files on. It may also be another home's.
    """
    if not answering(target, model):
        return []
    made = _answers_as_labelled(home, model, target, LEFT_SECONDS)
    problem = "no `conveyor serve` of this home looks after it. Restart it, or stop it if one that was killed left it."
    return [Settled(target, made, "" if made else problem)]


def _write_as_labelled(home: Home, folder: ServerFolder, record: ServerRecord) -> None:
    models = {name: server_files.labelled(home, name) for name in record.followed}
    with storage_errors(f"The server's files in {folder.path} cannot be written"):
        server_files.write_models(home, folder.path, {name: s for name, s in models.items() if s.versions})


def _answers_as_labelled(home: Home, model: str, target: str, seconds: float) -> bool:
    """Waits until a server answers as the labels say; False where it does not in time."""
    started = time.monotonic()
    while time.monotonic() < started + seconds:
        wanted = server_files.labelled(home, model)
        moved = all(answering(target, model, label) == {version} for label, version in wanted.labels.items())
        if wanted.labels and moved and answering(target, model) == set(wanted.versions):
            return True
        if time.monotonic() > started + FAILED_SECONDS and failure(target, model, wanted.versions):
            break
        time.sleep(0.2)
    return False
