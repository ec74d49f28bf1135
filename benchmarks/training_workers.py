"""What a second worker gains, each worker with one core, and how much of its time goes to the other.

    python -m benchmarks.training_workers [--networks mnist cifar10] [--steps 60] [--runs 3]

For each of the tutorial's networks, in turn and each time anew: one worker with the recipe's batch; one with half of
it, which is what each of two computes; and two with all of it. What two take longer for a step than one with half a
batch is communication. The data are noise: what is in them costs nothing.
"""

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import spread, store
from benchmarks.training import write_examples
from components.network_trainer.executor import ON_THIS_MACHINE, PROGRAM
from conveyor.settings import to_json
from pipeline.experiments import load
from trainer.settings import TrainingSpec

WAYS = {"one worker": (1, 1), "one worker, half a batch": (1, 2), "two workers": (2, 1)}  # workers, parts of a batch


def step_seconds(name: str, examples: Path, steps: int, workers: int, parts: int) -> float:
    """Returns the time of a step in the middle of a training, with a core for each worker."""
    job = load(name).training_job()
    batch = job.training.batch_size // parts
    long = {"log_every": steps, "eval_every": 10 * steps, "checkpoint_every": 10 * steps}
    training = dataclasses.replace(job.training, workers=workers, batch_size=batch, steps=10 * steps, **long)
    with tempfile.TemporaryDirectory() as scratch:
        folders = {kind: str(Path(scratch, kind)) for kind in ("checkpoints", "run")}
        spec = TrainingSpec(
            job=dataclasses.replace(job, training=training),
            examples=str(examples),
            train=(str(examples),),
            spans={},
            initial=None,
            model=None,
            **folders,
        )
        Path(scratch, "spec.json").write_text(to_json(spec))
        module = PROGRAM if workers == 1 else ON_THIS_MACHINE
        cores = sorted(os.sched_getaffinity(0))[:workers]
        with subprocess.Popen(
            [sys.executable, "-m", module, str(Path(scratch, "spec.json"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        ) as process:
            marks = {line.split(",")[0]: time.perf_counter() for line in _until(process, f"step {2 * steps},")}
            process.kill()
    return (marks[f"step {2 * steps}"] - marks[f"step {steps}"]) / steps


def _until(process: "subprocess.Popen[str]", last: str) -> Any:
    for line in process.stdout or ():
        yield line
        if line.startswith(last):
            return
    sys.exit(f"The training ended before {last.rstrip(',')}.")


def measure(name: str, steps: int, runs: int) -> dict[str, Any]:
    """Returns the spreads of each way's images a second, and of what two workers gain and lose."""
    batch = load(name).training.batch_size
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        write_examples(Path(folder), name, ["train"])
        for _ in range(runs):
            for way, (workers, parts) in WAYS.items():
                seconds[way].append(step_seconds(name, Path(folder), steps, workers, parts))
    one, half, two = (seconds[way] for way in WAYS)
    return {
        "images": {way: spread([batch / WAYS[way][1] / each for each in found]) for way, found in seconds.items()},
        "gain": spread([a / b for a, b in zip(one, two, strict=True)]),
        "communication": spread([max(0.0, 1 - a / b) for a, b in zip(half, two, strict=True)]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["mnist", "cifar10"])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    if len(os.sched_getaffinity(0)) < max(workers for workers, _ in WAYS.values()):
        sys.exit("Two workers need two cores.")
    networks = {}
    for name in given.networks:
        networks[name] = measure(name, given.steps, given.runs)
        print(f"\n{name}, a core a worker")
        for way, images in networks[name]["images"].items():
            print(f"  {way:<28} {images['median']:7.0f} images/s   {images['min']:.0f} to {images['max']:.0f}")
        gain, share = networks[name]["gain"], networks[name]["communication"]
        print(f"  two for one {gain['median']:.2f}, of a step {share['median']:.0%} communication", flush=True)
    store("training_workers", __file__, {"n": given.runs, "steps": given.steps, "networks": networks})


if __name__ == "__main__":
    main()
