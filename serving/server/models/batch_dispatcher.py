"""Runs checked requests on TensorFlow's threads while the event loop goes on, and joins those that wait to batches.

Requests that ask the same signature with rows of the same shape wait in one queue. A batch of them is run as soon as
one of `num_batch_threads` is free and the batch is full or has waited long enough; what arrives meanwhile fills up the
next.

Source: https://github.com/tensorflow/serving/blob/master/tensorflow_serving/batching/README.md (the parameters)
"""

import asyncio
import collections
import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from serving.server.models.batching import BatchingParameters, Queue, Waiting
from serving.server.models.bundle import Bundle
from serving.server.models.replica import LoadedVersion, Replica
from serving.server.protocol.errors import StatusError, invalid_argument
from serving.server.protocol.requests import PreparedRequest
from serving.server.protocol.tensors import size_of

MOST_QUEUES = 100  # that are kept for what they know of their clients
TICK = 0.001  # seconds: event loops round what is less to nothing, and would be asked over and over
log = logging.getLogger(__name__)

Key = tuple[LoadedVersion, str, tuple[tuple[Any, ...], ...]]  # the signature, and type and shape of each input's rows


class _NotRowsError(Exception):
    """An output whose first dimension is not one of rows."""


@dataclasses.dataclass(frozen=True)
class _Ran:
    """What came of a batch.

    Attributes:
      answers: each request's outputs, or its exception.
      seconds: how long the model took, all requests together.
      joins: whether requests of this kind can be run together at all.
    """

    answers: list[Any]
    seconds: float
    joins: bool = True


class BatchDispatcher:
    """Runs checked requests; belongs to one event loop."""

    def __init__(
        self,
        replica: Replica,
        *,
        threads: int,
        limit: int,
        most_bytes: int = 2**30,
        observe: Callable[[str, str, float], None] = lambda _model, _api, _seconds: None,
    ) -> None:
        """Makes a dispatcher.

        Args:
          replica: keeps versions loaded while they run.
          threads: how many calls may be in TensorFlow at once.
          limit: how many requests may run and wait; the next is answered with RESOURCE_EXHAUSTED.
          most_bytes: that their inputs may take in all, where there is more than one.
          observe: called with the model, the API and the seconds of each run.
        """
        self._replica, self._limit, self._most_bytes, self._observe = replica, limit, most_bytes, observe
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="session")
        self._threads.submit(int).result()  # one is there, whatever becomes of the others
        self._queues: dict[Key, Queue] = {}
        self._requests = 0
        self._input_bytes = 0
        self._closed = False

    def require_room(self) -> None:
        """Refuses one more request.

        Raises:
          StatusError: RESOURCE_EXHAUSTED, where as many are running and waiting as may be.
        """
        if self._requests >= self._limit:
            raise StatusError(
                "RESOURCE_EXHAUSTED", f"{self._requests} requests are running or waiting; try again later."
            )

    async def run(self, version: LoadedVersion, request: PreparedRequest, size: int = 0) -> list[np.ndarray]:
        """Runs a request and returns its outputs.

        Args:
          version: a version in use; it is kept loaded until TensorFlow is done, also where the request is cancelled.
          request: what to run.
          size: the bytes of the message that it came in.

        Raises:
          StatusError: RESOURCE_EXHAUSTED or UNAVAILABLE, or what the model says.
        """
        self.require_room()
        size = max(size, sum(map(size_of, request.inputs)))
        if self._input_bytes and self._input_bytes + size > self._most_bytes:
            raise StatusError("RESOURCE_EXHAUSTED", "The requests that are waiting take all memory; try again later.")
        parameters = version.loaded.batching_of(request.signature)
        if parameters is None:
            waiting = self._hold(version, request, 0, size)
            self._submit((version, request.signature, ()), [waiting])
            return await waiting.answer
        rows = _rows(request)
        key = (version, request.signature, tuple([(value.dtype, *value.shape[1:]) for value in request.inputs]))
        queue = self._queue(key, parameters)
        is_split = rows > parameters.largest and parameters.enable_large_batch_splitting and queue.joins
        queue.require_room(parameters.largest if is_split else rows)
        try:
            if is_split:
                outputs = await self._run_in_parts(key, parameters, request, size)
                if outputs is None:
                    queue = self._queue(key, parameters)
                    queue.joins = False
                    log.warning("%s: requests to %s are not split any more", version.path, request.signature)
                    outputs = await self._wait(key, queue, self._hold(version, request, rows, size))
            else:
                outputs = await self._wait(key, queue, self._hold(version, request, rows, size))
            queue.last_seen = time.monotonic()  # those of a batch are answered one after the other
            return outputs
        except (asyncio.CancelledError, StatusError):
            self._schedule(key, self._queue(key, parameters), 0)  # what waits for nobody now is let go
            raise

    async def close(self) -> None:
        """Refuses what waits, and waits for what runs."""
        self._closed = True
        for key in list(self._queues):
            self._run_due(key)
        await asyncio.to_thread(self._threads.shutdown)

    async def _run_in_parts(
        self, key: Key, parameters: BatchingParameters, request: PreparedRequest, size: int
    ) -> list[np.ndarray] | None:
        """Runs a few parts at a time, so that what others ask runs between them.

        Returns:
          The outputs; None where one has other rows than the inputs, so that it cannot be put together.
        """
        largest, ahead = parameters.largest, parameters.num_batch_threads + 1
        running: collections.deque[asyncio.Future] = collections.deque()
        outputs: list[list[np.ndarray]] = []
        self._input_bytes += size
        try:
            for start in range(0, len(request.inputs[0]), largest):
                if len(running) == ahead:
                    outputs.append(await running.popleft())
                values = [value[start : start + largest] for value in request.inputs]
                part = dataclasses.replace(request, inputs=values)
                queue = self._queue(key, parameters)  # which may be another than that of the part before
                running.append(self._wait(key, queue, self._hold(key[0], part, len(values[0]), 0)))
            while running:
                outputs.append(await running.popleft())
        finally:
            self._input_bytes -= size
            for answer in running:
                if not answer.cancel():
                    answer.exception()  # one that failed too
        sizes = [min(largest, len(request.inputs[0]) - largest * number) for number in range(len(outputs))]
        of_each = zip(outputs, sizes, strict=True)
        if any(not value.ndim or len(value) != rows for values, rows in of_each for value in values):
            return None
        return [np.concatenate(values) for values in zip(*outputs, strict=True)]

    def _hold(self, version: LoadedVersion, request: PreparedRequest, rows: int, size: int) -> Waiting:
        """Counts a request in, until `_let_go`."""
        self._requests += 1
        self._input_bytes += size
        self._replica.acquire(version)
        return Waiting(request, rows, size, asyncio.get_running_loop().create_future(), time.monotonic())

    def _let_go(self, version: LoadedVersion, waiting: Waiting) -> None:
        self._requests -= 1
        self._input_bytes -= waiting.size
        self._replica.release(version)

    def _queue(self, key: Key, parameters: BatchingParameters) -> Queue:
        queue = self._queues.get(key)
        if queue is None:
            keep_idle = len(self._queues) < MOST_QUEUES  # anybody may ask with any shape
            self._queues = {
                other: kept
                for other, kept in self._queues.items()
                if kept or kept.running or (keep_idle and other[0].bundle)
            }
            queue = self._queues[key] = Queue(parameters)
        return queue

    def _wait(self, key: Key, queue: Queue, waiting: Waiting) -> asyncio.Future:
        """Lets a request wait for its batch."""
        queue.add(waiting)
        is_free = queue.running < queue.parameters.num_batch_threads
        if is_free and (queue.timer is None or queue.is_complete()):
            self._schedule(key, queue, 0)  # what arrives in the same turn of the event loop goes with it
        return waiting.answer

    def _schedule(self, key: Key, queue: Queue, seconds: float) -> None:
        """Looks at a queue soon, or later if nothing completes its batch before."""
        if queue.timer:
            queue.timer.cancel()
        loop = asyncio.get_running_loop()
        if seconds > 0:
            queue.timer = loop.call_later(max(seconds, TICK), self._run_due, key)
        else:
            queue.timer = loop.call_soon(self._run_due, key)

    def _run_due(self, key: Key) -> None:
        """Runs the batches of a queue that are due, and comes back when the rest has waited long enough."""
        queue = self._queues.get(key)
        if queue is None:
            return
        if queue.timer:
            queue.timer.cancel()
            queue.timer = None
        for waiting in queue.without_cancelled():
            self._let_go(key[0], waiting)
        while queue and (self._closed or queue.running < queue.parameters.num_batch_threads):
            seconds = queue.seconds_to_wait(time.monotonic())
            if not self._closed and seconds > 0:
                self._schedule(key, queue, seconds)
                return
            self._submit(key, queue.take())

    def _submit(self, key: Key, batch: list[Waiting]) -> None:
        if self._closed:
            for waiting in batch:
                self._let_go(key[0], waiting)
                _settle(waiting.answer, StatusError("UNAVAILABLE", "The server is stopping."))
            return
        loop = asyncio.get_running_loop()
        bundle, requests = key[0].loaded, [waiting.request for waiting in batch]
        joined = key in self._queues

        def work() -> None:
            ran = _run(bundle, requests, joined)
            loop.call_soon_threadsafe(self._deliver, key, batch, ran)

        with contextlib.suppress(RuntimeError):  # no thread more can be started: one of those that there are takes it
            self._threads.submit(work)

    def _deliver(self, key: Key, batch: list[Waiting], ran: _Ran) -> None:
        queue = self._queues.get(key)
        if queue is not None:  # one may be empty
            queue.joins = queue.joins and ran.joins
            queue.finished(sum([waiting.rows for waiting in batch]), time.monotonic())
            self._run_due(key)
        for waiting, answer in zip(batch, ran.answers, strict=True):
            self._let_go(key[0], waiting)
            self._observe(key[0].model, waiting.request.api, ran.seconds)
            _settle(waiting.answer, answer)


def _settle(future: asyncio.Future, answer: Any) -> None:
    if future.done():  # the client has gone
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)


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


def _run(bundle: Bundle, requests: Sequence[PreparedRequest], joined: bool) -> _Ran:
    """Runs requests of the same signature and shapes, together where they are joined or padded."""
    started, joins, seconds = time.perf_counter(), True, 0.0
    padding = _padding(bundle, requests) if joined else 0
    if joined and (len(requests) > 1 or padding):
        try:
            answers = _run_together(bundle, requests, padding)
            return _Ran(answers, time.perf_counter() - started)
        except _NotRowsError as error:
            joins = False
            log.warning("%s: requests to %s are not joined any more: %s", bundle.path, requests[0].signature, error)
        except Exception:  # a batch fails as a whole: each is tried by itself, and says why
            log.debug("a batch of %d requests failed", len(requests), exc_info=True)
        seconds = time.perf_counter() - started
    answers = [_answer(bundle, request) for request in requests]
    return _Ran(answers, seconds or time.perf_counter() - started, joins)


def _padding(bundle: Bundle, requests: Sequence[PreparedRequest]) -> int:
    rows = sum([len(request.inputs[0]) for request in requests])
    return bundle.batching.padded(rows) - rows if bundle.batching else 0


def _run_together(bundle: Bundle, requests: Sequence[PreparedRequest], padding: int) -> list[Any]:
    """Returns each request's rows of the outputs of one run.

    Raises:
      _NotRowsError: an output has another number of rows than the inputs.
    """
    signature = requests[0].signature
    joined = [np.concatenate(values) for values in zip(*(request.inputs for request in requests), strict=True)]
    if padding:
        joined = [np.concatenate([value, np.repeat(value[:1], padding, axis=0)]) for value in joined]
    outputs = bundle.run(signature, joined)
    names = bundle.plans[signature].outputs
    for name, value in zip(names, outputs, strict=True):
        if not value.ndim or len(value) != len(joined[0]):
            raise _NotRowsError(f"{name} has the shape {list(value.shape)} for {len(joined[0])} rows")
    return _split(outputs, [len(request.inputs[0]) for request in requests], requests, names)


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
