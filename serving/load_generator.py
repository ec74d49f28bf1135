"""Asks a server as fast as it answers, from several clients at once."""

import dataclasses
import multiprocessing
import os
import threading
import time
from collections import Counter
from typing import Any

import grpc
import numpy as np

from serving.client.grpc import PREDICT, predict_request
from serving.client.models import ModelSpec


@dataclasses.dataclass(frozen=True)
class Load:
    """What many clients saw.

    Attributes:
      seconds: how long they asked.
      latencies: of each answered request, seconds, rising.
      errors: how many requests failed, by status code.
    """

    seconds: float
    latencies: np.ndarray
    errors: dict[str, int]

    @property
    def throughput(self) -> float:
        """Answered requests a second."""
        return len(self.latencies) / self.seconds

    def percentile(self, share: float) -> float:
        """Returns a percentile of the latencies, seconds; NaN without an answer."""
        return float(np.percentile(self.latencies, share)) if len(self.latencies) else float("nan")


def run(
    target: str, spec: ModelSpec, signature: str, inputs: dict[str, np.ndarray], clients: int, seconds: float
) -> Load:
    """Asks the same again and again.

    Args:
      target: `host:port` of gRPC.
      spec: which model.
      signature: which signature.
      inputs: its inputs.
      clients: how many connections, each with one request at a time.
      seconds: how long.
    """
    request = predict_request(spec, signature, inputs).SerializeToString()
    context = multiprocessing.get_context("spawn")  # gRPC does not survive a fork
    processes = min(clients, max(1, len(os.sched_getaffinity(0)) // 2))
    shares = [len(part) for part in np.array_split(np.arange(clients), processes)]
    with context.Pool(processes) as pool:
        results = pool.starmap(_share, [(target, request, share, seconds) for share in shares])
    latencies = np.sort(np.concatenate([result[1] for result in results]))
    errors: Counter[str] = sum((Counter(result[2]) for result in results), Counter())
    return Load(max(result[0] for result in results), latencies, dict(errors))


def _share(target: str, request: bytes, clients: int, seconds: float) -> tuple[float, np.ndarray, dict[str, int]]:
    """Runs some of the clients in this process."""
    ready = threading.Barrier(clients + 1)
    results: list[tuple[list[float], Counter[str]]] = []
    threads = [
        threading.Thread(target=_client, args=(target, request, seconds, ready, results)) for _ in range(clients)
    ]
    for thread in threads:
        thread.start()
    ready.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - started
    latencies = np.array([item for result in results for item in result[0]])
    return elapsed, latencies, dict(sum((result[1] for result in results), Counter()))


def _client(target: str, request: bytes, seconds: float, ready: threading.Barrier, results: list[Any]) -> None:
    options = [("grpc.use_local_subchannel_pool", 1)]  # a connection of its own
    latencies: list[float] = []
    errors: Counter[str] = Counter()
    with grpc.insecure_channel(target, options) as channel:
        call = channel.unary_unary(PREDICT)
        try:
            call(request, timeout=30, wait_for_ready=True)  # connects, and is not counted
        except grpc.RpcError as error:
            errors[error.code().name] += 1
        ready.wait()
        end = time.perf_counter() + seconds
        while (started := time.perf_counter()) < end:
            try:
                call(request, timeout=30)
                latencies.append(time.perf_counter() - started)
            except grpc.RpcError as error:
                errors[error.code().name] += 1
    results.append((latencies, errors))
