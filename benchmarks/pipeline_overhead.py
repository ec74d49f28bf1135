"""Conveyor's pipeline beside the plain TFX way: the same data, network, steps and gate, by component.

    python -m benchmarks.pipeline_overhead [--runs 3] [--steps 300] [--home DIR]

Each run is a process of its own in an empty home folder, the two in turn. Fetching is left out of both: the data is
there. The time outside the components is start-up, imports and, in Conveyor, the run report; components that ran side
by side count once. Memory is that of all processes together, at its peak; what they share counts once. After each of
Conveyor's runs, what only looks is timed in the same home.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tensorflow as tf

from benchmarks.measure import show, spread, store
from components.image_example_gen.executor import serialize
from components.image_example_gen.shards import plan
from components.image_example_gen.spans import BASE, Part
from pipeline.data.fetch import fetch
from pipeline.experiments import load
from pipeline.home import metadata_store
from pipeline.home.folders import Home

ROOT = Path(__file__).parent.parent
NAMES = {"ImportExampleGen": "ExampleGen", "ImageExampleGen": "ExampleGen", "DatasetSchemaGen": "SchemaGen"}
CONVEYOR = [sys.executable, "-m", "pipeline.cli"]
MEMORY, STEPS = "memory at its peak", "the steps"
NAMES |= {"AtomicPusher": "Pusher", "ScalarStatisticsGen": "StatisticsGen"}


def component_times(home: Home) -> dict[str, float]:
    (run,) = metadata_store.runs(metadata_store.connect(home))
    if any(component.state != "done" for component in run.components):
        sys.exit(f"A component of {home.root} did not end well: {run.components}")
    times = {NAMES.get(component.name, component.name): component.seconds for component in run.components}
    return times | {"all components": run.seconds}


def measured(command: list[str], home: Home) -> dict[str, float]:
    """Runs a pipeline in a home, and returns the seconds of its parts, and its memory in MB."""
    whole, megabytes = timed(command, home)
    times = component_times(home)
    outside = whole - times.pop("all components")
    return times | {"outside the components": outside, "whole": whole, MEMORY: megabytes}


def looks(settings: list[str], home: Home) -> dict[str, float]:
    """Returns how long the commands take that find nothing to do, or only look; and what a run takes but its steps."""
    seconds = {"up to date": timed([*CONVEYOR, "run", "mnist", *settings], home)[0]}
    for command in ("--help", "models", "runs"):
        seconds[f"conveyor {command}"] = timed([*CONVEYOR, command], home)[0]
    return seconds


def steps_time(home: Home) -> float:
    """Returns how long the one training took, from its first step to its last, seconds."""
    (report,) = (json.loads(path.read_text()) for path in home.reports.glob("*.json"))
    return report["training"]["seconds"]


def timed(command: list[str], home: Home) -> tuple[float, float]:
    """Runs a command; returns its seconds, and the greatest memory of it and all of its descendants, MB."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        environment = os.environ | {"CONVEYOR_HOME": str(home.root)}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        most = 0.0
        while process.poll() is None:
            most = max(most, sum(map(_megabytes, _family(process.pid))))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.5)
        whole = time.perf_counter() - started
        if process.returncode:
            output.seek(0)
            sys.exit(output.read().decode()[-5000:])
    return whole, most


def _family(process: int) -> list[int]:
    """Returns the numbers of a process and of all that descend from it."""
    try:
        threads = Path(f"/proc/{process}/task").glob("*/children")
        children = [int(child) for thread in threads for child in thread.read_text().split()]
    except OSError:
        return []
    return [process, *(number for child in children for number in _family(child))]


def _megabytes(process: int) -> float:
    """Returns a process's memory; what it shares with others counts in part, so that the sum counts it once."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1000 for line in lines if line.startswith("Pss:")), 0.0)


def write_plain_examples(data: Path, folder: Path) -> None:
    """Writes the examples as ImportExampleGen expects them: gzipped TFRecords in a folder for each split."""
    dataset = load("mnist").dataset
    for shard in plan(Part(BASE, data, dataset)):
        for split, images, labels, _ in shard.read(dataset):
            (folder / split).mkdir(parents=True, exist_ok=True)
            with tf.io.TFRecordWriter(str(folder / split / f"{shard.name}.gz"), "GZIP") as writer:
                for record in serialize(images, labels):
                    writer.write(record.content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--home")
    options = parser.parse_args()
    data = fetch("mnist", Home.at(options.home).data)
    scratch = Path(tempfile.mkdtemp())
    write_plain_examples(data, scratch / "examples")
    settings = ["--set", f"training.steps={options.steps}", "--set", "gate.min_accuracy=0.5"]
    rows: dict[str, list[dict[str, float]]] = {"conveyor": [], "plain TFX": []}
    for number in range(options.runs):
        for name in rows:
            home = Home(scratch / f"{name.split()[0]}-{number}")
            if name == "conveyor":
                home.data.mkdir(parents=True)
                (home.data / "mnist").symlink_to(data)
                command = [*CONVEYOR, "run", "mnist", *settings]
            else:
                plain = [str(scratch / "examples"), str(home.root), str(options.steps)]
                command = [sys.executable, "-m", "benchmarks.plain_tfx", *plain]
            rows[name].append(measured(command, home))
            if name == "conveyor":
                rows[name][-1] |= {STEPS: steps_time(home), **looks(settings, home)}
            shutil.rmtree(home.root)
    shutil.rmtree(scratch)
    report(rows, options.runs, options.steps)


def report(rows: dict[str, list[dict[str, float]]], runs: int, steps: int) -> None:
    """Prints and stores the times, and how they compare run by run."""
    for name, measurements in rows.items():
        print(f"{name}: MNIST, {steps} steps, n = {runs}, median and range")
        for part in measurements[0]:
            show(part, [times[part] for times in measurements], "MB" if part == MEMORY else "s")
    overheads = {name: [times["whole"] - times["Trainer"] for times in ms] for name, ms in rows.items()}
    ratios = [ours / plain for ours, plain in zip(overheads["conveyor"], overheads["plain TFX"], strict=True)]
    for name, values in overheads.items():
        show(f"all but the Trainer, {name}", values)
    show("all but the steps, conveyor", [times["whole"] - times[STEPS] for times in rows["conveyor"]])
    whole = [_ratio(rows, "whole", number) for number in range(runs)]
    memory = [_ratio(rows, MEMORY, number) for number in range(runs)]
    show("ratio of the whole, conveyor / plain TFX", whole, "x")
    show("ratio without the Trainer", ratios, "x")
    show("ratio of the memory", memory, "x")
    figures = {name: {part: spread([times[part] for times in ms]) for part in ms[0]} for name, ms in rows.items()}
    beyond = {name: spread(values) for name, values in overheads.items()}
    store(
        "pipeline_overhead",
        __file__,
        {
            "n": runs,
            "steps": steps,
            "figures": figures,
            "all_but_the_trainer": beyond,
            "all_but_the_steps": spread([times["whole"] - times[STEPS] for times in rows["conveyor"]]),
            "ratio": {"whole": spread(whole), "without the Trainer": spread(ratios), "memory": spread(memory)},
        },
    )


def _ratio(rows: dict[str, list[dict[str, float]]], part: str, number: int) -> float:
    return rows["conveyor"][number][part] / rows["plain TFX"][number][part]


if __name__ == "__main__":
    main()
