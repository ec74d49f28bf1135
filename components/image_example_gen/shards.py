"""Divides the images of a data set into splits, and each split into shards that are read at once."""

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from components.image_example_gen.dataset import Dataset
from components.image_example_gen.readers import DataError, Reader, open_readers

MAX_SHARD_BYTES = 16 * 2**20  # of pixels: what one worker holds in memory at a time
HASH_SPLITS = ("train", "eval", "test")


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

    def read(self, dataset: Dataset) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Yields each split that the shard has a part in, with its images and labels.

        Raises:
          DataError: a label out of range, or a file that cannot be decoded.
        """
        images, labels = self.reader.read(self.start, self.count)
        if self.split:
            yield self.split, images, labels
            return
        chosen = content_splits(images, dataset)
        for split in HASH_SPLITS:
            yield split, images[chosen == split], labels[chosen == split]


def plan(root: Path, patterns: Iterable[tuple[str, str]], dataset: Dataset) -> list[Shard]:
    """Returns the shards of all splits, after a check of every file's structure.

    Args:
      root: the folder of the input files.
      patterns: split names and their glob patterns below `root`. A single one means that the data has no splits of
        its own, and a hash of each image's content divides it.
      dataset: format, shape and classes of the images, and how many are held out.

    Raises:
      DataError: a pattern matches nothing, or a file's structure is wrong.
    """
    patterns = list(patterns)
    shards: list[Shard] = []
    for split, pattern in patterns:
        paths = [path for path in root.glob(pattern) if path.is_file()]
        if not paths:
            raise DataError.at(root, None, f"files that match {pattern} for the split {split}", "none")
        readers = open_readers(paths, dataset)
        if len(patterns) == 1:
            shards += _shards(None, [(reader, 0, len(reader)) for reader in readers], dataset)
        elif split == "train" and dataset.eval_examples:
            held_out, rest = _divide(readers, dataset.eval_examples)
            shards += _shards("train", rest, dataset) + _shards("eval", held_out, dataset)
        else:
            shards += _shards(split, [(reader, 0, len(reader)) for reader in readers], dataset)
    return shards


Range = tuple[Reader, int, int]  # a reader, the first image, how many


def _divide(readers: list[Reader], count: int) -> tuple[list[Range], list[Range]]:
    """Returns the first `count` images and the rest, each as ranges of the readers."""
    total = sum(len(reader) for reader in readers)
    if count >= total:
        raise DataError(f"dataset.eval_examples is {count}, and there are only {total} training images to take from.")
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


def _shards(split: str | None, ranges: list[Range], dataset: Dataset) -> list[Shard]:
    size = max(1, MAX_SHARD_BYTES // math.prod(dataset.shape))
    pieces = [
        (reader, begin, min(size, start + count - begin))
        for reader, start, count in ranges
        for begin in range(start, start + count, size)
    ]
    return [
        Shard(split, reader, start, count, f"data_tfrecord-{number:05d}-of-{len(pieces):05d}")
        for number, (reader, start, count) in enumerate(pieces)
    ]


def content_splits(images: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Returns the split of each image, as its content alone decides: string [N].

    The first 8 bytes of the pixels' SHA-256, as a fraction of 1, fall into test, eval or train by their shares, so the
    same picture is in the same split whatever it is called and whatever else is there.

    Args:
      images: uint8 [N, height, width, channels].
      dataset: its `test_share` and `eval_share`.
    """
    fractions = np.array([int.from_bytes(hashlib.sha256(image).digest()[:8], "big") / 2**64 for image in images])
    bounds = np.cumsum([dataset.test_share, dataset.eval_share])
    return np.array(["test", "eval", "train"])[np.searchsorted(bounds, fractions, side="right")]
