"""Finds the parts that a data set's input is made of: the base files, and the spans that arrived after them.

A span is a folder in the input folder that holds labelled images in any of the formats that the readers know. It is
named `span-1`, `span-2`, ... or by a date, `2026-11-22`, `2026-11-22-2`, ... All of its images are for training, but
for the share that `Spans.holdout_share` holds out. The test split is always the base files'.
"""

import contextlib
import dataclasses
import datetime
import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from components.image_example_gen.data_error import GZIP, DataError, unpacked
from components.image_example_gen.dataset import Dataset, HashedSplits, Spans

BASE = "base"
MANIFEST = "span.json"
SYSTEM_FILES = ("thumbs.db", "desktop.ini")  # which Windows leaves in folders of pictures
BIN = ".removed"  # the folder of the spans that were taken out; hidden, and so nobody's
_NUMBERED = re.compile(r"span-([1-9]\d*)")
_DATED = re.compile(r"(\d{4}-\d\d-\d\d)(?:-([2-9]|[1-9]\d+))?")
_PATTERNS: dict[Literal["idx", "cifar_binary", "folders"], str] = {
    "idx": "*-ubyte",
    "cifar_binary": "*.bin",
    "folders": "*/*",
}


@dataclasses.dataclass(frozen=True)
class Part:
    """Files that are ingested together.

    Attributes:
      name: `base`, or the span's.
      folder: where they are.
      dataset: how they are read, and divided into splits.
      trained_on: whether the window of training reaches back to it.
    """

    name: str
    folder: Path
    dataset: Dataset
    trained_on: bool = True

    def files(self, pattern: str) -> list[Path]:
        """Returns the files that match a split's pattern, as they are or gzipped, in the order of their names.

        A span's are not the base's. Hidden files, those in hidden folders, and `SYSTEM_FILES` are nobody's. Of a file
        that is there both as it is and gzipped, the gzipped one is not read.

        Raises:
          DataError: a folder that they may be in cannot be read, or one of them is no file, such as a link to nowhere.
        """
        for place in self._folders(pattern):
            if not os.access(place, os.R_OK | os.X_OK):  # `glob` would take it for an empty one
                raise DataError.at(place, None, "a folder that can be read", "one that cannot")
        found = {path: path.relative_to(self.folder).parts for path in sorted(self._matching(pattern))}
        ours = [
            path
            for path, names in found.items()
            if path.name != MANIFEST
            and path.name.lower() not in SYSTEM_FILES
            and not any(name.startswith(".") for name in names)
            and (self.name != BASE or order(names[0]) is None)
            and not path.is_dir()
        ]
        if odd := [path for path in ours if not path.is_file()]:
            kinds = ("a link to nowhere" if path.is_symlink() else "neither file nor folder" for path in odd)
            errors = [DataError.at(path, None, "a file", kind) for path, kind in zip(odd, kinds, strict=True)]
            raise DataError(*(sentence for error in errors for sentence in error.sentences))
        return ours

    def _matching(self, pattern: str) -> set[Path]:
        found = set(self.folder.glob(pattern))
        if self.dataset.format != "folders":
            found |= set(self.folder.glob(pattern + GZIP))
        return {path for path in found if path == unpacked(path) or unpacked(path) not in found}

    def _folders(self, pattern: str) -> Iterator[Path]:
        """Yields the folders with the images that match a pattern, the outer ones first; of pictures, the classes'."""
        for parent in reversed(Path(pattern).parents):
            found = [self.folder] if parent == Path() else sorted(self.folder.glob(str(parent)))
            by_name = parent.name in ("", glob.escape(parent.name))
            yield from (path for path in found if path.is_dir() and (by_name or path.name in self.dataset.classes))


def parts(root: Path, dataset: Dataset, spans: Spans) -> list[Part]:
    """Returns the base files and the spans in the window of `spans`, the oldest first.

    Raises:
      DataError: the spans have names of both kinds, so that they have no order.
    """
    names = span_names(root)
    reach = spans.window or len(names) + 1
    base = Part(BASE, root, dataset, trained_on=reach > len(names))
    newest = names[max(0, len(names) - reach) :]
    return [base, *(span(root / name, dataset, spans.holdout_share) for name in newest)]


def span(folder: Path, dataset: Dataset, holdout_share: float = 0.0) -> Part:
    """Returns a folder as a span of the data set; its files say in which format they are."""
    kind = next(kind for kind in _PATTERNS if kind == "folders" or _has(folder, _PATTERNS[kind]))
    splits = HashedSplits(_PATTERNS[kind], eval_share=holdout_share, test_share=0.0)
    return Part(folder.name, folder, dataclasses.replace(dataset, format=kind, splits=splits))


def _has(folder: Path, pattern: str) -> bool:
    return any(folder.glob(pattern)) or any(folder.glob(pattern + GZIP))


def span_names(root: Path) -> list[str]:
    """Returns the names of the spans in a folder, the oldest first.

    Raises:
      DataError: there are numbers and dates.
    """
    found = {path.name: order(path.name) for path in root.glob("*") if path.is_dir()}
    spans = {name: place for name, place in found.items() if place is not None}
    if len({isinstance(place, int) for place in spans.values()}) > 1:
        raise DataError.at(root, None, "spans named by numbers or by dates", f"both: {', '.join(sorted(spans))}")
    return sorted(spans, key=spans.__getitem__)


def removed_names(root: Path) -> list[str]:
    """Returns the names of the spans that were taken out of a folder; no other span gets one of them."""
    names = {path.name.partition(".")[0] for path in (root / BIN).glob("*")}
    return sorted(name for name in names if order(name) is not None)


def node_id(part: str) -> str:
    """Returns the name of a part's component in the pipeline."""
    return "ImageExampleGen" if part == BASE else f"ImageExampleGen-{part}"


def is_later(name: str, other: str) -> bool:
    """Whether a span comes after another; two whose names are of different kinds have no order."""
    place, before = order(name), order(other)
    if isinstance(place, int) and isinstance(before, int):
        return place > before
    return isinstance(place, tuple) and isinstance(before, tuple) and place > before


def order(name: str) -> int | tuple[datetime.date, int] | None:
    """Returns a span's number, or its date and its number on that day; None where the name is no span's."""
    if match := _NUMBERED.fullmatch(name):
        return int(match[1])
    if match := _DATED.fullmatch(name):
        with contextlib.suppress(ValueError):  # such as the 31st of February
            return datetime.date.fromisoformat(match[1]), int(match[2] or 1)
    return None
