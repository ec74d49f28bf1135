"""Reads tf.Examples where they lie, and draws batches from them."""

import dataclasses
import functools
import math
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import tensorflow as tf

from trainer import pictures
from trainer.records import Records
from trainer.settings import Pictures

_COMPUTING = threading.Lock()
PREFETCHED = 8  # batches made ahead of the step that takes them


class Images(Protocol):
    """Images that are had by their numbers; an array, uint8 [N, height, width, channels], is such."""

    def __len__(self) -> int:
        """Returns how many there are."""

    def __getitem__(self, numbers: int | slice | np.ndarray) -> np.ndarray:
        """Returns one, uint8 [height, width, channels], or some, uint8 [n, height, width, channels]."""


def _chosen(numbers: int | slice | np.ndarray, count: int) -> np.ndarray:
    """Returns the numbers of images, of which there are `count`.

    Raises:
      IndexError: there is no such image.
    """
    if isinstance(numbers, slice):
        return np.arange(*numbers.indices(count))
    chosen = np.asarray(numbers)
    if chosen.size and not (chosen.min() >= 0 and chosen.max() < count):
        raise IndexError(f"there are {count} images")
    return chosen


class RecordImages:
    """Images in TFRecord files, of raw pixels; each is read when it is asked for."""

    def __init__(self, records: Records, shape: tuple[int, int, int]) -> None:
        """Makes images of records.

        Raises:
          ValueError: an image has another size than its shape says.
        """
        wrong = np.flatnonzero(records.sizes != math.prod(shape))
        if wrong.size:
            raise ValueError(f"Image {wrong[0]} has {records.sizes[wrong[0]]} bytes, and not {math.prod(shape)}.")
        self._records, self._shape = records, shape

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, numbers: int | slice | np.ndarray) -> np.ndarray:
        chosen = _chosen(numbers, len(self))
        pixels = self._records.pixels(np.atleast_1d(chosen), math.prod(self._shape))
        return pixels.reshape(*chosen.shape, *self._shape)


class EncodedImages:
    """Images in TFRecord files, of picture files; each is decoded when it is asked for."""

    def __init__(self, records: Records, rules: Pictures) -> None:
        self._records, self.rules = records, rules

    def __len__(self) -> int:
        return len(self._records)

    def files(self, numbers: np.ndarray) -> np.ndarray:
        """Returns some files as they are: bytes [n]."""
        return np.array([*map(self._records.image, numbers), None], dtype=object)[:-1]

    def __getitem__(self, numbers: int | slice | np.ndarray) -> np.ndarray:
        chosen = _chosen(numbers, len(self))
        if not chosen.size:
            return np.empty((0, *self.rules.shape), np.uint8)
        with tf.device("CPU:0"):
            pixels = pictures.decoder(self.rules)(tf.constant(self.files(np.atleast_1d(chosen)), tf.string))
        return pixels.numpy().reshape(*chosen.shape, *self.rules.shape)


@dataclasses.dataclass(frozen=True)
class Split:
    """Labelled images.

    Attributes:
      images: N images, uint8 [height, width, channels] each.
      labels: int64 [N].
    """

    images: Images
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


def read_splits(folders: Sequence[Path], rules: Pictures) -> Split:
    """Returns a split of several parts of the data, one after the other; see `read_split`."""
    records = Records([file for folder in folders for file in _files_of(folder)])
    if not len(records):
        raise ValueError(f"The files of {', '.join(map(str, folders))} hold no example.")
    images = EncodedImages(records, rules) if rules.encoded else RecordImages(records, rules.shape)
    return Split(images, records.labels)


def read_split(folder: Path, rules: Pictures) -> Split:
    """Returns all of a split's TFRecords, in the order of their names.

    Args:
      folder: holds TFRecord files of tf.Examples with `image` (raw bytes) or `image/encoded` (a file), and `label`.
      rules: what an image is.

    Raises:
      ValueError: the folder holds no file, or no example, or images of another shape.
    """
    return read_splits([folder], rules)


def _files_of(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*"))
    if not files:
        raise ValueError(f"{folder} holds no TFRecord file to read examples from.")
    return files


def batches(
    split: Split, order: "ShuffledOrder", first_step: int = 0, replicas: int = 1, here: range | None = None
) -> tf.data.Dataset:
    """Returns the batches of a training's steps, each in its share for every replica that this worker has.

    Args:
      split: the examples.
      order: which examples each step sees.
      first_step: the number of the first step to return, from 0.
      replicas: how many devices share a batch.
      here: which of them this worker has; None for all. It reads nothing of what the others take.

    Returns:
      Elements of images, uint8 [n, height, width, channels], and labels, int64 [n]; the `replicas` elements of a step
      make up its batch.
    """
    here = range(replicas) if here is None else here
    batch_size, shape = order.batch_size, split.images[:1].shape[1:]
    encoded = split.images if isinstance(split.images, EncodedImages) else None

    def read(element: np.int64) -> tuple[np.ndarray, np.ndarray]:
        step, place = divmod(int(element), len(here))
        replica = here[place]
        chosen = order[step][replica * batch_size // replicas : (replica + 1) * batch_size // replicas]
        return encoded.files(chosen) if encoded else split.images[chosen], split.labels[chosen]

    def share(element: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images, labels = tf.numpy_function(read, [element], (tf.string if encoded else tf.uint8, tf.int64))
        size = batch_size // replicas if batch_size % replicas == 0 else None
        if encoded:  # here, and not in `read`, which holds Python's lock and a thread that the decoding may need
            images = pictures.decode(tf.ensure_shape(images, [size]), encoded.rules)
        return tf.ensure_shape(images, [size, *shape]), tf.ensure_shape(labels, [size])

    # There is nothing to tune; and tf.data's tuner can sleep for many seconds before it notices that its iterator is
    # gone.
    options = tf.data.Options()
    options.autotune.enabled = False
    elements = tf.data.Dataset.range(first_step * len(here), len(order) * len(here))
    readers = len(os.sched_getaffinity(0))  # threads
    return elements.map(share, readers).prefetch(PREFETCHED).with_options(options)


@dataclasses.dataclass(frozen=True)
class ShuffledOrder:
    """Which examples each step sees; `order[step]` is int32 [batch size].

    The examples are shuffled anew in every epoch, and a batch at the end of one is filled from the next, as the
    tutorial's `next_batch` does. Every epoch's permutation has a generator of its own, seeded with the seed and the
    epoch's number, so a training that is resumed, or made longer, sees just the batches it would have seen.

    Attributes:
      examples: how many there are.
      batch_size: examples in a step, over all replicas.
      steps: how many steps.
      seed: of the order.
    """

    examples: int
    batch_size: int
    steps: int
    seed: int

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> np.ndarray:
        if not 0 <= step < self.steps:
            raise IndexError(f"there are {self.steps} steps")
        epoch, start = divmod(step * self.batch_size, self.examples)
        parts, missing = [], self.batch_size
        while missing:
            parts.append(_permutation(self.examples, self.seed, epoch)[start : start + missing])
            missing -= len(parts[-1])
            epoch, start = epoch + 1, 0
        return np.concatenate(parts)


def _permutation(examples: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the order of the examples in an epoch: int32 [examples]; it is computed once, whichever threads ask."""
    with _COMPUTING:
        return _computed_permutation(examples, seed, epoch)


@functools.lru_cache(maxsize=4)  # two, of batches that are made ahead, and two of another training
def _computed_permutation(examples: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(examples).astype(np.int32)
