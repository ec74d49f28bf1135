"""`conveyor loadtest`: a server under load, and beside it the same batches in a bare Session."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from conveyor import processes
from conveyor.errors import ConfigError, ConveyorError
from pipeline.home.folders import Home
from serving import load_generator
from serving.client import Client
from serving.client.grpc import MAX_MESSAGE


class LoadTestFailed(ConveyorError):
    """The bare Session did not run."""


@dataclasses.dataclass(frozen=True)
class LoadTest:
    """A server and a bare Session.

    Attributes:
      throughput: answered requests a second.
      images: the same in images.
      p50: latency, milliseconds.
      errors: failed requests by status code.
      session: images a second in a bare Session, in batches of one request.
      session_batched: the same, in batches of as many requests as there are clients: what batching can give at most.
    """

    model: str
    version: int
    clients: int
    batch: int
    seconds: float
    requests: int
    throughput: float
    images: float
    p50: float
    p90: float
    p99: float
    errors: dict[str, int]
    session: float
    session_batched: float

    @property
    def ratio(self) -> float:
        """The server's images a second to the Session's."""
        return self.images / self.session

    @property
    def ratio_batched(self) -> float:
        """The same to the Session with the clients' requests in one batch."""
        return self.images / self.session_batched

    def to_dict(self) -> dict[str, Any]:
        """Returns all of it for JSON."""
        return dataclasses.asdict(self) | {"ratio": self.ratio, "ratio_batched": self.ratio_batched}


def load_test(home: Home, target: str, model: str, clients: int, seconds: float, batch: int) -> LoadTest:
    """Measures a server, then a bare Session, of the same version on the same images.

    Raises:
      ConfigError: the model was never pushed here, so that there is nothing to compare with.
      ServingError: the server does not answer, or does not serve the model.
    """
    if target.startswith(("http://", "https://")):
        raise ConfigError(f"--target {target}: the load goes over gRPC; give its host:port.")
    stored = home.models.pushed(model)
    dataset = stored.dataset(max(stored.versions()))
    if dataset is None:
        raise ConfigError(f"{stored.folder} does not say what images it takes.")
    size = 4 * batch * math.prod(dataset.shape)
    if size > MAX_MESSAGE:
        raise ConfigError(
            f"--batch {batch}: a request of that many images would take {size / 1e9:.1f} GB, and a message holds "
            f"{MAX_MESSAGE / 1e9:.1f} GB at most."
        )
    with Client.stable(target, model) as client:
        images = np.random.default_rng(0).random((batch, *dataset.shape), np.float32)
        version = client.predict(images).version
        assert version is not None  # gRPC says it
        spec = client.spec
    load = load_generator.run(target, spec, "predict_images", {"images": images}, clients, seconds)
    session, batched = (
        _session(stored.path(version), dataset.shape, rows, seconds / 2) for rows in (batch, batch * clients)
    )
    return LoadTest(
        model, version, clients, batch, load.seconds, len(load.latencies), load.throughput, load.throughput * batch,
        1e3 * load.percentile(50), 1e3 * load.percentile(90), 1e3 * load.percentile(99), load.errors, session, batched,
    )  # fmt: skip


def _session(version: Path, shape: tuple[int, ...], rows: int, seconds: float) -> float:
    """Returns images a second in a bare Session, in a process of its own."""
    command = [sys.executable, "-m", "serving.bare_session", str(version), json.dumps([rows, *shape]), str(seconds)]
    done = subprocess.run(command, cwd=processes.ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LoadTestFailed(f"The bare Session failed: {done.stderr.strip().splitlines()[-1:]}")
    return rows * json.loads(done.stdout)["runs"] / json.loads(done.stdout)["seconds"]
