"""How fast the embedded server answers, against the limit of a bare Session and against well-known Python servers.

    python -m benchmarks.serving [--runs 3] [--seconds 4] [--networks mnist cifar10] [--bentoml PROGRAM]

For both networks and 1, 8 and 32 clients with one image a request, interleaved run by run: a bare Session on batches of
as many images as there are clients; the embedded server over gRPC and over REST, with the flags of `conveyor serve`, in
one process, and over gRPC in a process a core; litserve over HTTP, and BentoML, where --bentoml names the program of an
environment that has it and TensorFlow. Both call the same SavedModel in the same way, in batches of up to 32. The load
comes from h2load (Debian's nghttp2-client), which takes little of the processor away from the servers; who is not
measured is stopped meanwhile. The processor's time is that of the server's processes, so that what a request costs
beyond the model's own arithmetic, which is the bare Session's, is seen.

How long a server takes from the command to its first answer is measured too, with its files in the system's cache.
"""

import argparse
import base64
import contextlib
import dataclasses
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.measure import spread, store
from pipeline.experiments import load
from pipeline.home.folders import Home
from pipeline.release import server_files
from serving.client import ModelSpec
from serving.client.grpc import PREDICT, predict_request

CLIENTS = (1, 8, 32)
SESSION, GRPC, REST, SEVERAL, LITSERVE, BENTOML = (
    "bare Session",
    "embedded server",
    "embedded server, REST",
    "a process a core",
    "litserve",
    "BentoML",
)
JSON = {"content-type": "application/json"}
ROOT = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a load saw: images a second, latencies in milliseconds, the processor's milliseconds an image."""

    images: float
    p50: float
    p99: float
    cpu: float


@dataclasses.dataclass(frozen=True)
class Door:
    """What a server is asked with: a POST request."""

    url: str
    body: bytes
    headers: dict[str, str]

    def answered(self) -> bool:
        """Whether a request is answered. gRPC's answer to HTTP/1.1 is none."""
        try:
            return bool(urllib.request.urlopen(urllib.request.Request(self.url, self.body, self.headers)).read())
        except OSError:
            return False


class Server:
    """A server's processes; stopped but for the time it is measured."""

    def __init__(
        self, command: list[str], log: Path, environment: Mapping[str, str] | None = None, cores: int | None = None
    ) -> None:
        self._body = log.with_suffix(".body")
        self._pinned = ["taskset", "-c", ",".join(map(str, sorted(os.sched_getaffinity(0))[:cores]))]  # the load too
        self._started = time.perf_counter()
        self._process = subprocess.Popen(
            [*self._pinned, *command],
            cwd=ROOT,
            stdout=log.open("wb"),
            stderr=subprocess.STDOUT,
            env=os.environ | (environment or {}),
        )
        self._all: list[psutil.Process] = []

    def wait_for(self, door: Door, seconds: float = 60) -> float:
        """Returns how many seconds after its start it has answered."""
        while not door.answered():
            if time.perf_counter() - self._started > seconds or self._process.poll() is not None:
                raise RuntimeError(f"no answer; see {self._body.with_suffix('.log')}")
            time.sleep(0.02)
        took = time.perf_counter() - self._started
        top = psutil.Process(self._process.pid)
        self._all = [top, *top.children(recursive=True)]
        return took

    def resume(self) -> None:
        for process in self._all:
            process.resume()

    def pause(self) -> None:
        for process in self._all:
            process.suspend()

    def measure(self, door: Door, clients: int, seconds: float) -> Seen:
        self.resume()
        self._body.write_bytes(door.body)
        before = self._cpu()
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder, "latencies")
            options = [part for name, value in door.headers.items() for part in ("-H", f"{name}: {value}")]
            version = [] if "application/grpc" in door.headers.values() else ["--h1"]
            command = [
                *self._pinned, "h2load", *version, "-t", "1", "-c", str(clients), "-m", "1", "-D", f"{seconds:.0f}",
                "--warm-up-time", "1",
                "-d", str(self._body), *options, f"--log-file={log}", door.url,
            ]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows = np.array([line.split()[1:3] for line in log.read_text().splitlines()], int)
        used = self._cpu() - before
        self.pause()
        counted = re.search(r"requests: (\d+) total.* (\d+) failed, (\d+) errored", done.stdout)
        rate = re.search(r"([\d.]+) req/s", done.stdout)
        if not counted or not rate or counted[2] != "0" or counted[3] != "0" or (rows[:, 0] != 200).sum() > clients:
            raise RuntimeError(f"requests failed:\n{done.stdout}")
        # Requests that the end of the time cuts off have no status, a client one at most. The processor's time is of
        # the warm-up's second too, at the same rate.
        latencies = rows[rows[:, 0] == 200, 1] / 1000
        images = float(rate[1])
        return Seen(images, *np.percentile(latencies, (50, 99)).tolist(), 1000 * used / (images * (seconds + 1)))

    def stop(self) -> None:
        for process in self._all:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        for process in self._all:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def _cpu(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in self._all)


def bare_session(version: Path, shape: tuple[int, ...], clients: int, seconds: float) -> Seen:
    """Measures a bare Session in a process of its own."""
    command = [sys.executable, "-m", "serving.bare_session", str(version), json.dumps([clients, *shape]), str(seconds)]
    done = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    images = clients * done["runs"]
    each = 1000 * done["seconds"] / done["runs"]
    return Seen(images / done["seconds"], each, each, 1000 * done["cpu"] / images)


def exported(name: str, folder: Path) -> tuple[Home, Path, tuple[int, ...]]:
    """Exports a freshly drawn network, whose arithmetic is a trained one's; returns its home, version and shape."""
    from trainer import export, networks

    home, job = Home(folder / "home"), load(name).training_job()
    version = home.serving / name / "1"
    version.parent.mkdir(parents=True)
    export.save(networks.build(job, "float32"), job, version, folder)
    return home, version, job.shape


def embedded(
    home: Home, model: str, image: np.ndarray, log: Path, processes: int = 1, cores: int | None = None
) -> tuple[Server, dict[str, Door], float]:
    """Starts the embedded server as `conveyor serve` does; returns how to ask it, and how long its start took."""
    folder = home.server / log.stem
    folder.mkdir(parents=True, exist_ok=True)
    served = server_files.VersionChoice(latest=1).of_model(home, model, {})
    server_files.write(home, folder, {model: served})
    port, rest = free_port(), free_port()
    request = predict_request(ModelSpec(model), "predict_images", {"images": image}).SerializeToString()
    framed = struct.pack(">BI", 0, len(request)) + request  # gRPC: not compressed, its length
    headers = {"content-type": "application/grpc", "te": "trailers"}
    document = {"signature_name": "predict_images", "instances": image.tolist()}
    doors = {
        GRPC: Door(f"http://127.0.0.1:{port}{PREDICT}", framed, headers),
        REST: Door(f"http://127.0.0.1:{rest}/v1/models/{model}:predict", json.dumps(document).encode(), JSON),
    }
    flags = [*server_files.flags(folder, port, rest), f"--num_processes={processes}"]
    server = Server([sys.executable, "-m", "serving.server", *flags], log, cores=cores)
    return server, doors, server.wait_for(doors[REST])


def require_answers(rest: Door) -> None:
    """Refuses figures of requests that failed: gRPC's failures come with HTTP's status of success.

    Raises:
      RuntimeError: a request to the embedded server has failed.
    """
    address = "/".join(rest.url.split("/")[:3])
    metrics = urllib.request.urlopen(f"{address}/monitoring/prometheus/metrics").read().decode()
    failed = [line for line in metrics.splitlines() if "request_count{" in line and 'status="OK"' not in line]
    if failed and any(not line.endswith(" 0") and 'status="CANCELLED"' not in line for line in failed):
        raise RuntimeError(f"requests failed: {failed}")


def litserve(version: Path, image: np.ndarray, log: Path) -> tuple[Server, Door]:
    """Starts litserve."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.litserve_peer", str(version), str(port), json.dumps(image.shape[1:])]
    body = json.dumps({"images": base64.b64encode(image.tobytes()).decode()}).encode()
    door = Door(f"http://127.0.0.1:{port}/predict", body, JSON)
    server = Server(command, log)
    server.wait_for(door)
    return server, door


def bentoml(program: str, version: Path, image: np.ndarray, log: Path) -> tuple[Server, Door]:
    """Starts BentoML."""
    port = free_port()
    command = [program, "serve", "benchmarks.bentoml_peer:Classifier", f"--port={port}", "--host=127.0.0.1"]
    body = json.dumps({"images": [base64.b64encode(image.tobytes()).decode()]}).encode()
    door = Door(f"http://127.0.0.1:{port}/predict", body, JSON)
    shape = json.dumps(image.shape[1:])
    server = Server(command, log, {"MODEL": str(version), "SHAPE": shape, "BENTOML_DO_NOT_TRACK": "1"})
    server.wait_for(door)
    return server, door


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclasses.dataclass(frozen=True)
class Contenders:
    """The servers of a network, each paused, and how to ask them."""

    version: Path
    shape: tuple[int, ...]
    doors: dict[str, tuple[Server, Door]]
    start: float  # seconds from the embedded server's command to its first answer


@contextlib.contextmanager
def contenders(name: str, folder: Path, bentoml_program: str | None) -> Iterator[Contenders]:
    """Exports a network, and starts the servers."""
    home, version, shape = exported(name, folder)
    image = np.random.default_rng(0).random((1, *shape), np.float32)
    alone, doors, start = embedded(home, name, image, folder / "embedded.log")
    started = {who: (alone, door) for who, door in doors.items()}
    try:
        several, other_doors, _ = embedded(home, name, image, folder / "several.log", len(os.sched_getaffinity(0)))
        started[SEVERAL] = (several, other_doors[GRPC])
        started[LITSERVE] = litserve(version, image, folder / "litserve.log")
        if bentoml_program:
            started[BENTOML] = bentoml(bentoml_program, version, image, folder / "bentoml.log")
        for server, _ in started.values():
            server.pause()
        yield Contenders(version, shape, started, start)
        for server, rest in ((alone, doors[REST]), (several, other_doors[REST])):
            server.resume()
            require_answers(rest)
    finally:
        for server in {server for server, _ in started.values()}:
            server.stop()


def measure(name: str, runs: int, seconds: float, bentoml_program: str | None) -> dict[str, Any]:
    """Returns the spreads of every contender, by number of clients, and of the ratios within each run."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, contenders(name, Path(folder), bentoml_program) as them:
        print(f"\n{name}: the embedded server's first answer {them.start:.1f} s after its command")
        for clients in CLIENTS:
            seen: dict[str, list[Seen]] = {who: [] for who in (SESSION, *them.doors)}
            for _ in range(runs):
                seen[SESSION].append(bare_session(them.version, them.shape, clients, seconds))
                for who, (server, door) in them.doors.items():
                    seen[who].append(server.measure(door, clients, seconds))
            results[str(clients)] = figures = {
                who: {field: spread([getattr(i, field) for i in many]) for field in ("images", "p50", "p99", "cpu")}
                for who, many in seen.items()
            }
            for who in them.doors:
                pairs = list(zip(seen[who], seen[SESSION], strict=True))
                figures[who]["of the Session"] = spread([one.images / limit.images for one, limit in pairs])
                figures[who]["cpu beyond"] = spread([one.cpu - limit.cpu for one, limit in pairs])
                against = zip(seen[GRPC], seen[who], strict=True)
                figures[who]["gRPC of it"] = spread([one.images / peer.images for one, peer in against])
            show(name, clients, figures)
    return {"start": them.start, "clients": results}


def show(name: str, clients: int, figures: dict[str, Any]) -> None:
    print(f"\n{name}, {clients} clients")
    for who, values in figures.items():
        line = f"  {who:<21} {values['images']['median']:7.0f} images/s   p50 {values['p50']['median']:6.2f} ms"
        line += f"   p99 {values['p99']['median']:7.2f} ms   {values['cpu']['median']:5.2f} ms of processor"
        if who != SESSION:
            line += f"   {values['of the Session']['median']:.2f} of the Session"
            line += f"   gRPC {values['gRPC of it']['median']:.2f} of it"
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--networks", nargs="+", default=["mnist", "cifar10"])
    parser.add_argument("--bentoml", metavar="PROGRAM", help="a bentoml beside TensorFlow, to measure that as well")
    given = parser.parse_args()
    if not shutil.which("h2load"):
        sys.exit("The load comes from h2load: apt install nghttp2-client.")
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    results = {name: measure(name, given.runs, given.seconds, given.bentoml) for name in given.networks}
    store("serving", __file__, {"n": given.runs, "seconds": given.seconds, "networks": results})


if __name__ == "__main__":
    main()
