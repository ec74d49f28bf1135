"""What data of 0.1, 1 and 4 GB cost: time to ingest on all cores and on one, peak memories, and steps a second.

    python -m benchmarks.data_size [--gigabytes 0.1 1 4] [--steps 200]

The data are files in CIFAR-10's format, of noise: what is in them costs nothing. Each size is ingested by Conveyor's
executor, and then trained on with the tutorial's network for MNIST, from where the examples lie and from arrays in
memory, in turn. Each of these is a process of its own, whose peak memory is the kernel's count.
"""

import argparse
import dataclasses
import json
import resource
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import in_a_process, spread, store
from components.image_example_gen.dataset import NamedSplits
from pipeline.experiments import load
from pipeline.experiments.built_in import mnist_tutorial
from pipeline.experiments.network import Network

RECORD = 1 + 32 * 32 * 3  # bytes of an image and its label in CIFAR-10's files
IMAGES_A_FILE = 20_000
DATASET = dataclasses.replace(
    load("cifar10").dataset, name="large", splits=NamedSplits(train="data_batch_*.bin", test="test_batch.bin")
)
WAYS = ("records", "memory")


def make_data(folder: Path, gigabytes: float) -> int:
    """Writes CIFAR-10 files of so many bytes, of noise, whose content costs nothing; returns how many images."""
    count = max(1, round(gigabytes * 1e9 / RECORD))
    rng = np.random.default_rng(1)
    block = rng.integers(0, 256, (min(count, IMAGES_A_FILE), RECORD), np.uint8)
    block[:, 0] %= len(DATASET.classes)
    folder.mkdir(parents=True)
    block[:1000].tofile(folder / "test_batch.bin")
    for number, start in enumerate(range(0, count, len(block))):
        block[: count - start].tofile(folder / f"data_batch_{number:04d}.bin")
    return count


def ingest(data: Path, examples: Path) -> dict[str, float]:
    """Ingests data in this process; returns the seconds and the peak memory."""
    import logging

    from benchmarks.ingest import Executor, run_executor

    logging.disable(logging.WARNING)
    started = time.perf_counter()
    run_executor(Executor, data, examples, DATASET, divides=True)
    return {"seconds": time.perf_counter() - started, "peak_gigabytes": _peak()}


def train(examples: Path, way: str, steps: int) -> dict[str, float]:
    """Trains in this process; returns steps a second, the seconds to the first step, and the peak memory."""
    from trainer import devices, loop
    from trainer.examples import Split, read_split

    experiment = load("cifar10")
    job = dataclasses.replace(
        experiment.training_job(),
        network=Network(mnist_tutorial.build).source,
        training=dataclasses.replace(experiment.training, batch_size=50, steps=steps, log_every=steps),
    )
    started = time.perf_counter()
    split = read_split(examples / "Split-train", job.pictures)
    if way == "memory":
        split = Split(split.images[:], split.labels)
    seconds = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch, name) for name in ("checkpoints", "logs")]
        result = loop.train(job, devices.choose("float32"), split, None, *folders, lambda _: None)
    return {"steps_per_second": steps / result.seconds, "read_seconds": seconds, "peak_gigabytes": _peak()}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def measure(gigabytes: float, steps: int, runs: int) -> dict[str, Any]:
    """Measures one size."""
    folder = Path(tempfile.mkdtemp())
    try:
        images = make_data(folder / "data", gigabytes)
        ingestions = []
        trainings: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(runs):
            one_core = in_a_process("data_size", "ingest", folder / "data", folder / "examples", cores=1)
            shutil.rmtree(folder / "examples")
            ingestions.append(in_a_process("data_size", "ingest", folder / "data", folder / "examples"))
            ingestions[-1] |= {
                "one_core": one_core["seconds"],
                "scaling": one_core["seconds"] / ingestions[-1]["seconds"],
            }
            for way in WAYS:
                trainings[way].append(in_a_process("data_size", "train", folder / "examples", way, steps))
    finally:
        shutil.rmtree(folder)
    ingestion = {name: spread([one[name] for one in ingestions]) for name in ingestions[0]}
    figures = {
        way: {name: spread([one[name] for one in found]) for name in found[0]} for way, found in trainings.items()
    }
    pairs = zip(trainings["records"], trainings["memory"], strict=True)
    ratio = spread([a["steps_per_second"] / b["steps_per_second"] for a, b in pairs])
    print(
        f"{gigabytes:g} GB, {images:,} images: ingested in {ingestion['seconds']['median']:.1f} s "
        f"({images / ingestion['seconds']['median']:,.0f} images/s, "
        f"at most {ingestion['peak_gigabytes']['max']:.2f} GB), "
        f"on one core in {ingestion['one_core']['median']:.1f} s; trainer "
        + ", ".join(
            f"from {way} {f['steps_per_second']['median']:.1f} steps/s, at most {f['peak_gigabytes']['max']:.2f} GB"
            for way, f in figures.items()
        )
        + f"; ratio {ratio['median']:.3f} ({ratio['min']:.3f} to {ratio['max']:.3f})",
        flush=True,
    )
    return {"gigabytes": gigabytes, "images": images, "ingestion": ingestion, "trainer": figures, "ratio": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.1, 1, 4])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        kind, *rest = options.child
        if kind == "ingest":
            print(json.dumps(ingest(Path(rest[0]), Path(rest[1]))))
        else:
            print(json.dumps(train(Path(rest[0]), rest[1], int(rest[2]))))
        return
    sizes = [measure(size, options.steps, options.runs) for size in options.gigabytes]
    store("data_size", __file__, {"n": options.runs, "steps": options.steps, "sizes": sizes})


if __name__ == "__main__":
    main()
