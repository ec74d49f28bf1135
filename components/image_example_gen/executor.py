"""Writes labelled images as tf.Examples, with Beam."""

import functools
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
from google.protobuf import wrappers_pb2
from tfx.dsl.components.base import base_beam_executor
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils
from tfx.utils import proto_utils

from components.image_example_gen.data_error import DataError
from components.image_example_gen.dataset import Dataset, HashedSplits
from components.image_example_gen.shards import Piece, Shard, plan, reserved_digests, split_names
from components.image_example_gen.spans import BASE, Part
from conveyor.pictures import as_png_or_jpeg
from conveyor.settings import from_json, settings, to_json
from trainer import records

# Folders beside the splits: of what is wrong with files, and of where each image of the split test comes from.
PROBLEMS, SOURCES = "problems", "test_sources"
BLOCK = 1024  # images that are made into examples at once


@settings("base files")
class BaseFiles:
    """The base files of a data set.

    Attributes:
      folder: where they are.
      dataset: format, shape, classes and splits.
      digest: SHA-256 of all of them.
    """

    folder: str
    dataset: Dataset
    digest: str


@settings("ingestion")
class IngestionSettings:
    """What the component tells its executor, besides the folder.

    Attributes:
      part: name of the part of the data.
      dataset: format, shape, classes and splits of its files.
      input_digest: SHA-256 of all files.
      input_files: SHA-256 of each file by its name; empty where there are too many.
      code_digest: SHA-256 of the code that ingests.
      base: for a span, the base files, whose splits test and eval must not be in it.
    """

    part: str
    dataset: Dataset
    input_digest: str
    input_files: dict[str, str]
    code_digest: str
    base: BaseFiles | None = None

    def to_message(self) -> wrappers_pb2.BytesValue:
        """Returns the settings as JSON in a message, as TFX's custom configuration takes them.

        As bytes: ML Metadata on PostgreSQL refuses a text property with a backslash, as JSON within JSON has.
        """
        return wrappers_pb2.BytesValue(value=to_json(self).encode())

    @classmethod
    def of(cls, exec_properties: dict[str, Any]) -> "IngestionSettings":
        """Returns the settings that the component wrote into the execution properties."""
        config = proto_utils.json_to_proto(exec_properties["custom_config"], example_gen_pb2.CustomConfig())
        message = wrappers_pb2.BytesValue()
        config.custom_config.Unpack(message)
        return from_json(cls, message.value)


class Executor(base_beam_executor.BaseBeamExecutor):
    """Reads IDX pairs, CIFAR-10 binary files or class folders, and writes one TFRecord folder a split.

    The records keep the order of the files and every shard is written by one worker, so two runs over the same files
    write the same bytes, however many workers there are. The files are not compressed: gzip would take most of the
    component's time, and every reader of them after it would pay again.
    """

    RELEASES_LOCK = True  # most of its work is done without Python's lock, so that each core can take a shard

    def Do(
        self,
        input_dict: dict[str, list[Any]],
        output_dict: dict[str, list[Any]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes `Split-<name>/data_tfrecord-*` below the `examples` artifact.

        Raises:
          DataError: files are missing, truncated, corrupt or of another shape, a label is out of range, or an image of
            a span is one that the base files hold out of training; it names every such file, not only the first.
        """
        given = IngestionSettings.of(exec_properties)
        dataset = given.dataset
        part = Part(given.part, Path(exec_properties["input_base"]), dataset)
        shards = plan(part)
        base = given.base and Part(BASE, Path(given.base.folder), given.base.dataset)
        reserved = reserved_digests(base) if base else frozenset()
        examples = artifact_utils.get_single_instance(output_dict["examples"])
        if isinstance(dataset.splits, HashedSplits):
            splits = split_names(dataset.splits)
        else:
            splits = list(dict.fromkeys(shard.split for shard in shards if shard.split))
        # For the way back from a model to its files.
        examples.set_string_custom_property("part", given.part)
        examples.set_string_custom_property("input_digest", given.input_digest)
        examples.set_string_custom_property("input_files", json.dumps(given.input_files, ensure_ascii=False))
        examples.split_names = artifact_utils.encode_split_names(splits)
        folders = {split: Path(artifact_utils.get_split_uri([examples], split)) for split in splits}
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        problems = Path(examples.uri) / PROBLEMS
        with self._make_beam_pipeline() as pipeline:
            _ = (
                pipeline
                | "Shards" >> beam.Create(shards, reshuffle=True)
                | "WriteExamples" >> beam.ParDo(_WriteShard(part, folders, reserved, Path(examples.uri)))
            )
        if problems.exists():
            raise DataError(*(line for path in sorted(problems.iterdir()) for line in json.loads(path.read_text())))
        _settle(part, folders)
        examples.split_names = artifact_utils.encode_split_names([s for s in splits if folders[s].exists()])


def _settle(part: Part, folders: dict[str, Path]) -> None:
    """Removes an empty split of what is held out; a few images of a span that would all be held out are trained on.

    Raises:
      DataError: another split is empty.
    """
    empty = {split for split, folder in folders.items() if not any(file.stat().st_size for file in folder.iterdir())}
    if part.name != BASE and "train" in empty and "eval" in folders.keys() - empty:
        _remove(folders["train"])
        records.index_folder(folders["eval"]).rename(records.index_folder(folders["train"]))
        folders["eval"].rename(folders["train"])
        return
    if "eval" in empty:
        _remove(folders["eval"])
    for split in sorted(empty - {"eval"}):
        raise DataError.at(part.folder, None, f"at least one image for the split {split}", "none")


def _remove(split: Path) -> None:
    """Removes an empty split, and the index of its files."""
    shutil.rmtree(split)
    shutil.rmtree(records.index_folder(split), ignore_errors=True)


class _WriteShard(beam.DoFn):
    """Reads a shard and writes its examples and where they come from, or what is wrong with its files."""

    def __init__(self, part: Part, folders: dict[str, Path], reserved: frozenset[bytes], examples: Path) -> None:
        self._part = part
        self._folders = folders
        self._reserved = reserved
        self._examples = examples

    def process(self, shard: Shard) -> Iterator[Any]:
        try:
            pieces = list(shard.read(self._part.dataset, self._reserved))
        except DataError as error:
            problems = self._examples / PROBLEMS
            problems.mkdir(exist_ok=True)
            (problems / f"{shard.split}-{shard.name}.json").write_text(json.dumps(error.sentences))
            return
        for piece in pieces:
            records.write(self._folders[piece.split] / shard.name, self._examples_of(shard, piece))
            if piece.split == "test":
                self._write_sources(shard, piece)
        yield from ()

    def _examples_of(self, shard: Shard, piece: Piece) -> Iterator[records.Record]:
        if not self._part.dataset.keep_encoded:
            return serialize(piece.images, piece.labels)
        paths = [shard.reader.place(int(number))[0] for number in piece.numbers]
        return serialize_files(piece.images, piece.labels, (as_png_or_jpeg(path.read_bytes()) for path in paths))

    def _write_sources(self, shard: Shard, piece: Piece) -> None:
        folder = self._examples / SOURCES
        folder.mkdir(exist_ok=True)
        sources = [shard.source(int(number), self._part.folder) for number in piece.numbers]
        (folder / f"{shard.name}.json").write_text(json.dumps(sources, ensure_ascii=False), encoding="utf-8")


def serialize(images: np.ndarray, labels: np.ndarray) -> Iterator[records.Record]:
    """Yields one serialized tf.Example an image, and where the image is in it.

    `image` holds the raw pixels, row by row, channels last; `label` the class; and, for statistics that never look at
    pixels, `image_mean` and `image_stddev` (0 to 255) and `image_size` (bytes) are scalars derived from it.

    Two examples of one label differ in fixed places only. Each block of a label is therefore one example, repeated,
    with those places filled in; numpy does that without Python's lock, so that several shards are made at once.

    Args:
      images: uint8 [N, height, width, channels].
      labels: int64 [N].
    """
    for start in range(0, len(images), BLOCK):
        block = slice(start, start + BLOCK)
        yield from _serialized(images[block].reshape(len(images[block]), -1), labels[block])


def serialize_files(images: np.ndarray, labels: np.ndarray, files: Iterable[bytes]) -> Iterator[records.Record]:
    """Yields one serialized tf.Example a picture file, with the file as `image/encoded`; else as `serialize` does.

    Args:
      images: what the network sees of each: uint8 [N, height, width, channels].
      labels: int64 [N].
      files: N PNG or JPEG files.
    """
    for image, label, file in zip(images, labels, files, strict=True):
        example = tf.train.Example()
        feature = example.features.feature
        feature["image/encoded"].bytes_list.value.append(file)
        feature["label"].int64_list.value.append(label)
        feature["image_mean"].float_list.value.append(image.mean())
        feature["image_stddev"].float_list.value.append(image.std())
        feature["image_size"].int64_list.value.append(image.size)
        yield records.parse(example.SerializeToString(deterministic=True))


def _serialized(pixels: np.ndarray, labels: np.ndarray) -> Iterator[records.Record]:
    """Yields the examples of some images, uint8 [N, bytes of an image]."""
    means = pixels.mean(axis=1, dtype=np.float64)
    centred = pixels - means[:, np.newaxis].astype(np.float32)
    stddevs = np.sqrt(np.einsum("ij,ij->i", centred, centred) / pixels.shape[1])
    made: list[tuple[bytes, int]] = [(b"", 0)] * len(pixels)  # and where the image begins
    for label in np.unique(labels):
        numbers = np.flatnonzero(labels == label)
        head, tail, places = _template(pixels.shape[1], int(label))
        image = slice(len(head), len(head) + pixels.shape[1])
        rows = np.empty((len(numbers), image.stop + len(tail)), np.uint8)
        rows[:, : image.start], rows[:, image], rows[:, image.stop :] = head, pixels[numbers], tail
        rows[:, places["image_mean"]] = means[numbers].astype("<f4")[:, np.newaxis].view(np.uint8)
        rows[:, places["image_stddev"]] = stddevs[numbers].astype("<f4")[:, np.newaxis].view(np.uint8)
        for number, row in zip(numbers, rows, strict=True):
            made[number] = row.tobytes(), image.start
    for (record, begin), label in zip(made, labels, strict=True):
        yield records.Record(record, begin, pixels.shape[1], int(label))


@functools.lru_cache(maxsize=1024)
def _template(size: int, label: int) -> tuple[np.ndarray, np.ndarray, dict[str, slice]]:
    """Returns an example of a label, uint8, before and after the image, and where the values are that differ.

    Args:
      size: bytes of an image.
      label: the class.
    """
    marks = {"image_mean": 1.2345678e30, "image_stddev": 7.6543210e-30}  # numbers that nothing else in it looks like
    example = tf.train.Example()
    feature = example.features.feature
    feature["image"].bytes_list.value.append(bytes(size))
    feature["label"].int64_list.value.append(label)
    for name, mark in marks.items():
        feature[name].float_list.value.append(mark)
    feature["image_size"].int64_list.value.append(size)
    # A map's order is otherwise chosen anew in each process, and two runs would differ. Which it is, is protobuf's
    # choice: some versions have the image first, others the numbers.
    record = example.SerializeToString(deterministic=True)
    begin, length, _ = records.parse(record)[1:]
    places = {}
    for name, mark in marks.items():
        at = record.index(np.float32(mark).tobytes())  # the image is all zeros, and holds no such number
        places[name] = slice(at, at + 4)
    head, tail = (np.frombuffer(part, np.uint8) for part in (record[:begin], record[begin + length :]))
    return head, tail, places


def read_test_sources(examples: Path) -> list[str]:
    """Returns where each image of the split test comes from, in their order; nothing of an older artifact.

    Args:
      examples: the folder of the artifact.
    """
    files = sorted((examples / SOURCES).glob("*.json"))
    return [source for path in files for source in json.loads(path.read_text(encoding="utf-8"))]
