"""Measures a model on test images that are changed: moved, turned, noisy, blurred, paler, mirrored.

Source: the idea is that of Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations, https://arxiv.org/abs/1903.12261; the levels are ours.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import scipy.ndimage
from tqdm import tqdm

from conveyor.errors import storage_errors
from conveyor.files import replace_file
from pipeline.home.folders import Home
from pipeline.report import page, plots

Predict = Callable[[np.ndarray], np.ndarray]
CHUNK_BYTES = 2**26  # of images that are changed and asked for at once
SEED = 2019


@dataclasses.dataclass(frozen=True)
class Corruption:
    """A way to change images.

    Attributes:
      name: such as `rotation`.
      unit: of its levels.
      levels: how strong it is, weakest first.
      change: returns changed images, float32, of float32 [N, height, width, channels] in 0 to 255, a level, and a
        generator of random numbers.
    """

    name: str
    unit: str
    levels: tuple[float, ...]
    change: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def _pixels(images: np.ndarray, percent: float) -> float:
    """Returns a share of an image's shorter side."""
    return percent / 100 * min(images.shape[1:3])


def _shifted(images: np.ndarray, percent: float, random: np.random.Generator) -> np.ndarray:
    distance = max(1, round(_pixels(images, percent)))
    ways = ((distance, 0), (-distance, 0), (0, distance), (0, -distance))
    padded = np.pad(images, ((0, 0), (distance, distance), (distance, distance), (0, 0)), mode="edge")
    height, width = images.shape[1:3]
    chosen = random.integers(len(ways), size=len(images))
    moved = np.empty_like(images)
    for number, (down, right) in enumerate(ways):
        mine = chosen == number
        top, left = distance - down, distance - right
        moved[mine] = padded[mine, top : top + height, left : left + width]
    return moved


def _rotated(images: np.ndarray, degrees: float, random: np.random.Generator) -> np.ndarray:
    turned = np.empty_like(images)
    clockwise = random.integers(2, size=len(images)).astype(bool)
    for mine, angle in ((clockwise, -degrees), (~clockwise, degrees)):
        turned[mine] = scipy.ndimage.rotate(
            images[mine], angle, axes=(2, 1), reshape=False, order=1, mode="nearest", output=np.float32
        )
    return turned


def _noisy(images: np.ndarray, percent: float, random: np.random.Generator) -> np.ndarray:
    return images + random.normal(0, 2.55 * percent, images.shape).astype(np.float32)


def _blurred(images: np.ndarray, percent: float, _: np.random.Generator) -> np.ndarray:
    deviation = _pixels(images, percent)
    return scipy.ndimage.gaussian_filter(images, (0, deviation, deviation, 0), mode="nearest", output=np.float32)


def _paler(images: np.ndarray, percent: float, _: np.random.Generator) -> np.ndarray:
    means = images.mean(axis=(1, 2, 3), keepdims=True)
    return means + percent / 100 * (images - means)


CORRUPTIONS = (
    Corruption("shift", "% of the side", (4, 8, 16), _shifted),
    Corruption("rotation", "degrees", (5, 10, 20, 30), _rotated),
    Corruption("noise", "% of white (sd)", (5, 10, 20), _noisy),
    Corruption("blur", "% of the side (sd)", (2, 4, 8), _blurred),
    Corruption("contrast", "% of its own", (75, 50, 25), _paler),
)
NONE, MIRRORED, AVERAGED = "none", "mirrored", "averaged with its mirror image"


@dataclasses.dataclass(frozen=True)
class Row:
    """An accuracy on changed images.

    Attributes:
      change: what was done to them; `none` for nothing.
      level: how strongly; None where there is only one way.
      unit: of the level.
      accuracy: 0 to 1.
    """

    change: str
    level: float | None
    unit: str
    accuracy: float


def generator(corruption: Corruption, level: float) -> np.random.Generator:
    """Returns the generator of what is random in a change: the same each time."""
    return np.random.default_rng((SEED, CORRUPTIONS.index(corruption), round(10 * level)))


def changed(
    images: np.ndarray, corruption: Corruption, level: float, random: np.random.Generator | None = None
) -> np.ndarray:
    """Returns changed images, uint8 [N, height, width, channels].

    Args:
      images: uint8 [N, height, width, channels].
      corruption: what is done to them.
      level: how strongly.
      random: where what is random comes from; None for a fresh `generator`.
    """
    result = corruption.change(images.astype(np.float32), level, random or generator(corruption, level))
    return np.clip(np.round(result), 0, 255).astype(np.uint8)


def measure(predict: Predict, images: np.ndarray, labels: np.ndarray) -> list[Row]:
    """Returns the accuracy on images as they are, and on changed ones.

    Args:
      predict: returns probabilities, float32 [N, classes], of images, uint8 [N, height, width, channels].
      images: uint8 [N, height, width, channels].
      labels: int64 [N].
    """
    chunk = max(1, CHUNK_BYTES // (4 * math.prod(images.shape[1:])))
    starts = range(0, len(images), chunk)

    def scores(change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        return np.concatenate([predict(change(images[start : start + chunk])) for start in starts])

    def accuracy(of: np.ndarray) -> float:
        return float(np.mean(of.argmax(axis=1) == labels))

    plain, mirrored = scores(lambda some: some), scores(lambda some: some[:, :, ::-1])
    rows = [
        Row(NONE, None, "", accuracy(plain)),
        Row(MIRRORED, None, "", accuracy(mirrored)),
        Row(AVERAGED, None, "", accuracy(plain + mirrored)),
    ]
    todo = [(corruption, level) for corruption in CORRUPTIONS for level in corruption.levels]
    for corruption, level in tqdm(todo, desc="robustness", leave=False, disable=None):
        change = functools.partial(changed, corruption=corruption, level=level, random=generator(corruption, level))
        rows.append(Row(corruption.name, level, corruption.unit, accuracy(scores(change))))
    return rows


def write(home: Home, title: str, name: str, rows: Sequence[Row], images: np.ndarray) -> Path:
    """Writes `reports/<name>-robustness.html` with a table, a plot and examples, and returns its path.

    Raises:
      StorageError: it cannot be written.
    """
    path = home.reports / f"{name}-robustness.html"
    example = images[:1]
    plain = {"as it is": example[0], MIRRORED: example[0, :, ::-1]}
    pictures = [{"picture": plots.picture(image), "text": text} for text, image in plain.items()]
    pictures += [
        {"picture": plots.picture(changed(example, corruption, level)[0]), "text": f"{corruption.name} {level:g}"}
        for corruption in CORRUPTIONS
        for level in corruption.levels
    ]
    shown = page.render(
        "robustness.html.j2",
        title=title,
        rows=rows,
        examples=len(images),
        plot=plots.robustness(rows),
        pictures=pictures,
    )
    with storage_errors(f"The report {path} cannot be written"):
        home.reports.mkdir(parents=True, exist_ok=True)
        replace_file(path, shown)
    return path
