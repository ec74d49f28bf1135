"""TFRecord files of tf.Examples that are read where they lie: any image, at any time, without the others.

An index says where each image's bytes begin in its file, how many they are, and what its label is. The ingestion writes
it beside the splits; for files without one it is made here. An image is read with one call of the operating system,
which keeps as much of the files in its own memory as it likes; a mapping of the files would count as this process's.

The sizes of files are checked, and the checksums of records are not.
"""

import contextlib
import os
import re
import resource
import struct
import weakref
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from conveyor.errors import ConveyorError

INDEX = "index"  # folder beside the splits: <split>/<file>.npz
ENTRY = np.dtype([("offset", "<u8"), ("size", "<u4"), ("label", "<i4")])
IMAGES, LABEL = (b"image", b"image/encoded"), b"label"  # pixels, or a picture file
OTHER_FILES = 1024  # that a process may open besides
_FRAME_BEFORE, _FRAME_AFTER = 12, 4  # length and its checksum; the content's checksum
_BYTES_LIST, _INT64_LIST = 1, 3  # of tf.train.Feature
_LENGTH_DELIMITED, _VARINT = 2, 0


class Record(NamedTuple):
    """A serialized tf.Example.

    Attributes:
      content: its bytes.
      offset: where the image's bytes begin in it.
      size: how many they are.
      label: the image's class.
    """

    content: bytes
    offset: int
    size: int
    label: int


def parse(record: bytes) -> Record:
    """Returns a serialized tf.Example, and where its image is in it.

    Raises:
      ValueError: the record is no tf.Example with one `image` and one `label`.
    """
    image: tuple[int, int] | None = None
    label: int | None = None
    try:
        ((_, features),) = _fields(record, 0, len(record))
        for _, place in _fields(record, *features):
            (_, key), (_, feature) = _fields(record, *place)
            if record[slice(*key)] not in (*IMAGES, LABEL):
                continue
            ((kind, values),) = _fields(record, *feature)
            if kind == _BYTES_LIST:
                ((_, image),) = _fields(record, *values)
            elif kind == _INT64_LIST:
                ((_, packed),) = _fields(record, *values)
                label, _ = _varint(record, packed[0])
    except (IndexError, ValueError) as error:
        raise ValueError("a record is no tf.Example with one image and one label") from error
    if image is None or label is None:
        raise ValueError("a record is no tf.Example with one image and one label")
    return Record(record, image[0], image[1] - image[0], label)


def _fields(data: bytes, start: int, end: int) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yields the number of each field of a message, and where its content is."""
    while start < end:
        tag, start = _varint(data, start)
        if tag & 7 == _VARINT:  # a number that is not packed
            yield tag >> 3, (start, start + 1)
            _, start = _varint(data, start)
        elif tag & 7 == _LENGTH_DELIMITED:
            length, start = _varint(data, start)
            yield tag >> 3, (start, start + length)
            start += length
        else:
            raise ValueError(tag)


def _varint(data: bytes, start: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[start]
        start += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, start


def index_folder(split: Path) -> Path:
    """Returns where the indexes of a split's files are: the split is `<examples>/Split-<name>`."""
    return split.parent / INDEX / split.name


def write(file: Path, examples: Iterable[Record]) -> None:
    """Writes a TFRecord file and its index.

    Args:
      file: `<examples>/Split-<name>/<file>`.
      examples: what it is to hold.
    """
    entries, at = [], 0
    with tf.io.TFRecordWriter(str(file)) as writer:
        for example in examples:
            entries.append((at + _FRAME_BEFORE + example.offset, example.size, example.label))
            writer.write(example.content)
            at += _FRAME_BEFORE + len(example.content) + _FRAME_AFTER
    folder = index_folder(file.parent)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(_index_file(file), entries=np.array(entries, ENTRY), file_size=at)


def make_index(file: Path) -> np.ndarray:
    """Returns the index of a TFRecord file, which is read once from beginning to end: `ENTRY` [N].

    Raises:
      ValueError: the file is truncated, or a record is no tf.Example with one image and one label.
    """
    entries, at, data = [], 0, file.read_bytes()
    while at < len(data):
        if at + _FRAME_BEFORE > len(data):
            raise ValueError(f"{file} at byte {at}: the file ends within a record.")
        (length,) = struct.unpack_from("<Q", data, at)
        begin = at + _FRAME_BEFORE
        at = begin + length + _FRAME_AFTER
        if at > len(data):
            raise ValueError(f"{file} at byte {begin}: the file ends within a record.")
        record = parse(data[begin : begin + length])
        entries.append((begin + record.offset, record.size, record.label))
    return np.array(entries, ENTRY)


class ExamplesChanged(ConveyorError):
    """A file of examples is not what it was when it was opened."""


@contextlib.contextmanager
def changes_told() -> Iterator[None]:
    """Raises an `ExamplesChanged` of an input pipeline as it was: TensorFlow makes an error of its own of it."""
    try:
        yield
    except tf.errors.OpError as error:
        if found := re.search(rf"{ExamplesChanged.__name__}: (.*)", str(error)):
            raise ExamplesChanged(found[1]) from error
        raise


class Records:
    """The images of some TFRecord files, one file after the other.

    Attributes:
      labels: int64 [N].
    """

    def __init__(self, files: Sequence[Path]) -> None:
        """Opens the files, and reads their indexes.

        Raises:
          ValueError: a file is not what was written, or has no index and none can be made.
        """
        _allow_open_files(len(files))
        indexes = [_index_of(file) for file in files]
        self._paths = files
        self._opened: list[int] = []
        weakref.finalize(self, _close, self._opened)
        for file in files:
            self._opened.append(os.open(file, os.O_RDONLY | os.O_CLOEXEC))
        counts = [len(index) for index in indexes]
        entries = np.concatenate(indexes) if indexes else np.empty(0, ENTRY)
        self._offsets, self._sizes = entries["offset"], entries["size"]
        self._files = np.repeat(np.arange(len(files), dtype=np.int32), counts)
        self.labels = entries["label"].astype(np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def sizes(self) -> np.ndarray:
        """The number of each image's bytes: uint32 [N]."""
        return self._sizes

    def image(self, number: int) -> bytes:
        """Returns the bytes of an image."""
        return self.pixels(np.array([number]), int(self._sizes[number])).tobytes()

    def pixels(self, numbers: np.ndarray, size: int) -> np.ndarray:
        """Returns the bytes of images that are all of one size: uint8 [len(numbers), size].

        Raises:
          ExamplesChanged: a file has become shorter than it was.
        """
        pixels = np.empty((len(numbers), size), np.uint8)
        places = zip(pixels, self._files[numbers].tolist(), self._offsets[numbers].tolist(), strict=True)
        for row, file, offset in places:
            if os.preadv(self._opened[file], [row.data], offset) != size:
                raise ExamplesChanged(f"{self._paths[file]} ends before byte {offset + size}: it has been changed.")
        return pixels


def _close(opened: list[int]) -> None:
    for file in opened:
        os.close(file)


def _allow_open_files(count: int) -> None:
    """Raises this process's limit of open files, if so many more need it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = len(list(Path("/dev/fd").iterdir())) + count + OTHER_FILES  # those of another split may be open already
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )


def _index_of(file: Path) -> np.ndarray:
    path = _index_file(file)
    if not path.exists():
        return make_index(file)
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as index:
            entries, file_size = index["entries"], int(index["file_size"])
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):  # it is damaged: the file itself has all
        return make_index(file)
    if file_size != file.stat().st_size:
        raise ValueError(f"{file} has {file.stat().st_size} bytes, and had {file_size} when it was written.")
    return entries


def _index_file(file: Path) -> Path:
    return index_folder(file.parent) / f"{file.name}.npz"
