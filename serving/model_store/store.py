"""The folder of served models, `<model>/<version>/`, and all that is known of a version from its own files.

TensorFlow Serving loads any folder with a numeric name the moment it sees it, complete or not, and never looks at that
number again. So a version is built under another name, flushed to the disk, verified, and appears by one rename.
Labels are kept beside the versions, in a file that TensorFlow Serving does not look at.
"""

import contextlib
import dataclasses
import datetime
import json
import shutil
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from conveyor.errors import ConfigError, ConveyorError, StorageError, storage_errors
from conveyor.files import file_digest, flush, flush_tree, replace_file, tree_digest
from serving.model_store.identity import model_identity
from serving.model_store.labels import NAMES, Labels
from serving.model_store.records import RECORD, ModelDataset, VersionRecord, read_dataset

MODEL_FILES = ("saved_model.pb", "fingerprint.pb", "variables", "assets")
LABELS = "labels.json"
LAST_VERSION = ".last_version"
STAGING = ".staging"
REMOVED = ".removed-"
LOCK_SECONDS = 30
NOTHING: Mapping[Path, Path] = types.MappingProxyType({})


class LabelsDamaged(ConveyorError):
    """The file of labels cannot be read."""


class ModelWithdrawn(ConveyorError):
    """The model is one that a person took back."""


@dataclasses.dataclass(frozen=True)
class StableMove:
    """A change of the stable version.

    Attributes:
      model: the model's name.
      before: the version that was stable; None where there was none.
      after: the version that is stable now.
    """

    model: str
    before: int | None
    after: int


@dataclasses.dataclass(frozen=True)
class Pushed:
    """The outcome of a push.

    Attributes:
      version: the number that the model is served under.
      path: its folder.
      new: False if the same model was there already.
    """

    version: int
    path: Path
    new: bool


@dataclasses.dataclass(frozen=True)
class ModelStore:
    """All models of a folder.

    Attributes:
      root: the folder; it holds one folder a model.
    """

    root: Path

    def model(self, name: str) -> "StoredModel":
        """Returns a model, which need not have a version yet."""
        return StoredModel(self.root / name)

    def models(self) -> list["StoredModel"]:
        """Returns every model, in the order of their names.

        Raises:
          StorageError: the folder cannot be read.
        """
        return [StoredModel(path) for path in _folders(self.root)]

    def pushed(self, name: str) -> "StoredModel":
        """Returns a model that has at least one version.

        Raises:
          ConfigError: it has none.
        """
        model = self.model(name)
        if not model.versions():
            raise ConfigError(f"No model {name} has been pushed in {self.root.parent}.")
        return model


@dataclasses.dataclass(frozen=True)
class StoredModel:
    """A model and its versions.

    Attributes:
      folder: holds a folder a version, and the labels.
    """

    folder: Path

    @property
    def name(self) -> str:
        """The model's name."""
        return self.folder.name

    def versions(self) -> list[int]:
        """Returns the numbers of the versions, rising.

        Raises:
          StorageError: the folder cannot be read.
        """
        return sorted(int(path.name) for path in _folders(self.folder) if path.name.isdecimal())

    def path(self, version: int) -> Path:
        """Returns a version's folder."""
        return self.folder / str(version)

    def require(self, version: int) -> None:
        """Does nothing, if a version is there.

        Raises:
          ConfigError: it is not.
        """
        if version not in self.versions():
            raise ConfigError(f"There is no version {version} of {self.name}; {self._known()}.")

    def _known(self) -> str:
        there = self.versions()
        if not there:
            return "none has been pushed"
        return f"there is only {there[0]}" if len(there) == 1 else f"there are {', '.join(map(str, there))}"

    def record(self, version: int) -> VersionRecord | None:
        """Returns what the push of a version wrote down; None where somebody else put the version there."""
        return VersionRecord.read(self.path(version))

    def dataset(self, version: int) -> ModelDataset | None:
        """Returns the shape and the classes of a version's images; None where the version does not say."""
        return read_dataset(self.path(version))

    def digest(self, version: int) -> str:
        """Returns the SHA-256 over a version's files, but for our own record."""
        return tree_digest(self.path(version), without=lambda name: name == RECORD)

    def identity(self, version: int) -> str:
        """Returns what a version has in common with every other export of its model; see `model_identity`."""
        record = self.record(version)
        return (record.identity if record else "") or model_identity(self.path(version))

    def _identity_if_intact(self, version: int) -> str | None:
        """Returns a version's identity; None where it is not what was pushed, which is not held against its model."""
        try:
            return self.identity(version) if self.is_intact(version) else None
        except OSError:
            return None

    def is_intact(self, version: int) -> bool:
        """Whether a version is there, and is the model that was pushed, where its record says which that was."""
        if not self.path(version).is_dir():
            return False
        record = self.record(version)
        says_nothing = not record.digest if record else not (self.path(version) / RECORD).exists()
        return says_nothing or self.is_as_pushed(version)

    def is_made_of(self, version: int, model: Path) -> bool:
        """Whether a version is, by its record, the model in another folder, such as a trainer's."""
        record = self.record(version)
        if record is None or not record.model_digest or not model.is_dir():
            return False
        return _model_digest(model) == record.model_digest

    def is_as_pushed(self, version: int) -> bool:
        """Whether a version has the record of its push, and is the model that was pushed then.

        Files that somebody put beside those of the model, such as other warm-up requests, make no other model.
        """
        record = self.record(version)
        if record is None:
            return False
        return self.digest(version) == record.digest or _model_digest(self.path(version)) == record.model_digest

    # Labels.

    def labels(self) -> Labels:
        """Returns the labels of the versions; see `Labels.of`.

        Raises:
          LabelsDamaged: somebody wrote into the file.
        """
        path = self.folder / LABELS
        try:
            fields = json.loads(path.read_text())
        except FileNotFoundError:
            fields = dataclasses.asdict(Labels())
        except (OSError, ValueError) as error:
            raise self._damaged(error) from error
        try:
            return Labels.of(fields, self.versions())
        except (KeyError, TypeError) as error:
            raise self._damaged(error) from error

    def dangling_labels(self) -> dict[str, int]:
        """Returns the labels in the file that are of versions that are not there, which `labels` passes over.

        Raises:
          LabelsDamaged: somebody wrote into the file.
        """
        path, there = self.folder / LABELS, self.versions()
        try:
            fields = json.loads(path.read_text()) if path.exists() else {}
            return {name: fields[name] for name in NAMES if fields.get(name) is not None and fields[name] not in there}
        except (OSError, ValueError, AttributeError) as error:
            raise self._damaged(error) from error

    def label_of(self, version: int) -> str | None:
        """Returns a version's label; None where it has none."""
        return next(iter(self.labels().of_version(version)), None)

    def stable(self) -> int | None:
        """Returns the version that serves; None where there is none."""
        return self.labels().stable

    def rollback(self, version: int | None = None) -> StableMove:
        """Makes an earlier version stable: the one given, or the previous one, or the next lower one.

        A canary is given up: it was measured against what is taken back. No push gives the model that is taken back a
        label again. To name a later version, or to return without naming it to one that was taken back, takes
        nothing back.

        Raises:
          ConfigError: there is no such version, or it is not the model that was pushed.
          StorageError: the labels cannot be written.
        """
        with self._changing():
            labels, there = self.labels(), self.versions()
            lower = [number for number in there if labels.stable is None or number < labels.stable]
            target = version or labels.previous or max(lower, default=None)
            if target is None:
                raise ConfigError(f"There is no earlier version of {self.name}; {self._known()}.")
            self.require(target)
            if not self.is_intact(target):
                raise ConfigError(
                    f"Version {target} of {self.name} is not the model that was pushed: files in {self.path(target)} "
                    "were changed or damaged. Nothing was changed."
                )
            after = dataclasses.replace(labels.with_stable(target), canary=None)
            if labels.stable not in (None, target):
                restored = self.identity(target)
                goes_back = target < labels.stable or (version is None and restored not in labels.withdrawn)
                withdrawn = self._identity_if_intact(labels.stable) if goes_back else None
                after = after.with_decision(withdrawn, restored)
            self._write(after)
        return StableMove(self.name, labels.stable, target)

    def promote(self, compared: int | None = None) -> StableMove:
        """Makes the canary stable.

        Args:
          compared: the version that was compared, and that the canary must still be; None for any.

        Raises:
          ConfigError: there is no canary, or another.
          StorageError: the labels cannot be written.
        """
        with self._changing():
            labels = self.labels()
            if labels.canary is None:
                raise ConfigError(f"{self.name} has no canary. Push one with --set serving.canary=true.")
            if compared not in (None, labels.canary):
                raise ConfigError(
                    f"The canary of {self.name} is version {labels.canary} by now; version {compared} was compared."
                )
            self._write(labels.with_stable(labels.canary).with_decision(None, self.identity(labels.canary)))
        return StableMove(self.name, labels.stable, labels.canary)

    # Versions.

    def push(
        self, source: Path, record: VersionRecord, as_canary: bool = False, beside: Mapping[Path, Path] = NOTHING
    ) -> Pushed:
        """Copies a SavedModel to the next version, unless the same model is there already, and sets its label.

        Args:
          source: folder of the SavedModel.
          record: where the model comes from; written into the version, with its number and the digest of its files.
          as_canary: whether it is to be tried beside the stable version first, where there is one.
          beside: folders of further files that appear together with it, by their paths below the version; a version
            that has other ones there is not taken for the same.

        Raises:
          ModelWithdrawn: a person took this model back.
          StorageError: the disk is full, the folder cannot be written, or the copy differs from the original.
        """
        identity = model_identity(source)
        self._refuse_withdrawn(identity)
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(sep=" ", timespec="seconds")
        record = dataclasses.replace(record, pushed=now, model_digest=_model_digest(source), identity=identity)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(self.folder / STAGING, ignore_errors=True)
            same = [v for v in self._versions_of(identity) if _holds(self.path(v), beside)]
            served = self.labels().stable
            version = (served if served in same else same[-1]) if same else self._next_version()
            if not same:
                self._stage(source, beside, dataclasses.replace(record, version=version))
            with self._locked():
                labels = self._refuse_withdrawn(identity)
                if not same:
                    if not (self.folder / LABELS).exists() and labels.stable is not None:
                        self._write(labels)  # without the file, the newest version would be stable for a moment
                    (self.folder / STAGING).rename(self.path(version))
                    flush(self.folder)
                self._write(labels.with_pushed(version, as_canary))
        except OSError as error:
            shutil.rmtree(self.folder / STAGING, ignore_errors=True)
            raise StorageError(
                f"The model could not be pushed to {self.folder}: {error}. What was served before stays."
            ) from error
        return Pushed(version, self.path(version), new=not same)

    def _versions_of(self, identity: str) -> list[int]:
        """Returns the versions that we pushed of a model, and that are what was pushed."""
        return [v for v in self.versions() if self.record(v) and self.identity(v) == identity and self.is_as_pushed(v)]

    def _refuse_withdrawn(self, identity: str) -> Labels:
        """Returns the labels, if nobody took a model back."""
        labels = self.labels()
        if identity in labels.withdrawn:
            there = self._versions_of(identity)
            if there:
                way = f"version {there[0]} of {self.name}, which was rolled back; "
                way += f"`conveyor rollback {self.name} --to {there[0]}` makes it stable again"
            else:
                way = f"a version of {self.name} that was rolled back, and that is gone; train another, or take "
                way += f"{identity} out of {self.folder / LABELS}"
            raise ModelWithdrawn(f"it is {way}")
        return labels

    def remove(self, version: int, unless: Callable[[], bool] = lambda: False) -> bool:
        """Removes a version, if it has no label now, and returns whether it did.

        It leaves by one rename: a process that dies meanwhile leaves no half version under its number.

        Args:
          version: its number.
          unless: whether it must stay after all; asked while the labels are held.

        Raises:
          StorageError: it cannot be removed.
        """
        with self._changing():
            if self.labels().of_version(version) or unless():
                return False
            self._sweep(self.remains())
            self.path(version).rename(self.folder / f"{REMOVED}{version}")
            self._sweep(self.remains())
        return True

    def remains(self) -> list[Path]:
        """Returns what is left of removals whose process died."""
        return sorted(self.folder.glob(f"{REMOVED}*"))

    def sweep(self, remains: list[Path]) -> None:
        """Removes some of what `remains` returned.

        Raises:
          StorageError: it cannot be removed.
        """
        with self._changing():
            self._sweep(remains)

    def _sweep(self, remains: list[Path]) -> None:
        for rest in remains:
            if rest.is_symlink():  # somebody linked a version
                rest.unlink()
            else:
                shutil.rmtree(rest)

    def _stage(self, source: Path, beside: Mapping[Path, Path], record: VersionRecord) -> None:
        """Copies a SavedModel beside the versions, verifies the copy, and writes it through to the disk."""
        staging = self.folder / STAGING
        _copy(source, staging)
        for name, folder in beside.items():
            _copy(folder, staging / name)
        record = dataclasses.replace(record, digest=tree_digest(staging))
        (staging / RECORD).parent.mkdir(exist_ok=True)
        (staging / RECORD).write_text(json.dumps(dataclasses.asdict(record), indent=1))
        flush_tree(staging)
        replace_file(self.folder / LAST_VERSION, str(record.version))

    def _next_version(self) -> int:
        """Counts on from the highest number ever given, also where its folder was deleted since, or is not ours."""
        last = self.folder / LAST_VERSION
        given = int(last.read_text()) if last.exists() else 0
        return max([given, *self.versions()]) + 1

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Holds the labels; a failure to write them is an error in a sentence."""
        with storage_errors(f"The versions of {self.name} in {self.folder} cannot be changed"), self._locked():
            yield

    def _locked(self) -> contextlib.AbstractContextManager[object]:
        """Returns a lock that keeps others from changing the labels while they are read, and written anew."""
        import filelock  # with asyncio, which those need not wait for that only look

        return filelock.FileLock(self.folder / f".{LABELS}.lock", timeout=LOCK_SECONDS)

    def _write(self, labels: Labels) -> None:
        replace_file(self.folder / LABELS, json.dumps(dataclasses.asdict(labels), indent=1))

    def _damaged(self, error: Exception) -> LabelsDamaged:
        return LabelsDamaged(
            f"{self.folder / LABELS} is damaged: {type(error).__name__}: {error}. Delete it: the newest version serves "
            "then, also one that was taken back, for that is forgotten too; "
            f"`conveyor rollback {self.name} --to VERSION` names another."
        )


def _copy(source: Path, target: Path) -> None:
    """Copies a folder, and verifies the copy.

    Raises:
      StorageError: it differs.
    """
    shutil.copytree(source, target)
    if tree_digest(target) != tree_digest(source):
        raise StorageError(f"The copy of the model in {target} differs from {source}: the disk lost data.")


def _holds(version: Path, beside: Mapping[Path, Path]) -> bool:
    """Whether a version holds just the files of some folders, but for JSON, which may say when they were measured."""

    def models(folder: Path) -> dict[str, str]:
        return {path.name: file_digest(path) for path in folder.glob("*") if path.suffix != ".json"}

    return all(models(version / name) == models(folder) for name, folder in beside.items())


def _model_digest(folder: Path) -> str:
    """Returns the SHA-256 over the files that make a model, without those that somebody may put beside them."""

    def is_beside(name: Path) -> bool:
        return name.parts[0] not in MODEL_FILES or any(part.startswith(".") for part in name.parts)

    return tree_digest(folder, without=is_beside)


def _folders(folder: Path) -> list[Path]:
    """Returns the folders in a folder, in the order of their names; none where there is no such folder."""
    with storage_errors(f"The folder {folder} cannot be read"):  # `glob` would take it for an empty one
        return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.exists() else []
