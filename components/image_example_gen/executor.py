"""Writes labelled images as tf.Examples, with Beam."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
from google.protobuf import struct_pb2
from tfx.dsl.components.base import base_beam_executor
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils
from tfx.utils import proto_utils

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


class Executor(base_beam_executor.BaseBeamExecutor):
    """Reads IDX pairs, CIFAR-10 binary files or class folders, and writes one TFRecord folder a split.

    The records keep the order of the files and every shard is written by one worker, so two runs over the same files
    write the same bytes, however many workers there are. The files are not compressed: gzip would take most of the
    component's time, and every reader of them after it would pay again.
    """

    def Do(
        self,
        input_dict: dict[str, list[Any]],
        output_dict: dict[str, list[Any]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes `Split-<name>/data_tfrecord-*` below the `examples` artifact.

        Raises:
          DataError: a file is missing, truncated, corrupt or of another shape, or a label is out of range.
        """
        dataset = dataset_of(exec_properties)
        config = proto_utils.json_to_proto(exec_properties["input_config"], example_gen_pb2.Input())
        root = Path(exec_properties["input_base"])
        shards = plan(root, [(split.name, split.pattern) for split in config.splits], dataset)
        examples = artifact_utils.get_single_instance(output_dict["examples"])
        splits = list(dict.fromkeys(s.split for s in shards if s.split)) or list(HASH_SPLITS)
        examples.split_names = artifact_utils.encode_split_names(splits)
        folders = {split: Path(artifact_utils.get_split_uri([examples], split)) for split in splits}
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        with self._make_beam_pipeline() as pipeline:
            _ = (
                pipeline
                | "Shards" >> beam.Create(shards, reshuffle=True)
                | "WriteExamples" >> beam.ParDo(_WriteShard(dataset, folders))
            )
        for split, folder in folders.items():
            if not any(file.stat().st_size for file in folder.iterdir()):
                raise DataError.at(root, None, f"at least one image for the split {split}", "none")


def dataset_of(exec_properties: dict[str, Any]) -> Dataset:
    """Returns the data set that the component was given."""
    config = proto_utils.json_to_proto(exec_properties["custom_config"], example_gen_pb2.CustomConfig())
    settings = struct_pb2.Struct()
    config.custom_config.Unpack(settings)
    return Dataset.from_dict(json.loads(settings["dataset"]))


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


class _WriteShard(beam.DoFn):
    """Reads a shard and writes its examples."""

    def __init__(self, dataset: Dataset, folders: dict[str, Path]) -> None:
        self._dataset = dataset
        self._folders = folders

    def process(self, shard: Shard) -> Iterator[Any]:
        images, labels = shard.reader.read(shard.start, shard.count)
        splits = [shard.split] if shard.split else list(HASH_SPLITS)
        chosen = None if shard.split else content_splits(images, self._dataset)
        for split in splits:
            mask = slice(None) if chosen is None else chosen == split
            with tf.io.TFRecordWriter(str(self._folders[split] / shard.name)) as writer:
                for record in serialize(images[mask], labels[mask]):
                    writer.write(record)
        yield from ()


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


def serialize(images: np.ndarray, labels: np.ndarray) -> Iterator[bytes]:
    """Yields one serialized tf.Example an image.

    `image` holds the raw pixels, row by row, channels last; `label` the class; and, for statistics that never look at
    pixels, `image_mean` and `image_stddev` (0 to 255) and `image_size` (bytes) are scalars derived from it.

    Args:
      images: uint8 [N, height, width, channels].
      labels: int64 [N].
    """
    if not len(images):
        return
    flat = images.reshape(len(images), -1)
    means = flat.mean(axis=1)
    stddevs = flat.std(axis=1)
    for pixels, label, mean, stddev in zip(flat, labels, means, stddevs, strict=True):
        example = tf.train.Example()
        feature = example.features.feature
        feature["image"].bytes_list.value.append(pixels.tobytes())
        feature["label"].int64_list.value.append(label)
        feature["image_mean"].float_list.value.append(mean)
        feature["image_stddev"].float_list.value.append(stddev)
        feature["image_size"].int64_list.value.append(pixels.size)
        # A map's order is otherwise chosen anew in each process, and two runs would differ.
        yield example.SerializeToString(deterministic=True)
