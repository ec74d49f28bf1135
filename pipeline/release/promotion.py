"""Compares the stable version and the canary on a running server, before a promotion."""

import concurrent.futures
import dataclasses
import time

import numpy as np

from pipeline.experiments.config import Gate
from serving.client import Client, ServingError
from serving.model_store.labels import CANARY, STABLE

CLIENTS = 4


@dataclasses.dataclass(frozen=True)
class Side:
    """How one label's version answered.

    Attributes:
      version: its number.
      images: how many were sent.
      correct: how many were answered correctly.
      errors: how many requests failed.
      p50: median latency, milliseconds.
      p99: 99th percentile, milliseconds.
    """

    version: int
    images: int
    correct: int
    errors: int
    p50: float
    p99: float

    @property
    def accuracy(self) -> float:
        """The share of correct answers, 0 to 1; a failed request counts as wrong."""
        return self.correct / self.images


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How the stable version and the canary answered the same requests."""

    stable: Side
    canary: Side

    @property
    def sides(self) -> dict[str, Side]:
        """Both, by label."""
        return {STABLE: self.stable, CANARY: self.canary}

    def reasons(self, gate: Gate) -> tuple[str, ...]:
        """Returns why the canary may not be promoted, in sentences; nothing where it may."""
        failed = [
            f"{side.errors:,} of the {label}'s requests failed" for label, side in self.sides.items() if side.errors
        ]
        canary, accuracy = self.canary, f"the canary's accuracy {self.canary.accuracy:.4f} is below"
        if canary.correct < gate.least_correct(canary.images):
            failed.append(f"{accuracy} the floor of {gate.min_accuracy:g}, gate.min_accuracy")
        elif canary.correct < gate.least_correct(canary.images, self.stable.correct):
            failed.append(
                f"{accuracy} the {self.stable.accuracy:.4f} of the stable version by more than the tolerance of "
                f"{gate.tolerance:g}"
            )
        return tuple(failed)


def compare(target: str, model: str, images: np.ndarray, truth: np.ndarray) -> Comparison:
    """Sends the same images to the stable version and to the canary of a server, one a request, in turn.

    Args:
      target: host:port of gRPC.
      model: the model's name.
      images: uint8 [N, height, width, channels].
      truth: labels, int64 [N].

    Raises:
      ServingError: the server does not answer, or does not know one of the labels.
    """
    with (
        concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool,
        Client(target, model, label=STABLE) as stable,
        Client(target, model, label=CANARY) as canary,
    ):
        sides = (stable, canary)
        versions = [client.status()[0].version for client in sides]
        work = [(client, image, label) for image, label in zip(images, truth, strict=True) for client in sides]
        replies = list(pool.map(lambda arguments: _ask(*arguments), work))
        return Comparison(*(_side(version, replies[i::2]) for i, version in enumerate(versions)))


def _side(version: int, replies: list[tuple[bool | None, float]]) -> Side:
    milliseconds = 1e3 * np.array([seconds for _, seconds in replies])
    correct = [answer for answer, _ in replies]
    return Side(
        version,
        len(correct),
        correct.count(True),
        correct.count(None),
        float(np.percentile(milliseconds, 50)),
        float(np.percentile(milliseconds, 99)),
    )


def _ask(client: Client, image: np.ndarray, truth: int) -> tuple[bool | None, float]:
    """Returns whether the answer is correct, None where there was none, and how long it took, seconds."""
    started = time.perf_counter()
    try:
        correct = bool(client.predict(image[np.newaxis]).label[0] == truth)
    except ServingError:
        return None, time.perf_counter() - started
    return correct, time.perf_counter() - started
