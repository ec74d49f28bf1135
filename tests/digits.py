"""Real digits as IDX files, and data sets that differ in how they are divided."""

import dataclasses
import struct
from pathlib import Path

import numpy as np
import tensorflow as tf

from components.image_example_gen.dataset import Dataset
from components.image_example_gen.executor import serialize


def write_idx(folder: Path, prefix: str, images: np.ndarray, labels: np.ndarray) -> None:
    """Writes a pair of IDX files: images uint8 [N, height, width], labels [N]."""
    folder.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">4I", 0x803, *images.shape)
    (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.astype(np.uint8).tobytes())
    header = struct.pack(">2I", 0x801, len(labels))
    (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(header + labels.astype(np.uint8).tobytes())


def write_examples(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Writes the tf.Examples that ingestion makes of images, [N, height, width], as a file in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(folder / "data")) as writer:
        for record in serialize(images[..., np.newaxis], labels.astype(np.int64)):
            writer.write(record.content)


def read_idx(folder: Path, prefix: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads the first images, uint8 [count, 28, 28], and labels, uint8 [count], of real MNIST."""
    images = np.fromfile(folder / f"{prefix}-images-idx3-ubyte", np.uint8, count * 784, offset=16)
    labels = np.fromfile(folder / f"{prefix}-labels-idx1-ubyte", np.uint8, count, offset=8)
    return images.reshape(count, 28, 28), labels


def held_out(dataset: Dataset, eval_examples: int) -> Dataset:
    """Returns a data set with another number of examples held out of its training files."""
    return dataclasses.replace(dataset, splits=dataclasses.replace(dataset.splits, eval_examples=eval_examples))
