"""Runs the trainer in a process of its own, and completes its SavedModel with warm-up requests."""

import contextlib
import dataclasses
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from conveyor import processes
from conveyor.errors import ConfigError, ConveyorError, ExitCode
from conveyor.files import replace_file
from conveyor.settings import from_json, to_json
from conveyor.words import counted
from serving import warmup
from trainer import devices
from trainer.examples import read_split
from trainer.settings import SPEC, TrainingJob, TrainingSpec

PROGRAM = "trainer"
ON_THIS_MACHINE, ON_RAY = "components.network_trainer.local_workers", "components.network_trainer.ray_workers"
CONNECT_SECONDS = 10  # to a cluster
LOOK_SECONDS = 1  # between two looks for what the chief has begun
BEGIN_SECONDS = 600  # in which the chief's run must begin


class TrainingFailed(ConveyorError):
    """The trainer's process ended with an error; its last line says which."""


class TrainerKilled(TrainingFailed):
    """A signal ended the trainer's process: it may be that memory ran out, or that somebody else did it."""


def run_fn(fn_args: Any) -> None:
    """Trains the network of `fn_args.custom_config`, as TFX's Trainer asks.

    Args:
      fn_args: TFX's `FnArgs`. Its `custom_config` has `parts`, `job`, `checkpoints` and `warmup_batches`.

    Raises:
      TrainingFailed: the training stopped with an error, such as a loss that is not a number.
    """
    config = fn_args.custom_config
    run = Path(fn_args.model_run_dir)
    run.mkdir(parents=True, exist_ok=True)
    folders = example_folders(fn_args.train_files, config["parts"])
    base, *spans = config["parts"]
    examples = folders[base["component"]]
    job = from_json(TrainingJob, json.dumps(config["job"]))
    code = run / "network"  # a part of the run's record
    shutil.copytree(job.network.folder, code, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    job = dataclasses.replace(job, network=dataclasses.replace(job.network, folder=str(code)))
    spec = TrainingSpec(
        job=job,
        examples=str(examples),
        train=tuple(str(folders[part["component"]]) for part in config["parts"] if part["trained_on"]),
        spans={part["name"]: str(folders[part["component"]]) for part in spans},
        initial=fn_args.base_model,
        checkpoints=config["checkpoints"],
        model=fn_args.serving_model_dir,
        run=str(run),
    )
    (run / SPEC).write_text(to_json(spec))
    with _told(spec) if "TF_CONFIG" in os.environ else contextlib.nullcontext():
        run_trainer(run / SPEC)
    images = read_split(examples / "Split-test", job.pictures).images[: max(config["warmup_batches"], default=0)]
    warmup.write(Path(fn_args.serving_model_dir), images, config["warmup_batches"])


@contextlib.contextmanager
def _told(spec: TrainingSpec) -> Iterator[None]:
    """Tells the other workers that a job controller has placed what is trained, as long as the block lasts."""
    Path(spec.checkpoints).mkdir(parents=True, exist_ok=True)
    replace_file(Path(spec.checkpoints, SPEC), to_json(spec))
    try:
        yield
    finally:
        Path(spec.checkpoints, SPEC).unlink(missing_ok=True)


def join(checkpoints: Path, runs: Callable[[], bool]) -> bool:
    """Trains as a worker that is not the chief, when that one has begun; `TF_CONFIG` says which they are.

    Args:
      checkpoints: folder of the training's checkpoints, as the chief has it.
      runs: whether the chief's run goes on.

    Returns:
      Whether it took part; not where the chief's run has ended without this training.

    Raises:
      TrainingFailed: it ended with an error, or was stopped; or no run has begun for `BEGIN_SECONDS`.
    """
    spec, begun, deadline = checkpoints / SPEC, False, time.monotonic() + BEGIN_SECONDS
    while not spec.exists():
        is_running = runs()
        if begun and not is_running:
            return False
        begun = begun or is_running
        if not begun and time.monotonic() > deadline:
            raise TrainingFailed(f"No run has begun within {BEGIN_SECONDS // 60} minutes that this worker could join.")
        time.sleep(LOOK_SECONDS)
    run_trainer(spec)
    return True


def example_folders(train_files: Iterable[str], parts: Sequence[Mapping[str, Any]]) -> dict[str, Path]:
    """Returns the folders of the splits, by the component that made them: TFX hands the parts over in any order.

    Args:
      train_files: patterns, `<component>/examples/<execution>/Split-train/*`; of one part, wherever its examples are.
      parts: of the data, each with its `component`.
    """
    patterns = [Path(pattern) for pattern in train_files]
    if len(parts) == 1 and len(patterns) == 1:
        return {parts[0]["component"]: patterns[0].parents[1]}
    return {pattern.parents[3].name: pattern.parents[1] for pattern in patterns}


def _why(number: int) -> str:
    """Returns what a signal may mean, and what to do, as the end of a sentence."""
    if number != signal.SIGKILL:
        return ". Run again to continue"
    return (
        ", most likely because memory ran out: a smaller training.batch_size needs less. If something else killed it, "
        "run again to continue"
    )


def run_trainer(spec: Path, output: IO[str] | None = None) -> None:
    """Runs the trainer, or its workers, and waits for it. What it writes to standard error goes through ours.

    A job controller that has set `TF_CONFIG` has placed the workers, and this process with them; several workers are
    on the Ray cluster that `$RAY_ADDRESS` names, or else on this machine.

    Args:
      spec: its specification's file; the process runs in that folder.
      output: what it prints to; None for our standard output.

    Raises:
      TrainingFailed: it ended with an error, or was stopped.
    """
    given = from_json(TrainingSpec, spec.read_bytes())
    program = placed(given.job.training.workers)
    # In the run's own folder: a network's callbacks may write files by relative paths.
    code, last_line = processes.run([program, str(spec)], Path(given.run), {}, output, stops=True)
    if code < 0:
        raise TrainerKilled(f"The trainer was killed by signal {-code}{_why(-code)}.")
    if code in (ExitCode.INTERRUPTED, os.EX_TEMPFAIL):
        raise TrainerKilled(last_line)
    if code:
        raise TrainingFailed(last_line)


def placed(workers: int) -> str:
    """Returns the program that trains with so many workers.

    Raises:
      ConfigError: there are fewer processors here, or `TF_CONFIG` tells of others, or of something else than workers.
      TrainingFailed: `RAY_ADDRESS` names a cluster, and nobody answers there, or there is no Ray here.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    if config := os.environ.get("TF_CONFIG"):
        told, _ = devices.workers_of(config)
        if workers not in (1, told):
            raise ConfigError(f"training.workers is {workers}, and TF_CONFIG tells of {counted(told, 'worker')}.")
        return PROGRAM
    if workers == 1:
        return PROGRAM
    if not address:
        processors = len(os.sched_getaffinity(0))
        if workers > processors:
            raise ConfigError(
                f"training.workers is {workers}, and this machine has {counted(processors, 'processor')}: each worker "
                "needs one. RAY_ADDRESS names a cluster with more."
            )
        return ON_THIS_MACHINE
    if importlib.util.find_spec("ray") is None:
        raise TrainingFailed("RAY_ADDRESS names a cluster, and there is no Ray here: pip install 'conveyor-tfx[ray]'.")
    if found := re.fullmatch(r"\[?([^/]+?)\]?:(\d+)", address):  # Ray itself tries for minutes, and ends its process
        try:
            socket.create_connection((found[1], int(found[2])), CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise TrainingFailed(f"There is no Ray cluster at {address}, as RAY_ADDRESS says: {error}.") from error
    return ON_RAY
