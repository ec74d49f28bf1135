"""Conveyor's pipeline beside the plain TFX way: the same data, network, steps and gate, by component.

    python -m benchmarks.pipeline_overhead [--runs 3] [--steps 300] [--home DIR]

Each run is a process of its own in an empty home folder, the two in turn. Fetching is left out of both: the data is
there. The time outside the components is start-up, imports and, in Conveyor, the run report.
"""

import argparse
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
NAMES |= {"AtomicPusher": "Pusher", "ScalarStatisticsGen": "StatisticsGen"}


def component_times(home: Home) -> dict[str, float]:
    (run,) = metadata_store.runs(metadata_store.connect(home))
    if any(component.state != "done" for component in run.components):
        sys.exit(f"A component of {home.root} did not end well: {run.components}")
    return {NAMES.get(component.name, component.name): component.seconds for component in run.components}


def measured(command: list[str], home: Home) -> dict[str, float]:
    started = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"CONVEYOR_HOME": str(home.root)}, capture_output=True)
    whole = time.perf_counter() - started
    if done.returncode:
        sys.exit(done.stderr.decode()[-3000:] + done.stdout.decode()[-3000:])
    times = component_times(home)
    shutil.rmtree(home.root)
    return times | {"outside the components": whole - sum(times.values()), "whole": whole}


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
                command = [sys.executable, "-m", "pipeline.cli", "run", "mnist", *settings]
            else:
                plain = [str(scratch / "examples"), str(home.root), str(options.steps)]
                command = [sys.executable, "-m", "benchmarks.plain_tfx", *plain]
            rows[name].append(measured(command, home))
    shutil.rmtree(scratch)
    report(rows, options.runs, options.steps)


def report(rows: dict[str, list[dict[str, float]]], runs: int, steps: int) -> None:
    """Prints and stores the times, and how they compare run by run."""
    for name, measurements in rows.items():
        print(f"{name}: MNIST, {steps} steps, n = {runs}, median and range")
        for part in measurements[0]:
            show(part, [times[part] for times in measurements])
    overheads = {name: [times["whole"] - times["Trainer"] for times in ms] for name, ms in rows.items()}
    ratios = [ours / plain for ours, plain in zip(overheads["conveyor"], overheads["plain TFX"], strict=True)]
    for name, values in overheads.items():
        show(f"all but the Trainer, {name}", values)
    show("ratio, conveyor / plain TFX", ratios, "x")
    figures = {name: {part: spread([times[part] for times in ms]) for part in ms[0]} for name, ms in rows.items()}
    beyond = {name: spread(values) for name, values in overheads.items()}
    store(
        "pipeline_overhead",
        __file__,
        {"n": runs, "steps": steps, "seconds": figures, "all_but_the_trainer": beyond, "ratio": spread(ratios)},
    )


if __name__ == "__main__":
    main()
