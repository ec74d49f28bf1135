"""Runs checked requests on TensorFlow's threads while the event loop goes on, and joins those that wait to batches.

Requests that ask the same signature with rows of the same shape wait in one queue. A batch of them is run as soon as
one of `num_batch_threads` is free and the batch is full or has waited long enough; what arrives meanwhile fills up the
next.

Source: https://github.com/tensorflow/serving/blob/master/tensorflow_serving/batching/README.md (the parameters)
"""

import asyncio
import collections
import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from serving.server.models.batching import BatchingParameters
from serving.server.models.bundle import Bundle
from serving.server.models.manager import Manager
from serving.server.models.versions import Version
from serving.server.protocol.errors import StatusError, invalid_argument
from serving.server.protocol.requests import PreparedRequest

MOST_QUEUES = 100  # that are kept for what they know of their clients
QUIET = 0.001  # seconds without a request, after which no more is expected
log = logging.getLogger(__name__)

Key = tuple[Version, str, tuple[tuple[Any, ...], ...]]  # the signature, and type and shape of each input's rows


@dataclasses.dataclass
class _Waiting:
    """A request, or a part of one that is split."""

    version: Version
    request: PreparedRequest
    rows: int
    size: int  # bytes of its inputs
    answer: asyncio.Future
    since: float


class _Queue:
    """Requests that may be run together. Belongs to the event loop's thread."""

    def __init__(self, parameters: BatchingParameters) -> None:
        self.parameters = parameters
        self.rows = 0
        self.running = 0
        self.look: asyncio.Handle | None = None  # when it is looked at next
        self._expected = 1
        self._seconds = 0.0
        self._waiting: collections.deque[_Waiting] = collections.deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, waiting: _Waiting) -> None:
        """Lets a request wait.

        Raises:
          StatusError: UNAVAILABLE, where as many batches wait as may.
        """
        most = self.parameters.max_enqueued_batches
        if self.rows and self.rows + waiting.rows > most * self.parameters.largest:
            enqueued = -(-self.rows // self.parameters.largest)
            raise StatusError(
                "UNAVAILABLE",
                "The batch scheduling queue to which this task was submitted is full; currently "
                f"{enqueued} batches enqueued and max_enqueued_batches is {most}",
            )
        self._waiting.append(waiting)
        self.rows += waiting.rows

    def is_complete(self) -> bool:
        """Whether there is nothing to wait for."""
        if self.parameters.batch_timeout_micros:
            return self.rows >= self.parameters.largest
        return self.rows >= self._expected

    def seconds_to_wait(self, now: float, active: float) -> float:
        """Returns how long the first request waits on for others; 0 or less where a batch is to be run.

        Clients that were answered a moment ago often ask again at once. Run in two halves, they would cost the model
        twice; so without a time to wait for, a batch is begun when as many rows are there as were in the server when
        the last one ended, when no more of them come, or after as long as that one took.
        """
        if self.is_complete():
            return 0
        if self.parameters.batch_timeout_micros:
            return self._waiting[0].since + self.parameters.batch_timeout_micros / 1e6 - now
        return min(active + QUIET, self._waiting[0].since + self._seconds) - now

    def take(self) -> list[_Waiting]:
        """Returns the next batch: as many requests as fit, and one that is too large by itself."""
        batch = [self._waiting.popleft()]
        rows = batch[0].rows
        while self._waiting and rows + self._waiting[0].rows <= self.parameters.largest:
            batch.append(self._waiting.popleft())
            rows += batch[-1].rows
        self.rows -= rows
        self.running += 1
        return batch

    def finished(self, rows: int, seconds: float) -> None:
        """Counts a batch as done, after so many seconds."""
        self.running -= 1
        self._expected = min(self.rows + rows, self.parameters.largest)
        self._seconds = seconds


class BatchDispatcher:
    """Runs checked requests; belongs to one event loop."""

    def __init__(
        self,
        manager: Manager,
        *,
        threads: int,
        limit: int,
        most_bytes: int = 2**30,
        observe: Callable[[str, str, float], None] = lambda _model, _api, _seconds: None,
    ) -> None:
        """Makes a dispatcher.

        Args:
          manager: keeps versions loaded while they run.
          threads: how many calls may be in TensorFlow at once.
          limit: how many requests may run and wait; the next is answered with RESOURCE_EXHAUSTED.
          most_bytes: that their inputs may take in all, where there is more than one.
          observe: called with the model, the API and the seconds of each run.
        """
        self._manager, self._limit, self._most_bytes, self._observe = manager, limit, most_bytes, observe
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="session")
        self._queues: dict[Key, _Queue] = {}
        self._busy = 0
        self._held = 0
        self._active = 0.0

    def require_room(self) -> None:
        """Refuses one more request.

        Raises:
          StatusError: RESOURCE_EXHAUSTED, where as many are running and waiting as may be.
        """
        if self._busy >= self._limit:
            raise StatusError("RESOURCE_EXHAUSTED", f"{self._busy} requests are running or waiting; try again later.")

    async def run(self, version: Version, request: PreparedRequest) -> list[np.ndarray]:
        """Runs a request and returns its outputs.

        Args:
          version: a version in use; it is kept loaded until TensorFlow is done, also where the request is cancelled.
          request: what to run.

        Raises:
          StatusError: RESOURCE_EXHAUSTED or UNAVAILABLE, or what the model says.
        """
        self.require_room()
        size = sum([value.nbytes for value in request.inputs])
        if self._held and self._held + size > self._most_bytes:
            raise StatusError("RESOURCE_EXHAUSTED", "The requests that are waiting take all memory; try again later.")
        parameters = version.loaded.batching_of(request.signature)
        if parameters is None:
            waiting = self._hold(version, request, 0)
            self._submit(None, [waiting])
            return await waiting.answer
        rows = _rows(request)
        if rows <= parameters.largest or not parameters.enable_large_batch_splitting:
            outputs = await self._wait(version, request, rows).answer
            self._active = time.monotonic()
            return outputs
        return await self._run_in_parts(version, request, rows, parameters.largest)

    def close(self) -> None:
        """Waits for what runs."""
        self._threads.shutdown(wait=True)

    async def _run_in_parts(
        self, version: Version, request: PreparedRequest, rows: int, largest: int
    ) -> list[np.ndarray]:
        answers: list[asyncio.Future] = []
        try:
            for start in range(0, rows, largest):
                values = [value[start : start + largest] for value in request.inputs]
                part = dataclasses.replace(request, inputs=values)
                answers.append(self._wait(version, part, len(values[0])).answer)
            outputs = await asyncio.gather(*answers)
        except StatusError:
            for answer in answers:
                answer.cancel()
            raise
        return [np.concatenate(values) for values in zip(*outputs, strict=True)]

    def _hold(self, version: Version, request: PreparedRequest, rows: int) -> _Waiting:
        """Counts a request in, until `_let_go`."""
        size = sum([value.nbytes for value in request.inputs])
        loop = asyncio.get_running_loop()
        self._busy += 1
        self._held += size
        self._manager.acquire(version)
        return _Waiting(version, request, rows, size, loop.create_future(), time.monotonic())

    def _let_go(self, waiting: _Waiting) -> None:
        self._busy -= 1
        self._held -= waiting.size
        self._manager.release(waiting.version)

    def _wait(self, version: Version, request: PreparedRequest, rows: int) -> _Waiting:
        """Lets a request wait for its batch."""
        key = (version, request.signature, tuple([(value.dtype, *value.shape[1:]) for value in request.inputs]))
        queue = self._queues.get(key)
        if queue is None:
            parameters = version.loaded.batching_of(request.signature)
            assert parameters
            if len(self._queues) >= MOST_QUEUES:  # anybody may ask with any shape
                self._queues = {key: queue for key, queue in self._queues.items() if queue or queue.running}
            queue = self._queues[key] = _Queue(parameters)
        waiting = self._hold(version, request, rows)
        self._active = waiting.since
        try:
            queue.add(waiting)
        except StatusError:
            self._let_go(waiting)
            raise
        if queue.look is None or queue.is_complete():  # what arrives in the same turn of the event loop goes with it
            self._look_again(key, queue, 0)
        return waiting

    def _look_again(self, key: Key, queue: _Queue, seconds: float) -> None:
        """Looks at a queue soon, or later if nothing fills it up before."""
        if queue.look:
            queue.look.cancel()
        loop = asyncio.get_running_loop()
        queue.look = loop.call_later(seconds, self._look, key) if seconds > 0 else loop.call_soon(self._look, key)

    def _look(self, key: Key) -> None:
        """Runs what a queue has to run, and comes back when the rest has waited long enough."""
        queue = self._queues[key]
        if queue.look:
            queue.look.cancel()
            queue.look = None
        while queue and queue.running < queue.parameters.num_batch_threads:
            seconds = queue.seconds_to_wait(time.monotonic(), self._active)
            if seconds > 0:
                self._look_again(key, queue, seconds)
                return
            self._submit(key, queue.take())

    def _submit(self, key: Key | None, batch: list[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        bundle = batch[0].version.loaded

        def work() -> None:
            started = time.perf_counter()
            requests = [waiting.request for waiting in batch]
            joined = _answers_together(bundle, requests) if key else None
            answers = [_answer(bundle, request) for request in requests] if joined is None else joined
            seconds = time.perf_counter() - started
            loop.call_soon_threadsafe(self._deliver, key, batch, answers, seconds)

        try:
            self._threads.submit(work)
        except RuntimeError:  # of a request that was cancelled when the server stopped
            stopping: list[Any] = [StatusError("UNAVAILABLE", "The server is stopping.")] * len(batch)
            loop.call_soon(self._deliver, key, batch, stopping, 0.0)

    def _deliver(self, key: Key | None, batch: list[_Waiting], answers: list[Any], seconds: float) -> None:
        if key is not None:
            queue = self._queues[key]
            self._active = time.monotonic()
            queue.finished(sum([waiting.rows for waiting in batch]), seconds)
            self._look(key)
        for waiting, answer in zip(batch, answers, strict=True):
            self._let_go(waiting)
            self._observe(waiting.version.model, waiting.request.api, seconds)
            if waiting.answer.done():  # the client has gone
                continue
            if isinstance(answer, Exception):
                waiting.answer.set_exception(answer)
            else:
                waiting.answer.set_result(answer)


def _rows(request: PreparedRequest) -> int:
    """Returns how many rows each input of a request has.

    Raises:
      StatusError: INVALID_ARGUMENT, where they have not as many, or an input has none.
    """
    if not all(value.ndim for value in request.inputs):
        raise invalid_argument("Batching Run() input tensors must have at least one dimension")
    rows = len(request.inputs[0])
    if any(len(value) != rows for value in request.inputs):
        raise invalid_argument("Batching Run() input tensors must have equal 0th-dimension size")
    return rows


def _answers_together(bundle: Bundle, requests: Sequence[PreparedRequest]) -> list[Any] | None:
    """Returns the outputs of each of a batch's requests; None where there is nothing to join, or they fail together."""
    assert bundle.batching
    sizes = [len(request.inputs[0]) for request in requests]
    padding = bundle.batching.padded(sum(sizes)) - sum(sizes)
    if len(requests) == 1 and not padding:
        return None
    signature = requests[0].signature
    try:
        joined = [
            np.concatenate([*values, *[values[0][:1]] * padding])
            for values in zip(*(request.inputs for request in requests), strict=True)
        ]
        outputs = bundle.run(signature, joined)
        if all(len(value) == len(joined[0]) for value in outputs):
            return _split(outputs, sizes, requests, bundle.plans[signature].outputs)
    except Exception:  # a batch fails as a whole: each is tried by itself, and says why
        log.debug("a batch of %d requests failed", len(requests), exc_info=True)
    return None


def _answer(bundle: Bundle, request: PreparedRequest) -> Any:
    try:
        return request.run(bundle)
    except Exception as error:
        return error if isinstance(error, StatusError) else StatusError("INTERNAL", f"{type(error).__name__}: {error}")


def _split(
    outputs: list[np.ndarray], sizes: list[int], requests: Sequence[PreparedRequest], names: Sequence[str]
) -> list[Any]:
    """Returns each request's rows of the outputs that it asks for."""
    answers, start = [], 0
    for request, size in zip(requests, sizes, strict=True):
        rows = slice(start, start + size)
        answers.append([value[rows] for name, value in zip(names, outputs, strict=True) if name in request.outputs])
        start += size
    return answers
