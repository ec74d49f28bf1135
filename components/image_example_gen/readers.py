"""Reads labelled images from files, in blocks, and refuses what is not as it should be.

Each reader checks the whole of its files' structure when it is made (sizes, magic numbers, counts) and the content
block by block, so that a wrong file is refused before a single example of it is used. IDX and CIFAR-10 files may be
gzipped, as they are published: each is then named `*.gz`.

Sources: the IDX format, http://yann.lecun.com/exdb/mnist/; CIFAR-10's binary version,
https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import gzip
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Protocol

import numpy as np

from components.image_example_gen.data_error import GZIP, DataError, unpacked
from components.image_example_gen.dataset import Dataset
from conveyor.files import CHUNK
from conveyor.pictures import KINDS, PictureError, as_png_or_jpeg, reason
from conveyor.words import counted
from trainer.settings import CHANNELS

IDX_IMAGES_MAGIC = 0x0803  # unsigned bytes in three dimensions
IDX_LABELS_MAGIC = 0x0801  # unsigned bytes in one dimension
BLOCK = 32  # picture files that are read and decoded together
# Of all readers together. Each decodes two pictures at once, which may take some hundreds of MB each.
_DECODERS = concurrent.futures.ThreadPoolExecutor(min(4, len(os.sched_getaffinity(0))), "decode")


class Reader(Protocol):
    """Labelled images that can be read from any position."""

    def __len__(self) -> int:
        """Returns how many images there are."""

    def read(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns images, uint8 [count, height, width, channels], and labels, int64 [count], from number `start` on.

        Raises:
          DataError: a label out of range, or a file that cannot be decoded.
        """

    def place(self, number: int) -> tuple[Path, int | None]:
        """Returns the file that an image is in, and its number there, from 0; None where the file is one image."""


@dataclasses.dataclass(frozen=True)
class IdxReader:
    """A pair of IDX files: images and labels."""

    images: Path
    labels: Path
    dataset: Dataset

    IMAGES_HEADER = 16
    LABELS_HEADER = 8

    def __post_init__(self) -> None:
        height, width, channels = self.dataset.shape
        if channels != 1:
            raise DataError.at(self.images, None, f"{channels} channels", "an IDX file, which has one")
        count, rows, columns = _idx_header(self.images, IDX_IMAGES_MAGIC, 3)
        if (rows, columns) != (height, width):
            raise DataError.at(self.images, 8, f"images of {height} x {width} pixels", f"{rows} x {columns}")
        _check_size(self.images, self.IMAGES_HEADER + count * height * width, f"{count} images as its header says")
        (label_count,) = _idx_header(self.labels, IDX_LABELS_MAGIC, 1)
        if label_count != count:
            raise DataError.at(
                self.labels, 4, f"{count} labels, one for each image of {self.images.name}", f"{label_count}"
            )
        _check_size(self.labels, self.LABELS_HEADER + count, f"{count} labels as its header says")

    def __len__(self) -> int:
        (count,) = _idx_header(self.labels, IDX_LABELS_MAGIC, 1)
        return count

    def read(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        size = self.dataset.image_size
        images = _read_bytes(self.images, self.IMAGES_HEADER + start * size, count * size)
        first_label = self.LABELS_HEADER + start
        labels = _read_bytes(self.labels, first_label, count)
        _check_labels(self.labels, labels, first_label, 1, self.dataset)
        return images.reshape(count, *self.dataset.shape), labels.astype(np.int64)

    def place(self, number: int) -> tuple[Path, int | None]:
        return self.images, number


@dataclasses.dataclass(frozen=True)
class CifarReader:
    """One file of CIFAR-10's binary version: records of a label byte and the image, channels first."""

    path: Path
    dataset: Dataset
    records: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        size = _size(self.path)
        object.__setattr__(self, "records", size // self._record)
        if size == 0 or size % self._record:
            found = f"{size} bytes: {self.records} whole records and {size % self._record} bytes more"
            raise DataError.at(self.path, self.records * self._record, f"records of {self._record} bytes", found)

    @property
    def _record(self) -> int:
        return 1 + self.dataset.image_size

    def __len__(self) -> int:
        return self.records

    def read(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        height, width, channels = self.dataset.shape
        records = _read_bytes(self.path, start * self._record, count * self._record).reshape(count, self._record)
        _check_labels(self.path, records[:, 0], start * self._record, self._record, self.dataset)
        images = records[:, 1:].reshape(count, channels, height, width).transpose(0, 2, 3, 1)
        return np.ascontiguousarray(images), records[:, 0].astype(np.int64)

    def place(self, number: int) -> tuple[Path, int | None]:
        return self.path, number


@dataclasses.dataclass(frozen=True)
class FolderReader:
    """Picture files in folders named after their classes; see `trainer.pictures` for what is done to each."""

    paths: tuple[Path, ...]
    dataset: Dataset

    def __post_init__(self) -> None:
        channels = self.dataset.shape[2]
        if channels not in CHANNELS:
            raise DataError.at(self.paths[0], None, "images of 1, 3 or 4 channels", f"{channels} asked for")
        expected = f"a folder named after a class ({', '.join(self.dataset.classes)})"
        counts = collections.Counter(path.parent for path in self.paths if path.parent.name not in self.dataset.classes)
        if counts:
            raise _all(
                DataError.at(folder, None, expected, f"{folder.name!r} with {counted(count, 'file')}")
                for folder, count in sorted(counts.items())
            )

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        paths = self.paths[start : start + count]
        labels = [self.dataset.classes.index(path.parent.name) for path in paths]
        blocks = list(_DECODERS.map(self._decode, (paths[at : at + BLOCK] for at in range(0, len(paths), BLOCK))))
        problems = [error for _, errors in blocks for error in errors]
        if problems:
            raise _all(problems)
        return np.concatenate([images for images, _ in blocks]), np.array(labels, np.int64)

    def place(self, number: int) -> tuple[Path, int | None]:
        return self.paths[number], None

    def _decode(self, paths: Sequence[Path], again: bool = True) -> tuple[np.ndarray, list[DataError]]:
        """Returns the pixels of some files, or what is wrong with each that cannot be decoded when tried again."""
        import tensorflow as tf  # seconds, which a data set of other files need not wait for

        from trainer import pictures

        with contextlib.suppress(RuntimeError):  # it is used already
            tf.config.set_visible_devices([], "GPU")
        decode = pictures.decoder(self.dataset.pictures)
        try:
            return decode(tf.constant([as_png_or_jpeg(path.read_bytes()) for path in paths])).numpy(), []
        except (OSError, PictureError, tf.errors.InvalidArgumentError) as error:
            if again:  # each by itself: some may be whole, and what was not there a moment ago may be now
                singles = [self._decode([path], again=False) for path in paths]
                images = [image for image, problems in singles if not problems]
                return np.concatenate(images or [np.empty(0)]), [found for _, each in singles for found in each]
            return np.empty(0), [DataError.at(paths[0], None, f"a whole picture: {KINDS}", _why(error))]


def _why(error: Exception) -> str:
    if isinstance(error, PictureError):
        return str(error)
    message = error.strerror if isinstance(error, OSError) else getattr(error, "message", "")
    return f"a file with this: {reason(str(message))}"


def _all(problems: Iterable[DataError]) -> DataError:
    """Returns one error that says what all say."""
    return DataError(*(sentence for problem in problems for sentence in problem.sentences))


def open_readers(paths: Sequence[Path], dataset: Dataset) -> list[Reader]:
    """Returns the readers of one split's files, in the order of their names.

    Args:
      paths: the files that match the split's pattern.
      dataset: their format, shape and classes.

    Raises:
      DataError: files are truncated, too long, of another format or shape, or have no partner; it names each.
    """
    ordered = tuple(sorted(paths))
    if dataset.format == "folders":
        return [FolderReader(ordered, dataset)]
    images = [path for path in ordered if "-images" in path.name]
    makers: list[Callable[[], Reader]]
    if dataset.format == "cifar_binary":
        makers = [functools.partial(CifarReader, path, dataset) for path in ordered]
    elif images:
        makers = [functools.partial(_idx_reader, path, ordered, dataset) for path in images]
    else:
        raise DataError.at(ordered[0], None, "a pair of files named *-images-idx3-* and *-labels-idx1-*", "no images")
    readers: list[Reader] = []
    problems = []
    for make in makers:
        try:
            readers.append(make())
        except DataError as error:
            problems.append(error)
    if problems:
        raise _all(problems)
    return readers


def _idx_reader(images: Path, paths: Sequence[Path], dataset: Dataset) -> IdxReader:
    return IdxReader(images, _labels_of(images, paths), dataset)


def _labels_of(images: Path, paths: Sequence[Path]) -> Path:
    wanted = unpacked(images).name.replace("-images-idx3", "-labels-idx1")
    for path in paths:
        if unpacked(path) == images.with_name(wanted):
            return path
    raise DataError.at(images, None, f"its labels in {wanted} or {wanted}{GZIP}", "no such file")


@contextlib.contextmanager
def _content(path: Path) -> Iterator[IO[bytes] | gzip.GzipFile]:
    """Opens a file for its content, which is unpacked where the file is gzipped.

    Raises:
      DataError: while it is open, its content could not be unpacked.
    """
    if path.suffix != GZIP:
        with path.open("rb") as file:
            yield file
        return
    try:
        with gzip.open(path) as packed:
            yield packed
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError.at(path, None, "a whole gzipped file", f"one with: {error}") from error


def _size(path: Path, most: int | None = None) -> int:
    """Returns the size of a file's content; of a gzipped one, nothing is counted that is far beyond `most`."""
    if path.suffix != GZIP:
        return path.stat().st_size
    size = 0
    with _content(path) as file:
        while (chunk := len(file.read(CHUNK))) and (most is None or size <= most):
            size += chunk
    return size


def _idx_header(path: Path, magic: int, dimensions: int) -> tuple[int, ...]:
    with _content(path) as file:
        header = file.read(4 + 4 * dimensions)
    if len(header) < 4 + 4 * dimensions:
        raise DataError.at(path, len(header), f"a header of {4 + 4 * dimensions} bytes", "the end of the file")
    found, *sizes = struct.unpack(f">{1 + dimensions}I", header)
    if found != magic:
        packed = " (a gzipped file, whose name must end in .gz)" if header.startswith(b"\x1f\x8b") else ""
        raise DataError.at(path, 0, f"the IDX magic number {magic:#010x}", f"{found:#010x}{packed}")
    return tuple(sizes)


def _check_size(path: Path, expected: int, reason: str) -> None:
    size = _size(path, expected)
    if size != expected:
        more = "at least " if path.suffix == GZIP and size > expected else ""
        raise DataError.at(path, min(size, expected), f"{expected} bytes, {reason}", f"{more}{size} bytes")


def _check_labels(path: Path, labels: np.ndarray, offset: int, stride: int, dataset: Dataset) -> None:
    wrong = np.flatnonzero(labels >= len(dataset.classes))
    if wrong.size:
        expected = f"a label from 0 to {len(dataset.classes) - 1}"
        raise DataError.at(path, offset + int(wrong[0]) * stride, expected, str(labels[wrong[0]]))


def _read_bytes(path: Path, offset: int, count: int) -> np.ndarray:
    with _content(path) as file:  # of a gzipped file, what is before the offset is unpacked too
        file.seek(offset)
        data = np.frombuffer(file.read(count), np.uint8)
    if data.size < count:
        raise DataError.at(path, offset + data.size, f"{count - data.size} bytes more", "the end of the file")
    return data
