"""How requests are joined to batches: the parameters of TensorFlow Serving's BatchingSession, and a queue by them.

Source: https://github.com/tensorflow/serving/blob/master/tensorflow_serving/batching/README.md
"""

import asyncio
import collections
import dataclasses
import os
from pathlib import Path

from serving.server.protocol import config_files
from serving.server.protocol.errors import StatusError, invalid_argument
from serving.server.protocol.requests import PreparedRequest

QUIET = 0.001  # seconds without a request or an answer, after which no more is expected
PATIENCE = 0.01  # seconds that a request waits for others at most, where no time is set


@dataclasses.dataclass(frozen=True)
class BatchingParameters:
    """The real server's batching parameters, with its defaults.

    Attributes:
      max_batch_size: the most rows in a batch.
      batch_timeout_micros: how long a batch waits to fill, microseconds.
      max_enqueued_batches: how many full batches may wait; a request beyond them is answered with UNAVAILABLE.
      num_batch_threads: how many batches of a signature run at once.
      allowed_batch_sizes: sizes that batches are padded to; the last must be `largest`. Empty for no padding.
      enable_large_batch_splitting: whether a request of more rows than a batch may have is split, or runs by itself.
      max_execution_batch_size: the most rows that are run at once, where requests are split; 0 for `max_batch_size`.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = len(os.sched_getaffinity(0))
    allowed_batch_sizes: tuple[int, ...] = ()
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int = 0

    @property
    def largest(self) -> int:
        """The most rows that are run at once."""
        return (self.enable_large_batch_splitting and self.max_execution_batch_size) or self.max_batch_size

    def padded(self, rows: int) -> int:
        """Returns how many rows a batch is padded to."""
        return next((size for size in self.allowed_batch_sizes if size >= rows), rows)

    @classmethod
    def read(cls, path: Path) -> "BatchingParameters":
        """Reads a BatchingParameters text proto.

        Raises:
          StatusError: INVALID_ARGUMENT, where the file is not one, or its values contradict each other.
        """
        message = config_files.read(path, "BatchingParameters")
        given = {
            field.name: getattr(message, field.name).value
            for field in message.DESCRIPTOR.fields
            if field.message_type and message.HasField(field.name) and field.name in cls.__dataclass_fields__
        }
        parameters = cls(allowed_batch_sizes=tuple(message.allowed_batch_sizes), **given)
        positive = ("max_batch_size", "num_batch_threads", "max_enqueued_batches", "max_execution_batch_size")
        for name in positive:
            if given.get(name, 1) < 1:
                raise invalid_argument(f"{path}: {name} must be at least 1; it is {given[name]}.")
        sizes, largest = parameters.allowed_batch_sizes, parameters.largest
        if largest > parameters.max_batch_size:
            raise invalid_argument(f"{path}: max_execution_batch_size {largest} is above max_batch_size.")
        if sizes and (list(sizes) != sorted(set(sizes)) or sizes[-1] != largest):
            name = "max_batch_size" if largest == parameters.max_batch_size else "max_execution_batch_size"
            raise invalid_argument(
                f"{path}: allowed_batch_sizes must rise and end with {name}, {largest}; they are {list(sizes)}."
            )
        return parameters


@dataclasses.dataclass
class Waiting:
    """A request, or a part of one that is split."""

    request: PreparedRequest
    rows: int
    size: int  # bytes of its inputs
    answer: asyncio.Future
    since: float


class Queue:
    """Requests that may be run together. Belongs to the event loop's thread."""

    def __init__(self, parameters: BatchingParameters) -> None:
        self.parameters = parameters
        self.rows = 0  # that wait
        self.running = 0  # batches
        self.joins = True  # whether more than one request is run at once
        self.timer: asyncio.Handle | None = None  # of when it is looked at next
        self.last_seen = 0.0  # when a request came or was answered
        self._free_since = 0.0
        self._expected_rows = 1
        self._waiting: collections.deque[Waiting] = collections.deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def require_room(self, rows: int) -> None:
        """Refuses a request of so many rows.

        Raises:
          StatusError: UNAVAILABLE, where as many batches wait as may, and no thread is free.
        """
        most, largest = self.parameters.max_enqueued_batches, self.parameters.largest
        free = most + max(0, self.parameters.num_batch_threads - self.running)
        if self.rows and self.rows + rows > free * largest:
            raise StatusError(
                "UNAVAILABLE",
                "The batch scheduling queue to which this task was submitted is full; currently "
                f"{-(-self.rows // largest)} batches enqueued and max_enqueued_batches is {most}",
            )

    def add(self, waiting: Waiting) -> None:
        """Lets a request wait."""
        self._waiting.append(waiting)
        self.rows += waiting.rows
        self.last_seen = waiting.since

    def without_cancelled(self) -> list[Waiting]:
        """Takes the requests out whose clients have gone, and returns them."""
        gone = [waiting for waiting in self._waiting if waiting.answer.done()]
        if gone:
            self._waiting = collections.deque(waiting for waiting in self._waiting if not waiting.answer.done())
            self.rows = sum([waiting.rows for waiting in self._waiting])
        return gone

    def is_complete(self) -> bool:
        """Whether there is nothing to wait for."""
        if not self.joins:
            return True
        return self.rows >= (self.parameters.largest if self.parameters.batch_timeout_micros else self._expected_rows)

    def seconds_to_wait(self, now: float) -> float:
        """Returns how long the first request waits on for others; 0 or less where a batch is to be run.

        Clients that were answered a moment ago often ask again at once. Run in two halves, they would cost the model
        twice; so without a time to wait for, a batch is begun when as many rows are there as were in the server when
        the last one ended, when no more of them come, or when its patience ends.
        """
        if self.is_complete():
            return 0
        first = self._waiting[0].since
        if self.parameters.batch_timeout_micros:
            return first + self.parameters.batch_timeout_micros / 1e6 - now
        return min(self.last_seen + QUIET, max(first, self._free_since) + PATIENCE) - now

    def take(self) -> list[Waiting]:
        """Returns the next batch: as many requests as fit, and one that is too large by itself."""
        batch = [self._waiting.popleft()]
        rows = batch[0].rows
        while self.joins and self._waiting and rows + self._waiting[0].rows <= self.parameters.largest:
            batch.append(self._waiting.popleft())
            rows += batch[-1].rows
        self.rows -= rows
        self.running += 1
        return batch

    def finished(self, rows: int, now: float) -> None:
        """Counts a batch of so many rows as done."""
        self.running -= 1
        self._expected_rows = min(self.rows + rows, self.parameters.largest)
        self._free_since = self.last_seen = now  # its clients are answered now
