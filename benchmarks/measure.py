"""What every measurement says about itself, and how it is stored."""

import datetime
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.code_digest import PACKAGES, ROOT, stack_versions
from conveyor.files import tree_digest

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # what is timed finds its modules compiled, as from a second start on
RESULTS = Path(os.environ.get("BENCHMARK_RESULTS", Path(__file__).parent / "results"))


def machine() -> dict[str, Any]:
    """Returns the hardware and the versions that a figure depends on."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next(
        (line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")), platform.machine()
    )
    flags = next((line for line in cpuinfo if line.startswith("flags")), "").split()
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "bfloat16": sorted({"amx_bf16", "avx512_bf16"} & set(flags)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "versions": stack_versions(),
    }


def in_a_process(
    module: str, *arguments: Any, cores: int | None = None, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Returns what a benchmark's child prints last, as JSON; see `last_line`."""
    command = [sys.executable, "-m", f"benchmarks.{module}", "--child", *map(str, arguments)]
    return last_line(command, cores, environment)


def last_line(
    command: Sequence[str], cores: int | None = None, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Returns what a command prints last, as JSON.

    Args:
      command: the program and its arguments.
      cores: how many it may have; None for all.
      environment: variables that it has besides.
    """
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | dict(environment or {}),
        preexec_fn=lambda: os.sched_setaffinity(0, allowed),
    )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns the median, the least and the greatest of some values."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def show(name: str, values: Sequence[float], unit: str = "s") -> None:
    """Prints a row."""
    s = spread(values)
    print(f"  {name:<34} {s['median']:8.2f} {unit}   {s['min']:.2f} to {s['max']:.2f}", flush=True)


def store(name: str, source: str, figures: dict[str, Any]) -> None:
    """Writes `results/<name>.json`: the figures, the machine, and hashes of the measurement and of the code."""
    RESULTS.mkdir(exist_ok=True)
    record = {
        "measured": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "source_sha256": hashlib.sha256(Path(source).read_bytes()).hexdigest(),
        "code_sha256": {package: tree_digest(ROOT / package, suffix=".py") for package in PACKAGES},
        "machine": machine(),
        **figures,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"stored in {RESULTS / name}.json")
