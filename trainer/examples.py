"""Reads tf.Examples into memory and draws batches from them."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

READ_BATCH = 1024
PREFETCHED = 8  # batches made ahead of the step that takes them


@dataclasses.dataclass(frozen=True)
class Split:
    """Labelled images in memory: a byte a pixel, so MNIST's 55,000 take 43 MB and CIFAR-10's 50,000 take 154 MB.

    Attributes:
      images: uint8 [N, height, width, channels].
      labels: int64 [N].
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


def read_splits(folders: Sequence[Path], shape: tuple[int, int, int]) -> Split:
    """Reads a split of several parts of the data, one after the other; see `read_split`."""
    splits = [read_split(folder, shape) for folder in folders]
    return Split(np.concatenate([s.images for s in splits]), np.concatenate([s.labels for s in splits]))


def read_split(folder: Path, shape: tuple[int, int, int]) -> Split:
    """Reads all of a split's TFRecords, in the order of their names.

    Args:
      folder: holds TFRecord files of tf.Examples with `image` (raw bytes) and `label`.
      shape: height, width and channels of an image.

    Raises:
      ValueError: the folder holds no file, or no example.
    """
    files = sorted(str(path) for path in folder.glob("*"))
    if not files:
        raise ValueError(f"{folder} holds no TFRecord file to read examples from.")
    features = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}

    def parse(records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        parsed = tf.io.parse_example(records, features)
        return tf.io.decode_raw(parsed["image"], tf.uint8, fixed_length=math.prod(shape)), parsed["label"]

    with tf.device("CPU:0"):
        batches = list(tf.data.TFRecordDataset(files).batch(READ_BATCH).map(parse).as_numpy_iterator())
    if not batches:
        raise ValueError(f"The files of {folder} hold no example.")
    images = np.concatenate([images for images, _ in batches])
    return Split(images.reshape(-1, *shape), np.concatenate([labels for _, labels in batches]))


def batches(split: Split, order: np.ndarray, first_step: int = 0, replicas: int = 1) -> tf.data.Dataset:
    """Returns the batches of a training's steps, each in its share for every replica.

    Args:
      split: the examples.
      order: which examples each step sees, int32 [steps, batch size]; see `shuffled_order`.
      first_step: the number of the first step to return, from 0.
      replicas: how many devices share a batch.

    Returns:
      Elements of images, uint8 [n, height, width, channels], and labels, int64 [n]; the `replicas` elements of a step
      make up its batch.
    """
    batch_size = order.shape[1]
    with tf.device("CPU:0"):
        images, labels, rows = tf.constant(split.images), tf.constant(split.labels), tf.constant(order)

    def share(element: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        step, replica = element // replicas, element % replicas
        chosen = rows[step, replica * batch_size // replicas : (replica + 1) * batch_size // replicas]
        if batch_size % replicas == 0:
            chosen = tf.ensure_shape(chosen, [batch_size // replicas])
        return tf.gather(images, chosen), tf.gather(labels, chosen)

    # A gather takes microseconds, so there is nothing to tune; and tf.data's tuner can sleep for many seconds before it
    # notices that its iterator is gone.
    options = tf.data.Options()
    options.autotune.enabled = False
    elements = tf.data.Dataset.range(first_step * replicas, len(order) * replicas)
    return elements.map(share).prefetch(PREFETCHED).with_options(options)


def shuffled_order(examples: int, batch_size: int, steps: int, seed: int) -> np.ndarray:
    """Returns which examples each step sees: int32 [steps, batch size].

    The examples are shuffled anew in every epoch, and a batch at the end of one is filled from the next, as the
    tutorial's `next_batch` does. Every epoch's permutation has a generator of its own, seeded with the seed and the
    epoch's number, so a training that is resumed, or made longer, sees just the batches it would have seen.

    Args:
      examples: how many there are.
      batch_size: examples in a step, over all replicas.
      steps: how many steps.
      seed: of the order.
    """
    epochs = range(math.ceil(steps * batch_size / examples))
    permutations = [np.random.default_rng((seed, epoch)).permutation(examples).astype(np.int32) for epoch in epochs]
    return np.concatenate(permutations)[: steps * batch_size].reshape(steps, batch_size)
