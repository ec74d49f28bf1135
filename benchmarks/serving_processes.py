"""How the embedded server's throughput grows with its processors and processes.

    python -m benchmarks.serving_processes [--runs 5] [--seconds 4] [--networks mnist cifar10]

The server and the load, 32 clients with one image a request over gRPC, are pinned together to one processor, and to
all; there with one process and with one for each processor. The three are measured in turn. What larger machines would
give is arithmetic, stored beside what was measured: processes share nothing but the ports, so as many images for each
processor as on all of this machine's.
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import spread, store
from benchmarks.serving import GRPC, REST, Seen, embedded, exported, require_answers

CLIENTS = 32
LARGER = (8, 32)  # processors


def measure(name: str, runs: int, seconds: float) -> dict[str, Any]:
    """Returns the spreads of each way to run the server, and of the ratios to one processor within each run."""
    cores = len(os.sched_getaffinity(0))
    ways = {"1 processor": (1, 1), f"{cores} processors, 1 process": (1, cores)}
    ways |= {f"{cores} processors, {cores} processes": (cores, cores)} if cores > 1 else {}
    with tempfile.TemporaryDirectory() as folder:
        home, _, shape = exported(name, Path(folder))
        image = np.random.default_rng(0).random((1, *shape), np.float32)
        servers = {}
        try:
            for number, (way, (processes, pinned)) in enumerate(ways.items()):
                log = Path(folder, f"{number}.log")
                server, doors, start = embedded(home, name, image, log, processes, pinned)
                servers[way] = (server, doors, start)
                server.pause()
            seen: dict[str, list[Seen]] = {way: [] for way in ways}
            for _ in range(runs):
                for way, (server, doors, _) in servers.items():
                    seen[way].append(server.measure(doors[GRPC], CLIENTS, seconds))
            for server, doors, _ in servers.values():
                server.resume()
                require_answers(doors[REST])
        finally:
            for server, *_ in servers.values():
                server.stop()
    alone = seen["1 processor"]
    found = {}
    for way, many in seen.items():
        found[way] = {field: spread([getattr(one, field) for one in many]) for field in ("images", "p50", "p99", "cpu")}
        pairs = zip(many, alone, strict=True)
        found[way]["of one processor"] = spread([one.images / other.images for one, other in pairs])
        found[way]["start"] = servers[way][2]
    each = list(found.values())[-1]["images"]["median"] / cores
    by_arithmetic = {str(count): count * each for count in LARGER}
    return {"measured": found, "by arithmetic": by_arithmetic}


def show(name: str, figures: dict[str, Any]) -> None:
    print(f"\n{name}, {CLIENTS} clients")
    for way, values in figures["measured"].items():
        line = f"  {way:<28} {values['images']['median']:7.0f} images/s   p50 {values['p50']['median']:6.2f} ms"
        line += f"   {values['cpu']['median']:5.2f} ms of processor   {values['of one processor']['median']:.2f}"
        print(line + f" of one processor   start {values['start']:.1f} s", flush=True)
    for count, images in figures["by arithmetic"].items():
        print(f"  {count + ' processors, by arithmetic':<28} {images:7.0f} images/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--networks", nargs="+", default=["mnist", "cifar10"])
    given = parser.parse_args()
    if not shutil.which("h2load"):
        sys.exit("The load comes from h2load: apt install nghttp2-client.")
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    results = {}
    for name in given.networks:
        results[name] = measure(name, given.runs, given.seconds)
        show(name, results[name])
    figures = {"n": given.runs, "seconds": given.seconds, "clients": CLIENTS, "networks": results}
    store("serving_processes", __file__, figures)


if __name__ == "__main__":
    main()
