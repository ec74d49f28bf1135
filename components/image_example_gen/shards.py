"""Divides the images of a data set into splits, and each split into shards that are read at once."""

import dataclasses
import hashlib
import math
from collections.abc import Iterator

import numpy as np

from components.image_example_gen.dataset import Dataset
from components.image_example_gen.readers import DataError, Reader, open_readers
from components.image_example_gen.spans import Part

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
        for split in hash_splits(dataset):
            yield split, images[chosen == split], labels[chosen == split]


def plan(part: Part) -> list[Shard]:
    """Returns the shards of all of a part's splits, after a check of every file's structure.

    Where its data set names a single split, the data has no splits of its own, and a hash of each image's content
    divides it.

    Raises:
      DataError: a pattern matches nothing, or a file's structure is wrong.
    """
    dataset = part.dataset
    shards: list[Shard] = []
    for split, pattern in dataset.splits:
        paths = part.files(pattern)
        if not paths:
            raise DataError.at(part.folder, None, f"files that match {pattern} for the split {split}", "none")
        readers = open_readers(paths, dataset)
        if len(dataset.splits) == 1:
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


def hash_splits(dataset: Dataset) -> list[str]:
    """Returns the splits that a data set without splits of its own is divided into."""
    shares = {
        "train": 1 - dataset.eval_share - dataset.test_share,
        "eval": dataset.eval_share,
        "test": dataset.test_share,
    }
    return [split for split, share in shares.items() if share > 0]


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
