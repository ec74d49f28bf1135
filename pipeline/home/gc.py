"""Finds what no kept version needs, and removes it."""

import dataclasses
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from ml_metadata.proto.metadata_store_pb2 import Artifact

from conveyor.errors import ConfigError, ConveyorError, storage_errors
from pipeline.experiments.config import Serving
from pipeline.home import metadata_store
from pipeline.home.folders import Home
from serving.model_store import LabelsDamaged, StoredModel, VersionRecord

KEEP = "serving.keep_versions"
Pinned = Mapping[str, Collection[int]]


@dataclasses.dataclass(frozen=True)
class Removal:
    """Something that can go.

    Attributes:
      kind: `version`, `artifact`, `checkpoints`, `baseline`, or `remains` of a removal whose process died.
      path: its folder.
      megabytes: how much that frees.
    """

    kind: str
    path: str
    megabytes: float


def plan(
    home: Home, keep: int | None = None, experiment: str | None = None, pinned: Callable[[], Pinned] = dict
) -> list[Removal]:
    """Returns what can go: versions beyond the newest `keep` and without a label, and what only they needed.

    Of a model whose labels are damaged every version is kept. Needed are the artifacts of every run that made a kept
    version, and of each experiment's last run and last verdict, which the next run takes from the cache and continues
    from; of checkpoints, those of trainings that have not finished.

    Args:
      home: where to look.
      keep: how many of the newest versions of a model are kept, besides those with a label, and 0 for all; None for
        what the model's experiment says, `serving.keep_versions`.
      experiment: looks at this one's models and artifacts alone.
      pinned: returns the versions that are served whatever their labels, by model.
    """
    versions, kept_runs = _versions(home, keep, experiment, pinned())
    return [*versions, *_rest(home, kept_runs, {removal.path for removal in versions}, experiment)]


def _rest(home: Home, kept_runs: set[str], gone: set[str], experiment: str | None) -> list[Removal]:
    """Returns what can go when some versions do.

    Args:
      home: where to look.
      kept_runs: the names of the runs that made the other versions.
      gone: the folders of the versions that go.
      experiment: looks at this one's models and artifacts alone.
    """
    rest = [*_remains(home, experiment), *_baselines(home, gone, experiment)]
    if home.has_metadata:
        store = metadata_store.connect(home)
        metadata_store.require_own(store, home)
        known = metadata_store.runs(store)
        rest += [*_artifacts(home, known, kept_runs, experiment), *_checkpoints(home, known, experiment)]
    return rest


def _remains(home: Home, experiment: str | None) -> list[Removal]:
    paths = [path for model in home.models.models() for path in model.remains()]
    names = {path: (VersionRecord.read(path) or VersionRecord()).experiment_name for path in paths}
    return [_removal("remains", path) for path, name in names.items() if experiment in (None, name)]


def _versions(home: Home, keep: int | None, experiment: str | None, pinned: Pinned) -> tuple[list[Removal], set[str]]:
    """Returns the versions that can go, and the names of the runs that made the others."""
    removals, kept_runs = [], set()
    for model in home.models.models():
        there = model.versions()
        try:
            labels = model.labels()
        except LabelsDamaged:  # any version may have one
            kept_runs |= _runs_of(model)
            continue
        number = _keep_of(home, model) if keep is None else keep
        newest = there[-number:] if number else there
        for version in there:
            record = model.record(version) or VersionRecord()
            is_served = bool(labels.of_version(version)) or version in pinned.get(model.name, ())
            is_kept = version in newest or is_served
            if is_kept or experiment not in (None, record.experiment_name):
                kept_runs.add(record.run)
            else:
                removals.append(_removal("version", model.path(version)))
    return removals, kept_runs


def _keep_of(home: Home, model: StoredModel) -> int:
    """Returns how many of a model's newest versions are kept: as a standing setting says, or the last push."""
    there = model.versions()
    newest = (model.record(there[-1]) if there else None) or VersionRecord()
    try:
        standing = home.experiments.record(newest.experiment_name or "").settings
        if KEEP in standing:
            return int(standing[KEEP])
    except (ConveyorError, ValueError):  # it may say anything, and what is gone is gone
        return 0
    return newest.experiment.get("serving", {}).get("keep_versions", Serving("any").keep_versions)


def _runs_of(model: StoredModel) -> set[str]:
    """Returns the names of the runs that made a model's versions."""
    return {(model.record(version) or VersionRecord()).run for version in model.versions()}


def _artifacts(
    home: Home, known: list[metadata_store.Run], kept_runs: set[str], experiment: str | None
) -> list[Removal]:
    needed = _needed(known, kept_runs)
    outputs = [path for path in sorted(home.outputs()) if experiment in (None, _place(path)[0])]
    return [_removal("artifact", path) for path in outputs if _place(path) not in needed]


def _place(path: str | Path) -> tuple[str, ...]:
    """Returns an output's place in the artifacts: the same in a home that was moved."""
    return Path(path).parts[-4:]


def _baselines(home: Home, gone: set[str], experiment: str | None) -> list[Removal]:
    """Returns the wrappers of versions that are gone, or will be."""
    wrappers = [path for folder in _folders(home.artifacts, experiment) for path in sorted(folder.glob("Baseline/*"))]
    targets = {path: (path / "Format-Serving").resolve() for path in wrappers}
    return [_removal("baseline", p) for p, target in targets.items() if not target.exists() or str(target) in gone]


def _checkpoints(home: Home, known: list[metadata_store.Run], experiment: str | None) -> list[Removal]:
    """Returns those that no run goes on with: of trainings that have finished, or that no run is known of."""
    unfinished = metadata_store.unfinished_trainings(known)
    paths = [path for folder in _folders(home.checkpoints, experiment) for path in sorted(folder.iterdir())]
    gone = [path for path in paths if path.parts[-2:] not in unfinished]
    for folder in _folders(home.tuning, experiment):  # of trials that were stopped, in all searches but the last one
        searches = sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
        gone += [path for search in searches[:-1] for path in sorted(search.glob("trial_*/checkpoints"))]
    return [_removal("checkpoints", path) for path in gone]


def _folders(root: Path, experiment: str | None) -> list[Path]:
    return sorted(path for path in root.glob("*") if experiment in (None, path.name))


def collect(
    home: Home, keep: int | None = None, experiment: str | None = None, pinned: Callable[[], Pinned] = dict
) -> list[Removal]:
    """Removes what can go, and returns it. For the holder of the home's lock.

    Artifacts are marked as deleted in ML Metadata. Labels may move and servers may start meanwhile: a version that has
    one now, or is served now, stays, and all that it needs with it.

    Args:
      home: see `plan`, as for the rest.
      keep: how many of the newest versions of a model are kept, besides those with a label, and 0 for all; None for
        what the model's experiment says, `serving.keep_versions`.
      experiment: looks at this one's models and artifacts alone.
      pinned: returns the versions that are served whatever their labels, by model; asked before each removal.

    Raises:
      ConfigError: what a server serves is not known, or the metadata are not this home's; nothing was removed then.
      MetadataUnavailable: they cannot be opened; nothing was removed.
      StorageError: a folder cannot be removed.
    """
    versions, _ = _versions(home, keep, experiment, pinned())
    if home.has_metadata:
        metadata_store.require_own(metadata_store.connect(home), home)
    removed = [removal for removal in versions if _version_removed(home, Path(removal.path), pinned)]
    kept_runs = {run for model in home.models.models() for run in _runs_of(model)}
    rest = _rest(home, kept_runs, set(), experiment)
    for removal in rest:
        path = Path(removal.path)
        with storage_errors(f"{path} cannot be removed"):
            if removal.kind == "remains":
                home.models.model(path.parent.name).sweep([path])
            else:
                shutil.rmtree(path)
    _mark_deleted(home, {removal.path for removal in rest if removal.kind in ("artifact", "baseline")}, experiment)
    return [*removed, *rest]


def _version_removed(home: Home, path: Path, pinned: Callable[[], Pinned]) -> bool:
    model, version = home.models.model(path.parent.name), int(path.name)

    def is_served() -> bool:
        try:
            return version in pinned().get(model.name, ())
        except ConfigError:  # a server starts at this moment, and has not said yet what it serves
            return True

    return model.remove(version, unless=is_served)


def _mark_deleted(home: Home, gone: set[str], experiment: str | None) -> None:
    """Marks artifacts as deleted: what was removed now, and what somebody else removed of this home's own."""
    if not home.has_metadata or not home.artifacts.is_dir():
        return
    store = metadata_store.connect(home)
    places = {_place(path) for path in gone}
    own = home.artifacts / experiment if experiment else home.artifacts
    artifacts = [
        artifact
        for artifact in store.get_artifacts()
        if _place(artifact.uri) in places
        or (Path(artifact.uri).is_relative_to(own) and not Path(artifact.uri).exists())
    ]
    for artifact in artifacts:
        artifact.state = Artifact.DELETED
    store.put_artifacts(artifacts)


def _needed(known: list[metadata_store.Run], names: set[str]) -> set[tuple[str, ...]]:
    """Returns the places of what the runs of those names and each experiment's next run need."""
    wanted = {run.id for run in known if run.id in names}
    for experiment in {run.experiment for run in known}:
        own = [run for run in known if run.experiment == experiment]
        wanted.add(own[-1].id)
        wanted |= {run.id for run in [r for r in own if r.state.is_verdict][-1:]}
    return {
        _place(artifact.uri)
        for run in known
        if run.id in wanted
        for component in run.components
        for artifact in component.outputs.values()
    }


def _removal(kind: str, path: Path) -> Removal:
    size = sum(file.lstat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())
    return Removal(kind, str(path), round(size / 1e6, 1))
