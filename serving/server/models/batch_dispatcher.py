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

from serving.server.models.manager import Manager, Version
from serving.server.protocol.errors import StatusError
from serving.server.protocol.requests import Job

log = logging.getLogger(__name__)

Group = tuple[Version, str, tuple[tuple[Any, ...], ...]]


@dataclasses.dataclass
class _Waiting:
    job: Job
    answer: asyncio.Future


class Runner:
    """Runs jobs; belongs to one event loop."""

    def __init__(
        self,
        manager: Manager,
        *,
        threads: int,
        limit: int,
        observe: Callable[[str, str, float], None] = lambda _model, _api, _seconds: None,
    ) -> None:
        """Makes a runner.

        Args:
          manager: keeps versions loaded while they run.
          threads: how many calls may be in TensorFlow at once.
          limit: how many requests may run and wait; the next is answered with RESOURCE_EXHAUSTED.
          observe: told the model, the API and the seconds of each run.
        """
        self._manager, self._limit, self._observe = manager, limit, observe
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="session")
        self._groups: dict[Group, list[_Waiting]] = {}
        self._calls: collections.Counter[Group] = collections.Counter()
        self._busy = 0

    async def run(self, version: Version, job: Job) -> Any:
        """Runs a job and returns its reply.

        Args:
          version: a version in use; it is kept loaded until TensorFlow is done, also where the request is cancelled.
          job: what to run.

        Raises:
          StatusError: RESOURCE_EXHAUSTED, or what the model says.
        """
        if self._busy >= self._limit:
            raise StatusError("RESOURCE_EXHAUSTED", f"{self._busy} requests are running or waiting; try again later.")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(job, loop.create_future())
        bundle = version.bundle
        assert bundle is not None
        # Only what has one number of rows can be joined: what has not is refused by itself.
        joinable = all(value.ndim for value in job.inputs) and len({len(value) for value in job.inputs}) == 1
        if joinable and bundle.max_batch_size(job.signature):
            group = (version, job.signature, tuple((v.dtype, *v.shape[1:]) for v in job.inputs))
            if group not in self._groups:
                self._groups[group] = []
                loop.call_soon(self._hand_over, group)
            self._groups[group].append(waiting)
        else:
            self._submit((version, job.signature, ()), [waiting])
        self._busy += 1
        self._manager.keep(version)
        return job.reply(await waiting.answer)

    def close(self) -> None:
        """Waits for what runs."""
        self._threads.shutdown(wait=True)

    def _hand_over(self, group: Group) -> None:
        """Submits a group in parts of at most the largest batch; the last part waits while the threads are busy."""
        version, signature, _ = group
        assert version.bundle is not None
        most = version.bundle.max_batch_size(signature)
        part: list[_Waiting] = []
        rows = 0
        for waiting in self._groups.pop(group, ()):
            size = len(waiting.job.inputs[0])
            if part and rows + size > most:
                self._submit(group, part)
                part, rows = [], 0
            part.append(waiting)
            rows += size
        if part and self._calls[group] < version.bundle.batch_threads:
            self._submit(group, part)
        elif part:
            self._groups[group] = part

    def _submit(self, group: Group, part: list[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        version = group[0]

        def work() -> None:
            started = time.perf_counter()
            answers = _answers(version.bundle, [waiting.job for waiting in part])
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
            self._manager.release(version)
            self._observe(version.model, waiting.job.api, seconds)
            if waiting.answer.done():  # the client has gone
                continue
            if isinstance(answer, Exception):
                waiting.answer.set_exception(answer)
            else:
                waiting.answer.set_result(answer)


def _answers(bundle: Any, jobs: Sequence[Job]) -> list[Any]:
    """Returns each job's outputs, or its exception; the jobs have the same signature and shapes."""
    if len(jobs) > 1:
        signature = jobs[0].signature
        sizes = [len(job.inputs[0]) for job in jobs]
        try:
            joined = [np.concatenate(values) for values in zip(*(job.inputs for job in jobs), strict=True)]
            outputs = bundle.run(signature, joined)
            if all(len(value) == sum(sizes) for value in outputs):
                return _split(outputs, sizes, jobs, bundle.plans[signature].outputs)
        except Exception:  # a batch fails as a whole: each is tried by itself, and says why
            log.debug("a batch of %d requests failed", len(jobs), exc_info=True)
    return [_answer(bundle, job, alone=len(jobs) > 1) for job in jobs]


def _answer(bundle: Any, job: Job, alone: bool) -> Any:
    try:
        return bundle.run(job.signature, job.inputs, job.outputs, alone=alone)
    except Exception as error:
        return error if isinstance(error, StatusError) else StatusError("INTERNAL", f"{type(error).__name__}: {error}")


def _split(outputs: list[np.ndarray], sizes: list[int], jobs: Sequence[Job], names: Sequence[str]) -> list[Any]:
    ends = np.cumsum(sizes)
    return [
        [value[end - size : end] for name, value in zip(names, outputs, strict=True) if name in job.outputs]
        for job, size, end in zip(jobs, sizes, ends.tolist(), strict=True)
    ]
