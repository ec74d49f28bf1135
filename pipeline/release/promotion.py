"""Moves the labels of a model's versions: back to an earlier one, on to the canary; and compares the two first."""

import concurrent.futures
import dataclasses
import time
from pathlib import Path

import numpy as np

from pipeline.experiments.config import ConfigError
from pipeline.home.folders import Home
from serving.client import Client, ServingError
from serving.model_store import labels
from serving.model_store.files import versions

CLIENTS = 4


@dataclasses.dataclass(frozen=True)
class Move:
    """A change of the stable version.

    Attributes:
      model: whose.
      before: the version that was stable; None where there was none.
      after: the version that is stable now.
    """

    model: str
    before: int | None
    after: int


@dataclasses.dataclass(frozen=True)
class Side:
    """How one label's version answered.

    Attributes:
      version: its number.
      accuracy: share of right answers, 0 to 1.
      errors: how many requests failed.
      p50: median latency, milliseconds.
      p99: 99th percentile, milliseconds.
    """

    version: int
    accuracy: float
    errors: int
    p50: float
    p99: float


def stable(home: Home, model: str) -> int:
    """Returns the version that serves.

    Raises:
      ConfigError: none was pushed.
    """
    number = labels.read(_base(home, model)).stable
    assert number is not None  # there is a version, so one of them is stable
    return number


def rollback(home: Home, model: str, version: int | None) -> Move:
    """Makes an earlier version stable: the one given, or the one that was stable before, or the next lower one.

    A canary is given up: it was measured against what is taken back.

    Raises:
      ConfigError: there is no such version.
    """
    base = _base(home, model)
    with labels.changing(base):
        known, there = labels.read(base), versions(base)
        lower = [number for number in there if known.stable is None or number < known.stable]
        target = version or known.previous or max(lower, default=None)
        if target not in there:
            asked = f"There is no version {target}" if target else "There is no earlier version"
            raise ConfigError(f"{asked} of {model}; there are {', '.join(map(str, there))}.")
        labels.write(base, labels.Labels(target, None, known.previous if target == known.stable else known.stable))
    return Move(model, known.stable, target)


def promote(home: Home, model: str, checked: int | None = None) -> Move:
    """Makes the canary stable.

    Args:
      home: where the versions are.
      model: the model's name.
      checked: the version that was compared, and that the canary must still be; None for any.

    Raises:
      ConfigError: there is none, or another.
    """
    base = _base(home, model)
    with labels.changing(base):
        known = labels.read(base)
        if known.canary is None:
            raise ConfigError(f"{model} has no canary. Push one with --set serving.canary=true.")
        if checked not in (None, known.canary):
            raise ConfigError(
                f"The canary of {model} is version {known.canary} by now; version {checked} was compared."
            )
        labels.write(base, known.moved(known.canary))
    return Move(model, known.stable, known.canary)


def compare(target: str, model: str, images: np.ndarray, truth: np.ndarray) -> dict[str, Side]:
    """Sends the same images to the stable version and to the canary of a server, one a request, in turn.

    Args:
      target: host:port of gRPC.
      model: the model's name.
      images: uint8 [N, height, width, channels].
      truth: labels, int64 [N].

    Raises:
      ServingError: the server does not answer, or does not know one of the labels.
    """
    sides = {}
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        clients = {label: Client(target, model, label=label) for label in ("stable", "canary")}
        numbers = {label: client.status()[0].version for label, client in clients.items()}
        work = [(label, number) for number in range(len(images)) for label in clients]
        replies = list(pool.map(lambda item: _ask(clients[item[0]], images[item[1]], truth[item[1]]), work))
        for label, client in clients.items():
            own = [reply for (name, _), reply in zip(work, replies, strict=True) if name == label]
            times = 1e3 * np.array([seconds for _, seconds in own])
            right = [correct for correct, _ in own]
            sides[label] = Side(
                numbers[label],
                sum(bool(correct) for correct in right) / len(own),
                right.count(None),
                float(np.percentile(times, 50)),
                float(np.percentile(times, 99)),
            )
            client.close()
    return sides


def _ask(client: Client, image: np.ndarray, truth: int) -> tuple[bool | None, float]:
    """Returns whether the answer is right, None where there was none, and how long it took, seconds."""
    started = time.perf_counter()
    try:
        correct = bool(client.predict(image[np.newaxis]).label[0] == truth)
    except ServingError:
        return None, time.perf_counter() - started
    return correct, time.perf_counter() - started


def _base(home: Home, model: str) -> Path:
    base = home.serving / model
    if not base.is_dir() or not versions(base):
        raise ConfigError(f"No model {model} has been pushed in {home.root}.")
    return base
