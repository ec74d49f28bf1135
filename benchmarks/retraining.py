"""What a retraining on one new span costs, beside a run from nothing on the same data.

    python -m benchmarks.retraining [--runs 3] [--images 1000] [--steps 3000] [--warm-steps 300] [--home DIR]

The data are MNIST, of which the last images of the training files arrive as a span. A home folder in which the rest was
run is put back before each retraining. In turn, each a process of its own: everything from nothing, in an empty home;
`conveyor retrain` from scratch, which has what was ingested before from the cache; and with a warm start.
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
WAYS = ("from nothing", "retrain from scratch", "retrain with a warm start")


def divide(mnist: Path, folder: Path, count: int) -> None:
    """Writes MNIST without its last training images, and those into a folder of their own."""
    for name, magic, size in (("images-idx3", 0x803, 784), ("labels-idx1", 0x801, 1)):
        shape = (28, 28) if size == 784 else ()
        header = 4 * (2 + len(shape))
        pixels = np.fromfile(mnist / f"train-{name}-ubyte", np.uint8, offset=header)
        for target, part in (("data", pixels[: -count * size]), ("new", pixels[-count * size :])):
            (folder / target).mkdir(exist_ok=True)
            packed = struct.pack(f">{2 + len(shape)}I", magic, len(part) // size, *shape) + part.tobytes()
            (folder / target / f"train-{name}-ubyte").write_bytes(packed)
        shutil.copyfile(mnist / f"t10k-{name}-ubyte", folder / "data" / f"t10k-{name}-ubyte")


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
    ingested = sum(seconds for name, seconds in times.items() if name.startswith("ImageExampleGen"))
    checked = sum(times.get(name, 0) for name in ("ScalarStatisticsGen", "ExampleValidator", "DriftGate"))
    report = json.loads((home / "reports" / f"{run.id}.json").read_text())
    return {
        "whole": whole,
        "ingestion": ingested,
        "statistics and drift": checked,
        "training": times["Trainer"],
        "evaluation and servability": times["Evaluator"] + times["ServabilityCheck"],
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--warm-steps", type=int, default=300)
    parser.add_argument("--home")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    divide(fetch("mnist", Home.at(options.home).data), folder, options.images)
    (folder / "digits.py").write_text(EXPERIMENT)
    conveyor(folder / "home", "run", *run_arguments(folder, options.steps))
    (folder / "home").rename(folder / "template")
    conveyor(folder / "home", "add", str(folder / "digits.py"), str(folder / "new"), "--data", str(folder / "data"))
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(options.runs):
        for way in WAYS:
            rows[way].append(measure(way, folder, options.steps, options.warm_steps))
    shutil.rmtree(folder)
    report(rows, options)


def report(rows: dict[str, list[dict[str, float]]], options: argparse.Namespace) -> None:
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
    figures = {way: {part: spread([times[part] for times in ms]) for part in ms[0]} for way, ms in rows.items()}
    settings = {"n": options.runs, "images": options.images, "steps": options.steps, "warm_steps": options.warm_steps}
    store(
        "retraining",
        __file__,
        {**settings, "figures": figures, "ratio": {way: spread(values) for way, values in ratios.items()}},
    )


if __name__ == "__main__":
    main()
