"""Finds what no kept version needs, and removes it."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from ml_metadata.proto.metadata_store_pb2 import Artifact

from pipeline.home import metadata_store
from pipeline.home.folders import Home
from serving.model_store import labels
from serving.model_store.files import read_record, versions


@dataclasses.dataclass(frozen=True)
class Removal:
    """Something that can go.

    Attributes:
      kind: `version`, `artifact`, `checkpoints` or `baseline`.
      path: its folder.
      megabytes: how much that frees.
    """

    kind: str
    path: str
    megabytes: float


def plan(home: Home, keep: int, experiment: str | None = None) -> list[Removal]:
    """Returns what can go: versions beyond the newest `keep` and without a label, and what only they needed.

    Needed are the artifacts of every run that made a kept version, and of each experiment's last run and last verdict,
    which the next run takes from the cache and continues from; of checkpoints, each experiment's newest.

    Args:
      home: where to look.
      keep: how many of the newest versions of a model are kept, besides those with a label.
      experiment: looks at this one's models and artifacts alone.
    """
    found, runs = [], set()
    for base in sorted(path for path in home.serving.glob("*") if path.is_dir()):
        named, there = labels.read(base), versions(base)
        for version in there:
            record = read_record(base / str(version))
            kept = version in there[-keep:] or bool(named.named(version))
            if kept or experiment not in (None, record.get("experiment", {}).get("name")):
                runs.add(record.get("run"))
            else:
                found.append(_removal("version", base / str(version)))
    needed = _needed(home, runs) if home.has_metadata else set()
    for folder in sorted(path for path in home.artifacts.glob("*") if experiment in (None, path.name)):
        outputs = sorted(path for path in folder.glob("*/*/*") if path.name.isdecimal())
        found += [_removal("artifact", path) for path in outputs if home.has_metadata and str(path) not in needed]
        gone = [r.path for r in found if r.kind == "version"]
        for wrapper in sorted(folder.glob("Baseline/*")):
            target = (wrapper / "Format-Serving").resolve()
            if not target.exists() or str(target) in gone:
                found.append(_removal("baseline", wrapper))
    for folder in sorted(path for path in home.checkpoints.glob("*") if experiment in (None, path.name)):
        newest_last = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)
        found += [_removal("checkpoints", path) for path in newest_last[:-1]]
    return found


def remove(home: Home, removals: list[Removal]) -> None:
    """Removes what `plan` found, and marks artifacts as deleted in ML Metadata. For the holder of the home's lock."""
    for removal in removals:
        shutil.rmtree(removal.path)
    gone = {removal.path for removal in removals if removal.kind == "artifact"}
    if not gone:
        return
    store = metadata_store.connect(home)
    artifacts = [artifact for artifact in store.get_artifacts() if artifact.uri in gone]
    for artifact in artifacts:
        artifact.state = Artifact.DELETED
    store.put_artifacts(artifacts)


def _needed(home: Home, names: set[Any]) -> set[str]:
    known = metadata_store.runs(metadata_store.connect(home))
    wanted = {run.id for run in known if run.id in names}
    for experiment in {run.experiment for run in known}:
        own = [run for run in known if run.experiment == experiment]
        wanted.add(own[-1].id)
        wanted |= {run.id for run in [r for r in own if r.state in metadata_store.COMPLETED][-1:]}
    return {
        artifact.uri
        for run in known
        if run.id in wanted
        for component in run.components
        for artifact in component.outputs.values()
    }


def _removal(kind: str, path: Path) -> Removal:
    size = sum(file.lstat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())
    return Removal(kind, str(path), round(size / 1e6, 1))
