"""What a run needs, and whether it is there: for `conveyor doctor`."""

import dataclasses
import errno
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from components.code_digest import stack_versions
from components.image_example_gen import shards, spans
from components.image_example_gen.data_error import DataError
from conveyor.errors import ConveyorError, storage_errors
from conveyor.words import counted
from pipeline.data.fetch import is_complete
from pipeline.data.inputs import read_input
from pipeline.data.published import CANONICAL
from pipeline.experiments.config import Experiment
from pipeline.home import backup
from pipeline.home.folders import Home
from serving.model_store import StoredModel

NEEDED_BYTES = 3 * 2**30  # a run of CIFAR-10 with its checkpoints
EXAMPLE_BYTES = 150  # of an example, besides its pixels
LISTED = 3
NEVER_EMPTY = ("Examples", "ExampleStatistics", "Model", "Schema")  # of the artifacts that a run takes from the cache


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
      subject: what.
      ok: whether a run can go on with it.
      detail: what is there.
      mend: what to do about it, where it is not ok.
    """

    subject: str
    ok: bool
    detail: str
    mend: str = ""


def examine(home: Home) -> Iterator[Finding]:
    """Yields a finding for each thing that a run needs."""
    checks: list[Callable[[Home], Iterator[Finding]]] = [
        _stack, _evaluation, _device, _folder, _disk, _metadata, _labels, _experiments, _data, _downloads,
    ]  # fmt: skip
    for check in checks:
        try:
            for finding in check(home):
                yield dataclasses.replace(finding, mend="") if finding.ok else finding
        except ConveyorError as error:
            yield Finding(check.__name__.strip("_"), False, str(error), "mend that, and run conveyor doctor again")
        except Exception as error:  # a broken installation fails in its own ways; the others are still worth a look
            yield Finding(check.__name__.strip("_"), False, f"{type(error).__name__}: {error}", "run make setup again")


def _stack(_: Home) -> Iterator[Finding]:
    libc = " ".join(platform.libc_ver()).strip() or platform.system()
    versions = ", ".join(f"{name} {version}" for name, version in stack_versions().items())
    yield Finding("stack", True, f"{versions}, {libc}")


def _evaluation(_: Home) -> Iterator[Finding]:
    import tensorflow_model_analysis as tfma

    whole = hasattr(tfma, "default_eval_shared_model")
    detail = f"tensorflow-model-analysis {importlib.metadata.version('tensorflow-model-analysis')}"
    yield Finding("evaluation", whole, detail if whole else f"{detail} is only half there", "pip install ipykernel")


def _device(_: Home) -> Iterator[Finding]:
    from trainer import devices

    yield Finding("device", True, devices.choose("auto").description)


def _folder(home: Home) -> Iterator[Finding]:
    place = home.existing
    try:
        if place == home.root:
            probe = home.root / ".probe"
            probe.touch()
            probe.unlink()
        elif not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        yield Finding("home", False, f"{place}: {error.strerror}", "choose a folder you can write to with --home")
        return
    yield Finding("home", True, str(home.root) if place == home.root else f"{home.root}, not made yet")


def _disk(home: Home) -> Iterator[Finding]:
    free, needed = shutil.disk_usage(home.existing).free, _needed_bytes(home)
    mend = f"free {(needed - free) / 2**30:.1f} GiB, or choose another --home"
    detail = f"{free / 2**30:.1f} GiB free; a run needs about {needed / 2**30:.1f} GiB"
    yield Finding("disk", free >= needed, detail, mend)


def _needed_bytes(home: Home) -> int:
    """Returns what a run of the largest experiment writes: its examples, and its model and checkpoints."""
    sizes = [NEEDED_BYTES]
    for experiment, folder in _with_data(home):
        try:
            parts = spans.parts(folder, experiment.dataset, experiment.spans)
            images = sum(shard.count for part in parts for shard in shards.plan(part))
        except ConveyorError:  # `_data` tells of it
            continue
        sizes.append(images * (experiment.dataset.image_size + EXAMPLE_BYTES) + NEEDED_BYTES // 2)
    return max(sizes)


def _metadata(home: Home) -> Iterator[Finding]:
    place = home.metadata_place
    if not home.has_metadata:
        yield Finding("metadata", True, f"{place}, not made yet")
        return
    from pipeline.home import metadata_store

    store = metadata_store.connect(home)
    yield Finding("metadata", True, f"{place}, {counted(len(metadata_store.runs(store)), 'run')}")
    foreign = foreign_artifacts(store, home)
    if foreign:
        example = foreign[0].uri
        yield Finding(
            "moved home",
            False,
            f"{counted(len(foreign), 'artifact')} of the metadata outside of {home.artifacts}, such as {example}",
            "if this home was moved or copied, conveyor doctor --moved writes its new place down",
        )
    missing = [artifact for artifact in _live(store) if artifact not in foreign and not _is_there(artifact)]
    if missing:
        named = ", ".join(artifact.uri for artifact in missing[:LISTED])
        yield Finding(
            "artifacts",
            False,
            f"{counted(len(missing), 'artifact')} of the metadata, not there or empty: {named}",
            "remove empty folders; conveyor gc --yes forgets what is not there, and the next run makes what it needs",
        )


def _live(store: Any) -> list[Any]:
    from ml_metadata.proto.metadata_store_pb2 import Artifact

    return [artifact for artifact in store.get_artifacts() if artifact.state == Artifact.LIVE]


def _is_there(artifact: Any) -> bool:
    path = Path(artifact.uri)
    return path.is_dir() and (artifact.type not in NEVER_EMPTY or any(path.iterdir()))


def foreign_artifacts(store: Any, home: Home) -> list[Any]:
    """Returns the live artifacts that ML Metadata knows outside a home's own folder."""
    return [artifact for artifact in _live(store) if not Path(artifact.uri).is_relative_to(home.artifacts)]


def bring_home(home: Home) -> int:
    """Writes down in ML Metadata where the artifacts and versions of a moved home are now; returns how many.

    Those that are not here by the same path below the home folder are left as they are. For the holder of the home's
    lock; a copy of the metadata is made first.

    Raises:
      MetadataUnavailable: the metadata cannot be opened.
      StorageError: the copy cannot be written.
    """
    from pipeline.home import metadata_store

    if not home.has_metadata:
        return 0
    backup.save(home)
    store = metadata_store.connect(home)
    moved = []
    for artifact in foreign_artifacts(store, home):
        here = _same_place(Path(artifact.uri), home.artifacts)
        if here is None:
            continue
        artifact.uri = str(here)
        pushed = metadata_store.property_of(artifact, "pushed_destination")
        if pushed:
            here = home.serving.joinpath(*Path(pushed).parts[-2:])  # model, version
            artifact.custom_properties["pushed_destination"].string_value = str(here)
        moved.append(artifact)
    for wrapper in home.artifacts.glob("*/Baseline/*"):
        link = wrapper / "Format-Serving"
        version = _same_place(link.readlink(), home.serving) if link.is_symlink() else None
        if version is not None and not link.exists():
            link.unlink()
            link.symlink_to(version, target_is_directory=True)
    store.put_artifacts(moved)
    return len(moved)


def _same_place(path: Path, folder: Path) -> Path | None:
    """Returns what lies below a folder as a path did below one of the same name; None where nothing does."""
    parts = path.parts
    starts = [number + 1 for number, part in enumerate(parts) if part == folder.name]
    return next(
        (here for start in starts if (here := folder.joinpath(*parts[start:])).exists() and parts[start:]), None
    )


def _labels(home: Home) -> Iterator[Finding]:
    for model in home.models.models():
        if model.versions():
            yield _labels_of(model)


def _labels_of(model: StoredModel) -> Finding:
    subject = f"model {model.name}"
    labels = model.labels()  # raises what is to be said of a damaged file
    dangling = model.dangling_labels()
    if dangling:
        said = ", ".join(f"{name} is {version}" for name, version in dangling.items())
        mend = f"conveyor rollback {model.name} --to VERSION, or nothing: version {labels.stable} serves"
        return Finding(subject, False, f"labels of versions that are not there: {said}", mend)
    damaged = [version for version in model.versions() if not model.is_intact(version)]
    if damaged:
        said = ", ".join(map(str, damaged))
        mend = f"conveyor rollback {model.name}, if it serves; then remove its folder"
        return Finding(subject, False, f"versions that are not what was pushed: {said}", mend)
    return Finding(subject, True, f"{counted(len(model.versions()), 'version')}, {labels.stable} is stable")


def _experiments(home: Home) -> Iterator[Finding]:
    for name in home.experiments.names():
        try:
            home.experiments.choose(name)
        except ConveyorError as error:
            mend = (
                f"conveyor run FILE.py names a file's new place; conveyor set {name} --unset FIELD takes a setting back"
            )
            yield Finding(f"experiment {name}", False, str(error), mend)


def _data(home: Home) -> Iterator[Finding]:
    for experiment, folder in _with_data(home):
        yield _data_of(experiment, folder)


def _data_of(experiment: Experiment, folder: Path) -> Finding:
    """Compares the spans with what was added."""
    subject = f"data of {experiment.name}"
    if not folder.is_dir():
        mend = f"conveyor set {experiment.name} --data FOLDER names their new place"
        return Finding(subject, False, f"{folder}: there is no such folder", mend)
    try:
        names = spans.span_names(folder)
        problems = [problem for name in names for problem in _span_problems(experiment, folder / name)]
    except DataError as error:
        return Finding(subject, False, str(error), "rename them, so that they have an order")
    if problems:
        more = f" ... and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
        said = " ".join(problems[:LISTED]) + more
        mend = f"bring the files back, or conveyor remove {experiment.name} SPAN takes the span out"
        return Finding(subject, False, said, mend)
    return Finding(subject, True, f"{folder}, {counted(len(names), 'span')}, as added")


def _span_problems(experiment: Experiment, folder: Path) -> tuple[str, ...]:
    try:
        read_input(spans.span(folder, experiment.dataset))
    except DataError as error:
        return error.sentences
    return ()


def _with_data(home: Home) -> Iterator[tuple[Experiment, Path]]:
    """Yields the experiments that the home knows, and those that come with Conveyor, with the folder of their data."""
    for name in sorted({*CANONICAL, *home.experiments.names()}):
        found = home.experiments.find(name)
        if found is None:  # `_experiments` tells of it
            continue
        experiment = found.experiment
        own = experiment.dataset.name not in CANONICAL and found.data
        folder = found.data if own and found.data else home.data / experiment.dataset.name
        if own or folder.is_dir():
            yield experiment, folder


def _downloads(home: Home) -> Iterator[Finding]:
    for name in CANONICAL:
        with storage_errors(f"The folder {home.data} cannot be read"):
            there = is_complete(name, home.data)
        detail = "there, and its checksums are right" if there else f"not there; conveyor fetch {name} downloads it"
        yield Finding(f"download {name}", True, detail)
