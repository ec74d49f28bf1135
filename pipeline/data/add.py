"""`conveyor add`: takes a batch of labelled images into the input as its next span, whole or not at all."""

import dataclasses
import datetime
import json
import shutil
from pathlib import Path

import filelock

from components.image_example_gen import spans
from components.image_example_gen.data_error import DataError
from components.image_example_gen.shards import reserved_digests
from components.image_example_gen.spans import MANIFEST
from conveyor.errors import ConfigError, storage_errors
from conveyor.files import file_digest, flush, flush_tree
from pipeline.data.check import check_part
from pipeline.data.inputs import Input, read_input
from pipeline.experiments.config import Experiment

STAGING = ".span.partial"
LOCK = ".spans.lock"


@dataclasses.dataclass(frozen=True)
class Added:
    """A span.

    Attributes:
      span: its name.
      folder: where it is.
      images: how many there are.
      by_class: how many of each class, in the order of the labels.
      new: False if the same files are in this span already.
      warnings: a sentence for each image that is in it with two labels.
    """

    span: str
    folder: str
    images: int
    by_class: dict[str, int]
    new: bool = True
    warnings: tuple[str, ...] = ()


def add(experiment: Experiment, root: Path, source: Path, date: str | None = None) -> Added:
    """Reads a folder of labelled images whole, and copies it into the input as a span that appears by one rename.

    Args:
      experiment: classes and shape of the images, and how its spans are used.
      root: the input folder, with the base files.
      source: an IDX pair, CIFAR-10 binary files, or class folders of pictures.
      date: the span's name, as 2026-11-22; the second of a day is 2026-11-22-2. Without one it is numbered, or named by
        today where others have dates.

    Raises:
      ConfigError: `date` is none, or earlier than the newest span's, or the others are numbered.
      DataError: a file is not as it should be, or an image is one that the base files hold out of training; nothing was
        added.
    """
    if not source.is_dir():
        found = "a file" if source.is_file() else "none"
        raise DataError.at(source, None, "a folder of labelled images", found)
    dataset = experiment.dataset
    part = spans.span(source.resolve(), dataset)
    new = read_input(part)
    checked = check_part(part, reserved_digests(spans.parts(root, dataset, experiment.spans)[0]))
    if checked.problems:
        raise DataError(*checked.problems)
    with storage_errors(f"Nothing can be added to {root}"), filelock.FileLock(root / LOCK):
        for name in spans.span_names(root):
            if read_input(spans.span(root / name, dataset)).digest == new.digest:
                return Added(name, str(root / name), checked.images, checked.by_class, False, checked.warnings)
        name = _next_name(root, date)
        added = Added(name, str(root / name), checked.images, checked.by_class, True, checked.warnings)
        _copy(new, root, added)
    return added


def _next_name(root: Path, date: str | None) -> str:
    """Returns the next span's name, which comes after all that there are, or were and were taken out."""
    there, removed = spans.span_names(root), spans.removed_names(root)
    given = [place for name in (*there, *removed) if (place := spans.order(name)) is not None]
    dates = sorted(place for place in given if isinstance(place, tuple))
    numbers = [place for place in given if isinstance(place, int)]
    scheme = [spans.order(name) for name in there] or given
    is_numbered = any(isinstance(place, int) for place in scheme)
    try:
        day = datetime.date.fromisoformat(date) if date else datetime.datetime.now(datetime.timezone.utc).date()
    except ValueError:
        raise ConfigError(f"--date {date}: expected a date such as 2026-11-22.") from None
    if is_numbered and date is not None:
        raise ConfigError(f"--date {date}: the spans of {root} are numbered, so that one with a date has no place.")
    if is_numbered or (not scheme and date is None):
        return f"span-{max(numbers, default=0) + 1}"
    newest, number = dates[-1] if dates else (day, 0)
    if date is None:
        day = max(day, newest)  # a clock that is behind is no reason to refuse images
    if day < newest:
        raise ConfigError(
            f"--date {date}: the newest span is, or was, of {newest}, and a later one cannot have an earlier date."
        )
    number = number + 1 if day == newest else 1
    return f"{day}" if number == 1 else f"{day}-{number}"


def _copy(source: Input, root: Path, added: Added) -> None:
    """Copies the files, compares the copies with what was checked, and renames their folder into its place."""
    staging = root / STAGING
    shutil.rmtree(staging, ignore_errors=True)
    try:
        for name, digest in source.files.items():
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.part.folder / name, staging / name)
            if file_digest(staging / name) != digest:
                raise DataError.at(source.part.folder / name, None, "the file that was checked", "another: it changed")
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        about = {"added": now, "source": str(source.part.folder), "images": added.images, "by_class": added.by_class}
        (staging / MANIFEST).write_text(json.dumps({**about, "files": source.files}, indent=1, ensure_ascii=False))
        flush_tree(staging)
        staging.rename(root / added.span)
        flush(root)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
