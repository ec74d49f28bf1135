"""Runs checked requests on TensorFlow's threads while the event loop goes on.

Requests that ask the same signature with rows of the same shape, and that arrive in one turn of the event loop or while
all of the batch scheduler's threads are busy with such requests, go to TensorFlow's batch scheduler as one call: a
thread and a hand-over for many instead of for each. The scheduler batches these calls further, by its own parameters.
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

from serving.server.models.bundle import Bundle
from serving.server.models.manager import Manager
from serving.server.models.versions import Version
from serving.server.protocol.errors import StatusError
from serving.server.protocol.requests import PreparedRequest
from serving.server.threads import beside_the_loop

log = logging.getLogger(__name__)

Group = tuple[Version, str, tuple[tuple[Any, ...], ...]]


@dataclasses.dataclass
class _Waiting:
    request: PreparedRequest
    size: int  # bytes of its inputs
    answer: asyncio.Future


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
        self._groups: dict[Group, list[_Waiting]] = {}
        self._calls: collections.Counter[Group] = collections.Counter()
        self._busy = 0
        self._held = 0

    def require_room(self) -> None:
        """Refuses one more request.

        Raises:
          StatusError: RESOURCE_EXHAUSTED, where as many are running and waiting as may be.
        """
        if self._busy >= self._limit:
            raise StatusError("RESOURCE_EXHAUSTED", f"{self._busy} requests are running or waiting; try again later.")

    async def run(self, version: Version, request: PreparedRequest) -> Any:
        """Runs a request and returns its reply.

        Args:
          version: a version in use; it is kept loaded until TensorFlow is done, also where the request is cancelled.
          request: what to run.

        Raises:
          StatusError: RESOURCE_EXHAUSTED, or what the model says.
        """
        self.require_room()
        size = sum(value.nbytes for value in request.inputs)
        if self._held and self._held + size > self._most_bytes:
            raise StatusError("RESOURCE_EXHAUSTED", "The requests that are waiting take all memory; try again later.")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(request, size, loop.create_future())
        bundle = version.loaded
        # Only what has one number of rows can be joined: what has not is refused by itself.
        joinable = all(value.ndim for value in request.inputs) and len({len(value) for value in request.inputs}) == 1
        if joinable and bundle.max_batch_size(request.signature):
            group = (version, request.signature, tuple((v.dtype, *v.shape[1:]) for v in request.inputs))
            if group not in self._groups:
                self._groups[group] = []
                loop.call_soon(self._hand_over, group)
            self._groups[group].append(waiting)
        else:
            self._submit((version, request.signature, ()), [waiting])
        self._busy += 1
        self._held += size
        self._manager.acquire(version)
        outputs = await waiting.answer
        return await beside_the_loop(sum(value.nbytes for value in outputs), request.reply, outputs)

    def close(self) -> None:
        """Waits for what runs."""
        self._threads.shutdown(wait=True)

    def _hand_over(self, group: Group) -> None:
        """Submits a group in parts of at most the largest batch; the last part waits while the threads are busy."""
        version, signature, _ = group
        bundle = version.loaded
        most = bundle.max_batch_size(signature)
        part: list[_Waiting] = []
        rows = 0
        for waiting in self._groups.pop(group, ()):
            size = len(waiting.request.inputs[0])
            if part and rows + size > most:
                self._submit(group, part)
                part, rows = [], 0
            part.append(waiting)
            rows += size
        if part and self._calls[group] < bundle.batch_threads:
            self._submit(group, part)
        elif part:
            self._groups[group] = part

    def _submit(self, group: Group, part: list[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        bundle = group[0].loaded

        def work() -> None:
            started = time.perf_counter()
            answers = _answers(bundle, [waiting.request for waiting in part])
            seconds = time.perf_counter() - started
            loop.call_soon_threadsafe(self._deliver, group, part, answers, seconds)

        self._calls[group] += 1
        self._threads.submit(work)

    def _deliver(self, group: Group, part: list[_Waiting], answers: list[Any], seconds: float) -> None:
        version = group[0]
        self._calls[group] -= 1
        if not self._calls[group]:
            del self._calls[group]
        if group in self._groups:
            self._hand_over(group)
        for waiting, answer in zip(part, answers, strict=True):
            self._busy -= 1
            self._held -= waiting.size
            self._manager.release(version)
            self._observe(version.model, waiting.request.api, seconds)
            if waiting.answer.done():  # the client has gone
                continue
            if isinstance(answer, Exception):
                waiting.answer.set_exception(answer)
            else:
                waiting.answer.set_result(answer)


def _answers(bundle: Bundle, requests: Sequence[PreparedRequest]) -> list[Any]:
    """Returns each request's outputs, or its exception; the requests have the same signature and shapes."""
    if len(requests) > 1:
        signature = requests[0].signature
        sizes = [len(request.inputs[0]) for request in requests]
        try:
            joined = [np.concatenate(values) for values in zip(*(request.inputs for request in requests), strict=True)]
            outputs = bundle.run(signature, joined)
            if all(len(value) == sum(sizes) for value in outputs):
                return _split(outputs, sizes, requests, bundle.plans[signature].outputs)
        except Exception:  # a batch fails as a whole: each is tried by itself, and says why
            log.debug("a batch of %d requests failed", len(requests), exc_info=True)
    return [_answer(bundle, request, alone=len(requests) > 1) for request in requests]


def _answer(bundle: Bundle, request: PreparedRequest, alone: bool) -> Any:
    try:
        return request.run(bundle, alone)
    except Exception as error:
        return error if isinstance(error, StatusError) else StatusError("INTERNAL", f"{type(error).__name__}: {error}")


def _split(
    outputs: list[np.ndarray], sizes: list[int], requests: Sequence[PreparedRequest], names: Sequence[str]
) -> list[Any]:
    ends = np.cumsum(sizes)
    return [
        [value[end - size : end] for name, value in zip(names, outputs, strict=True) if name in request.outputs]
        for request, size, end in zip(requests, sizes, ends.tolist(), strict=True)
    ]
