"""`conveyor check`: reads every file of an experiment's data, and says of each that cannot be used why."""

import collections
import contextlib
import dataclasses
from pathlib import Path

import numpy as np
import tqdm

from components.image_example_gen import spans
from components.image_example_gen.data_error import DataError
from components.image_example_gen.shards import Piece, Shard, image_digest, plan, reserved_digests
from components.image_example_gen.spans import BASE, Part
from conveyor.errors import StorageError
from conveyor.words import counted
from pipeline.data.inputs import read_input
from pipeline.experiments.config import Experiment

LISTED = 50  # images with two labels that are named, of a part
DIGEST = 8  # bytes of an image's digest: of a hundred million images two others have the same in one of 4,000 cases


@dataclasses.dataclass(frozen=True)
class PartCheck:
    """What a part of the data holds.

    Attributes:
      part: `base`, or the span's name.
      folder: where it is.
      images: how many can be used.
      by_class: how many of each class, in the order of the labels.
      problems: a sentence for each file that cannot be used.
      warnings: a sentence for each image that is there with two labels.
    """

    part: str
    folder: str
    images: int
    by_class: dict[str, int]
    problems: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def check(experiment: Experiment, folder: Path) -> list[PartCheck]:
    """Reads the base files and all spans, whether they are in the window or not.

    Args:
      experiment: format, shape and classes of the images.
      folder: the input folder.

    Raises:
      DataError: the spans have no order.
    """
    dataset = experiment.dataset
    base, *others = spans.parts(folder, dataset, dataclasses.replace(experiment.spans, window=0))
    contradictions = Contradictions()
    checks = [check_part(base, contradictions=contradictions)]
    reserved: frozenset[bytes] = frozenset()
    if others:
        with contextlib.suppress(DataError):  # it is told of already
            reserved = reserved_digests(base)
    return [*checks, *(check_part(part, reserved, contradictions) for part in others)]


def check_part(
    part: Part, reserved: frozenset[bytes] = frozenset(), contradictions: "Contradictions | None" = None
) -> PartCheck:
    """Reads every image of a part.

    Args:
      part: the base files, or a span.
      reserved: digests of images that must not be in it; see `shards.reserved_digests`.
      contradictions: of the parts before, to find images of theirs with another label; None for this part alone.

    Where names, sizes or headers are wrong, no image is read.
    """
    classes = part.dataset.classes
    by_split: collections.defaultdict[str, np.ndarray] = collections.defaultdict(
        lambda: np.zeros(len(classes), np.int64)
    )
    problems: list[str] = []
    contradictions = contradictions or Contradictions()
    try:
        read_input(part)
        shards = plan(part)
    except (DataError, StorageError) as error:
        problems += error.sentences if isinstance(error, DataError) else [str(error)]
        return PartCheck(part.name, str(part.folder), 0, dict.fromkeys(classes, 0), tuple(problems))
    with tqdm.tqdm(total=sum(shard.count for shard in shards), desc=part.name, unit=" images", disable=None) as bar:
        for shard in shards:
            try:
                for piece in shard.read(part.dataset, reserved):
                    by_split[piece.split] += np.bincount(piece.labels, minlength=len(classes))
                    contradictions.look(part, shard, piece)
            except DataError as error:
                problems += error.sentences
            bar.update(shard.count)
    counts = sum(by_split.values(), np.zeros(len(classes), np.int64))
    by_class = {name: int(count) for name, count in zip(classes, counts, strict=True)}
    if not problems:
        problems += _missing_classes(part, by_split) if part.name == BASE else []
        problems += [] if counts.any() else [str(DataError.at(part.folder, None, "at least one image", "none"))]
    return PartCheck(part.name, str(part.folder), int(counts.sum()), by_class, tuple(problems), contradictions.told())


class Contradictions:
    """Finds images that are there twice, with different labels; some hundred bytes are kept of each image."""

    def __init__(self) -> None:
        self._seen: dict[bytes, tuple[int, Part, Shard, int]] = {}
        self._found: list[str] = []
        self._untold = 0

    def look(self, part: Part, shard: Shard, piece: Piece) -> None:
        """Looks at the images of a piece."""
        for image, label, number in zip(piece.images, piece.labels.tolist(), piece.numbers.tolist(), strict=True):
            here = (label, part, shard, number)
            first, its_part, its_shard, its_number = self._seen.setdefault(image_digest(image)[:DIGEST], here)
            if first == label:
                continue
            if len(self._found) == LISTED:
                self._untold += 1
                continue
            classes = part.dataset.classes
            self._found.append(
                f"{shard.source(number, part.folder)} is {classes[label]}, and the same image as "
                f"{its_shard.source(its_number, its_part.folder)}, which is {classes[first]}."
            )

    def told(self) -> tuple[str, ...]:
        """Returns a sentence for each that was found since it was asked last, and how many more there are."""
        more = (f"{counted(self._untold, 'more image')} with two labels.",) if self._untold else ()
        found, self._found, self._untold = tuple(self._found), [], 0
        return found + more


def _missing_classes(part: Part, by_split: collections.defaultdict[str, np.ndarray]) -> list[str]:
    """Returns a sentence for each class of which a split has no image; the split eval need not have all."""
    return [
        f"{part.folder}: expected images of the class {name} in the split {split}, found none."
        for split in ("train", "test")
        for name, count in zip(part.dataset.classes, by_split[split], strict=True)
        if not count
    ]
