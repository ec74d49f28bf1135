"""What a retraining on one new span costs, beside a run from nothing on the same data; and beside many spans.

    python -m benchmarks.retraining [--runs 3] [--images 1000] [--steps 3000] [--warm-steps 300] [--spans 1 30 365]
        [--home DIR]

The data are MNIST, of which the last images of the training files arrive as a span. A home folder in which the rest was
run is put back before each retraining. In turn, each a process of its own: everything from nothing, in an empty home;
`conveyor retrain` from scratch, which has what was ingested before from the cache; and with a warm start.

Then `conveyor retrain` on one span more than a home knows, of 1, 30 and 365. There MNIST is small, a span has 20
images, and a training 30 steps.
"""

import argparse
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.measure import show, spread, store
from pipeline.data.fetch import fetch
from pipeline.home import metadata_store
from pipeline.home.folders import Home

ROOT = Path(__file__).parent.parent
EXPERIMENT = """
import dataclasses
from conveyor import Serving, load_experiment

MNIST = load_experiment("mnist")
DATASET = dataclasses.replace(MNIST.dataset, name="digits")
EXPERIMENT = dataclasses.replace(MNIST, name="digits", dataset=DATASET, serving=Serving(model_name="digits"))
"""
BASE = 7000  # training images of the base files, beside many spans
WAYS = ("from nothing", "retrain from scratch", "retrain with a warm start")


def write(mnist: Path, images: slice, folder: Path, prefix: str = "train") -> None:
    """Writes some images of MNIST's files, and their labels, into a folder."""
    folder.mkdir(exist_ok=True)
    for name, magic, size in (("images-idx3", 0x803, 784), ("labels-idx1", 0x801, 1)):
        shape = (28, 28) if size == 784 else ()
        header = 4 * (2 + len(shape))
        values = np.fromfile(mnist / f"{prefix}-{name}-ubyte", np.uint8, offset=header).reshape(-1, size)[images]
        packed = struct.pack(f">{2 + len(shape)}I", magic, len(values), *shape) + values.tobytes()
        (folder / f"{prefix}-{name}-ubyte").write_bytes(packed)


def conveyor(home: Path, *arguments: str) -> float:
    """Returns how long a command took, seconds."""
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    started = time.perf_counter()
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"CONVEYOR_HOME": str(home)}, capture_output=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr.decode()[-3000:] + done.stdout.decode()[-3000:])
    return time.perf_counter() - started


def parts(home: Path, whole: float) -> dict[str, float]:
    """Returns the seconds of the last run's parts, and its test accuracy."""
    run = metadata_store.runs(metadata_store.connect(Home(home)))[-1]
    times = {component.name: component.seconds for component in run.components if component.state == "done"}
    judges = [component for component in run.components if component.name in ("Evaluator", "ServabilityCheck")]
    starts = [run.offset(judge) for judge in judges]  # side by side
    ends = [run.offset(judge) + judge.seconds for judge in judges]
    ingested = sum(seconds for name, seconds in times.items() if name.startswith("ImageExampleGen"))
    checked = sum(times.get(name, 0) for name in ("ScalarStatisticsGen", "ExampleValidator", "DriftGate"))
    report = json.loads((home / "reports" / f"{run.id}.json").read_text())
    return {
        "whole": whole,
        "ingestion": ingested,
        "statistics and drift": checked,
        "training": times["Trainer"],
        "evaluation and servability": max(ends) - min(starts),
        "test accuracy": report["outcome"]["accuracy"],
    }


def run_arguments(folder: Path, steps: int) -> list[str]:
    gates = ["--set", "gate.min_accuracy=0", "--set", "gate.tolerance=1"] if steps < 3000 else []
    return [str(folder / "digits.py"), "--data", str(folder / "data"), "--set", f"training.steps={steps}", *gates]


def measure(way: str, folder: Path, steps: int, warm_steps: int) -> dict[str, float]:
    home = folder / "home"
    shutil.rmtree(home, ignore_errors=True)
    arguments = run_arguments(folder, steps)
    if way == "from nothing":
        return parts(home, conveyor(home, "run", *arguments))
    shutil.copytree(folder / "template", home, symlinks=True)
    warm = ["--set", f"training.warm_steps={warm_steps}"] if "warm" in way else []
    return parts(home, conveyor(home, "retrain", *arguments, *warm))


def beside_a_run(mnist: Path, folder: Path, options: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Returns the times of each way, of each run."""
    write(mnist, slice(-options.images), folder / "data")
    write(mnist, slice(-options.images, None), folder / "new")
    write(mnist, slice(None), folder / "data", "t10k")
    conveyor(folder / "home", "run", *run_arguments(folder, options.steps))
    (folder / "home").rename(folder / "template")
    conveyor(folder / "home", "add", str(folder / "digits.py"), str(folder / "new"), "--data", str(folder / "data"))
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(options.runs):
        for way in WAYS:
            rows[way].append(measure(way, folder, options.steps, options.warm_steps))
    return rows


def beside_spans(mnist: Path, folder: Path, count: int, runs: int) -> list[float]:
    """Returns the seconds of each retraining on one span more than a home knows."""
    for prefix, images in (("train", BASE), ("t10k", 500)):
        write(mnist, slice(images), folder / "data", prefix)
    for number in range(count + runs):
        first = BASE + 20 * number
        write(mnist, slice(first, first + 20), folder / f"span-{number + 1}")
    arguments = run_arguments(folder, 30)
    for number in range(count):
        (folder / f"span-{number + 1}").rename(folder / "data" / f"span-{number + 1}")
    conveyor(folder / "home", "run", *arguments)
    seconds = []
    for number in range(count, count + runs):
        (folder / f"span-{number + 1}").rename(folder / "data" / f"span-{number + 1}")
        seconds.append(conveyor(folder / "home", "retrain", *arguments))
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--warm-steps", type=int, default=300)
    parser.add_argument("--spans", type=int, nargs="+", default=[1, 30, 365])
    parser.add_argument("--home")
    options = parser.parse_args()
    mnist = fetch("mnist", Home.at(options.home).data)
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch, name) for name in ("run", *map(str, options.spans))]
        for folder in folders:
            folder.mkdir()
            (folder / "digits.py").write_text(EXPERIMENT)
        rows = beside_a_run(mnist, folders[0], options)
        spans = {
            count: beside_spans(mnist, folder, count, options.runs)
            for count, folder in zip(options.spans, folders[1:], strict=True)
        }
    report(rows, spans, options)


def report(rows: dict[str, list[dict[str, float]]], spans: dict[int, list[float]], options: argparse.Namespace) -> None:
    """Prints and stores the times, and each way's ratio to the run from nothing beside it."""
    for way, measurements in rows.items():
        print(f"{way}: {options.images} new images, n = {options.runs}, median and range")
        for part in measurements[0]:
            show(part, [times[part] for times in measurements], "" if part == "test accuracy" else "s")
    ratios = {
        way: [times["whole"] / whole["whole"] for times, whole in zip(rows[way], rows[WAYS[0]], strict=True)]
        for way in WAYS[1:]
    }
    for way, values in ratios.items():
        show(f"ratio, {way}", values, "x")
    for count, seconds in spans.items():
        show(f"one span more than {count}", seconds)
    figures = {way: {part: spread([times[part] for times in ms]) for part in ms[0]} for way, ms in rows.items()}
    settings = {"n": options.runs, "images": options.images, "steps": options.steps, "warm_steps": options.warm_steps}
    store(
        "retraining",
        __file__,
        {
            **settings,
            "figures": figures,
            "ratio": {way: spread(values) for way, values in ratios.items()},
            "spans": {str(count): spread(seconds) for count, seconds in spans.items()},
        },
    )


if __name__ == "__main__":
    main()
