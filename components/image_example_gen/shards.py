"""Divides the images of a data set into splits, and each split into shards that are read at once."""

import collections
import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from components.image_example_gen.data_error import DataError
from components.image_example_gen.dataset import Dataset, HashedSplits, NamedSplits
from components.image_example_gen.readers import Reader, open_readers
from components.image_example_gen.spans import MANIFEST, Part
from conveyor.files import file_digest

LISTED_IMAGES = 10  # of one file, in a message
MAX_SHARD_BYTES = 16 * 2**20  # of pixels: what one worker holds in memory at a time


@dataclasses.dataclass(frozen=True)
class Shard:
    """A run of images that one worker reads at once and writes as one file of each split it belongs to.

    Attributes:
      split: the split of every image in it; None where a hash of each image's content decides.
      reader: where the images are.
      start: the number of the first image in the reader.
      count: how many images.
      name: the name of the file to write.
    """

    split: str | None
    reader: Reader
    start: int
    count: int
    name: str

    def read(self, dataset: Dataset, reserved: frozenset[bytes] = frozenset()) -> Iterator["Piece"]:
        """Yields the shard's piece of each split that it has a part in.

        Args:
          dataset: how images are divided into splits.
          reserved: digests of images that must not be here; see `reserved_digests`.

        Raises:
          DataError: a label out of range, a file that cannot be decoded, or an image that is reserved.
        """
        images, labels = self.reader.read(self.start, self.count)
        held = [number for number, image in enumerate(images if reserved else ()) if image_digest(image) in reserved]
        if held:
            raise DataError(*self._held_out([self.start + number for number in held]))
        if isinstance(dataset.splits, NamedSplits):
            assert self.split is not None  # `plan` gave it one
            yield Piece(self.split, images, labels, np.arange(self.start, self.start + self.count))
            return
        chosen = content_splits(images, dataset.splits)
        for split in split_names(dataset.splits):
            own = np.flatnonzero(chosen == split)
            yield Piece(split, images[own], labels[own], self.start + own)

    def source(self, number: int, root: Path) -> str:
        """Returns where an image comes from, in words: its file below a folder, and its number there."""
        file, within = self.reader.place(number)
        return f"{file.relative_to(root)}{'' if within is None else f', image {within}'}"

    def _held_out(self, numbers: list[int]) -> Iterator[str]:
        """Yields a sentence for each file with images that the base files hold out of training."""
        expected = "images that the base files do not hold out of training, as their splits test and eval"
        by_file: dict[Path, list[int | None]] = collections.defaultdict(list)
        for file, within in map(self.reader.place, numbers):
            by_file[file].append(within)
        for file, places in by_file.items():
            if places == [None]:
                found = f"one of those; take it out (and of a span that was added, delete {MANIFEST})"
            else:
                some = ", ".join(map(str, places[:LISTED_IMAGES])) + (", ..." if len(places) > LISTED_IMAGES else "")
                found = f"{len(places):,} of those: images {some}, counted from 0"
            yield str(DataError.at(file, None, expected, found))


class Piece(NamedTuple):
    """What a shard holds of a split.

    Attributes:
      split: the split's name.
      images: uint8 [N, height, width, channels].
      labels: int64 [N].
      numbers: of the images in the shard's reader, int64 [N].
    """

    split: str
    images: np.ndarray
    labels: np.ndarray
    numbers: np.ndarray


def plan(part: Part) -> list[Shard]:
    """Returns the shards of all of a part's splits, after a check of every file's structure.

    Raises:
      DataError: a pattern matches nothing, or a file's structure is wrong.
    """
    dataset, splits = part.dataset, part.dataset.splits
    if isinstance(splits, HashedSplits):
        return _shards(None, _whole(_readers(part, "all", splits.files)), dataset)
    if splits.eval_examples and dataset.format == "folders":
        held_out, rest = _divide_by_class(_paths(part, "train", splits.train), splits.eval_examples, dataset)
    else:
        train = _readers(part, "train", splits.train)
        held_out, rest = _divide(train, splits.eval_examples) if splits.eval_examples else ([], _whole(train))
    test = _readers(part, "test", splits.test)
    if splits.eval is not None:
        held_out = _whole(_readers(part, "eval", splits.eval))
    return [
        *_shards("train", rest, dataset),
        *_shards("eval", held_out, dataset),
        *_shards("test", _whole(test), dataset),
    ]


def training_images(part: Part) -> int:
    """Returns how many images of a part are for training; where a hash decides, as many as its shares say.

    Raises:
      DataError: see `plan`.
    """
    splits = part.dataset.splits
    if isinstance(splits, HashedSplits):
        total = sum(shard.count for shard in plan(part))
        return round(total * (1 - splits.eval_share - splits.test_share))
    return sum(shard.count for shard in plan(part) if shard.split == "train")


def reserved_digests(base: Part) -> frozenset[bytes]:
    """Returns the SHA-256 of each image of the base files' splits test and eval, which no span may bring into training.

    Raises:
      DataError: see `plan` and `Shard.read`.
    """
    shards = [shard for shard in plan(base) if shard.split != "train"]
    pieces = (piece for shard in shards for piece in shard.read(base.dataset))
    return frozenset(image_digest(image) for piece in pieces if piece.split != "train" for image in piece.images)


def image_digest(image: np.ndarray) -> bytes:
    """Returns the SHA-256 of an image's pixels."""
    return hashlib.sha256(image.tobytes()).digest()


def _readers(part: Part, split: str, pattern: str) -> list[Reader]:
    return open_readers(_paths(part, split, pattern), part.dataset)


def _paths(part: Part, split: str, pattern: str) -> list[Path]:
    paths = part.files(pattern)
    if not paths:
        what = "labelled images" if isinstance(part.dataset.splits, HashedSplits) else f"the files of the split {split}"
        raise DataError.at(part.folder, None, f"{what}, which match {pattern}", "none")
    return paths


Range = tuple[Reader, int, int]  # a reader, the first image, how many


def _whole(readers: list[Reader]) -> list[Range]:
    return [(reader, 0, len(reader)) for reader in readers]


def _divide(readers: list[Reader], count: int) -> tuple[list[Range], list[Range]]:
    """Returns the first `count` images and the rest, each as ranges of the readers."""
    _check_count(count, sum(len(reader) for reader in readers))
    first: list[Range] = []
    rest: list[Range] = []
    for reader in readers:
        taken = min(count, len(reader))
        count -= taken
        if taken:
            first.append((reader, 0, taken))
        if taken < len(reader):
            rest.append((reader, taken, len(reader) - taken))
    return first, rest


def _divide_by_class(paths: list[Path], count: int, dataset: Dataset) -> tuple[list[Range], list[Range]]:
    """Returns about `count` of the pictures and the rest; of each class as large a share, and equal files on one side.

    A hash of its content decides of each file, so that a file's name says nothing of it. No class is held out whole.
    """
    _check_count(count, len(paths))
    by_class: dict[str, list[Path]] = collections.defaultdict(list)
    for path in paths:
        by_class[path.parent.name].append(path)
    before = np.cumsum([0, *(len(found) for found in by_class.values())])
    shares = np.diff(np.round(before * count / len(paths)).astype(int))  # together exactly `count`
    held = {path for found, share in zip(by_class.values(), shares, strict=True) for path in _chosen(found, share)}
    sides = [path for path in paths if path in held], [path for path in paths if path not in held]
    first, rest = (_whole(open_readers(side, dataset)) if side else [] for side in sides)
    return first, rest


def _chosen(paths: list[Path], count: int) -> Iterator[Path]:
    """Yields at most `count` files, by the hashes of their content; equal ones all or none, and never all."""
    equal: dict[str, list[Path]] = collections.defaultdict(list)
    for path in paths:
        equal[file_digest(path)].append(path)
    for digest in sorted(equal)[:-1]:
        if len(equal[digest]) <= count:
            count -= len(equal[digest])
            yield from equal[digest]


def _check_count(count: int, total: int) -> None:
    if count >= total:
        raise DataError(f"dataset.splits.eval_examples is {count}, and there are only {total} training images.")


def _shards(split: str | None, ranges: list[Range], dataset: Dataset) -> list[Shard]:
    size = max(1, MAX_SHARD_BYTES // dataset.image_size)
    pieces = [
        (reader, begin, min(size, start + count - begin))
        for reader, start, count in ranges
        for begin in range(start, start + count, size)
    ]
    return [
        Shard(split, reader, start, count, f"data_tfrecord-{number:05d}-of-{len(pieces):05d}")
        for number, (reader, start, count) in enumerate(pieces)
    ]


def split_names(splits: HashedSplits) -> list[str]:
    """Returns the names of the splits that a hash divides images into."""
    shares = {"train": 1 - splits.eval_share - splits.test_share, "eval": splits.eval_share, "test": splits.test_share}
    return [name for name, share in shares.items() if share > 0]


def content_splits(images: np.ndarray, splits: HashedSplits) -> np.ndarray:
    """Returns the split of each image, as its content alone decides: string [N].

    The first 8 bytes of the pixels' SHA-256, as a fraction of 1, fall into test, eval or train by their shares, so the
    same picture is in the same split whatever it is called and whatever else is there.

    Args:
      images: uint8 [N, height, width, channels].
      splits: the shares of test and eval.
    """
    fractions = np.array([int.from_bytes(image_digest(image)[:8], "big") / 2**64 for image in images])
    bounds = np.cumsum([splits.test_share, splits.eval_share])
    return np.array(["test", "eval", "train"])[np.searchsorted(bounds, fractions, side="right")]
