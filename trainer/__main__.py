"""Trains one network in a process of its own: `python -m trainer SPEC`.

A process of its own, because it alone may see a GPU, takes all of its memory with it when it ends, and can be killed
without taking the pipeline with it. SPEC is a JSON file with the fields of `trainer.settings.TrainingSpec`.

Several such processes train together where each has its own `TF_CONFIG`, as TensorFlow documents it, and all see the
same files.

It reports its progress on standard output, and ends with 0, or with another code and one sentence on standard error.
"""

import contextlib
import dataclasses
import functools
import gc
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from conveyor import modules, processes
from conveyor.errors import ConveyorError, ExitCode
from conveyor.settings import from_json
from serving import servability
from serving.servability import NotServable
from trainer import devices, export, loop, networks
from trainer.examples import read_split, read_splits
from trainer.settings import Pictures, TrainingJob, TrainingSpec, TrainingSummary

PROVEN = 16  # images whose answers are compared before a long training
HISTORY, SUMMARY = "history.json", "summary.json"


def main(spec: TrainingSpec) -> None:
    """Trains, measures on the test split, and writes the model and the record of the training; of a trial, trains."""
    Path(spec.run).mkdir(parents=True, exist_ok=True)
    tf.config.experimental.enable_op_determinism()
    with devices.loss_told():
        chosen = devices.choose(spec.job.training.precision)
        _train(spec, chosen)
        try:
            chosen.wait_for_all()  # TensorFlow ends all workers where one is gone
        except tf.errors.OpError:  # a worker that has heard of all may be gone before another has
            if not Path(spec.run, SUMMARY if spec.model else HISTORY).exists():  # which the chief writes last
                raise


def _train(spec: TrainingSpec, chosen: devices.Devices) -> None:
    """Trains; the chief writes what comes of it."""
    job, run, examples = spec.job, Path(spec.run), Path(spec.examples)
    if chosen.is_chief:
        tqdm.write(f"Training on {chosen.description}.")
    eval_folder = examples / "Split-eval"
    train = read_splits([Path(folder) / "Split-train" for folder in spec.train], job.pictures)
    sample = train.images[:PROVEN]
    result = loop.train(
        job,
        chosen,
        train,
        read_split(eval_folder, job.pictures) if eval_folder.exists() else None,
        Path(spec.checkpoints),
        run / "tensorboard",
        initial=export.read_weights(Path(spec.initial)) if spec.initial else None,
        prove=functools.partial(_prove, job, sample, run) if spec.model else None,
    )
    if chosen.is_chief:
        (run / HISTORY).write_text(json.dumps(result.history))
        if spec.model:
            _write(spec, Path(spec.model), chosen, result, sample)


def _write(
    spec: TrainingSpec, model: Path, chosen: devices.Devices, result: loop.TrainingResult, sample: np.ndarray
) -> None:
    """Measures a trained network on the test split, and writes the model and the record of the training."""
    job, run, examples = spec.job, Path(spec.run), Path(spec.examples)
    test = read_split(examples / "Split-test", job.pictures)
    with _not_servable():
        network, predict = _in_float32(result.model, job)
        before = _state(network)
        answers = predict(sample)
        is_pure = _state(network) == before  # else what is written would depend on what is predicted meanwhile
    with futures.ThreadPoolExecutor(1) as thread:  # TensorFlow predicts while Python writes
        predicted = thread.submit(predict, test.images) if is_pure else None
        with _not_servable():
            export.write(network, job, model, run)
    with _not_servable():
        _check(network, job, model, sample, answers, to_prove=not result.proven)
    scores = predicted.result() if predicted else predict(test.images)
    accuracy, _ = loop.accuracy_and_loss(scores, test.labels)
    tqdm.write(f"test accuracy {accuracy:.4f}")
    np.save(run / "test_scores.npy", scores, allow_pickle=False)
    if (kernels := networks.first_kernels(network)) is not None:
        np.save(run / "kernels.npy", kernels, allow_pickle=False)
    summary = TrainingSummary(
        device=chosen.description,
        precision=chosen.precision,
        resumed_from=result.resumed_from,
        seconds=result.seconds,
        steps=result.steps,
        test_accuracy=accuracy,
        held_out=_held_out(predict, spec.spans, job.pictures),
    )
    (run / SUMMARY).write_text(json.dumps(dataclasses.asdict(summary), indent=1))


def _prove(job: TrainingJob, sample: np.ndarray, scratch: Path, model: keras.Model) -> bool:
    """Exports a network after its first step, and removes what it wrote; returns whether its answers say anything.

    Raises:
      NotServable: it cannot be served; more training would be in vain.
    """
    with tempfile.TemporaryDirectory(dir=scratch) as folder, _not_servable():
        network, predict = _in_float32(model, job)
        answers = predict(sample)
        export.write(network, job, Path(folder, "model"), Path(folder))
        _check(network, job, Path(folder, "model"), sample, answers, to_prove=True)
        return bool(np.isfinite(answers).all())


def _in_float32(model: keras.Model, job: TrainingJob) -> tuple[keras.Model, loop.Predict]:
    network = export.in_float32(model, job)
    return network, loop.predictor(network, job.shape)


def _state(network: keras.Model) -> list[bytes]:
    """Returns what a network's layers may change when they predict."""
    return [variable.numpy().tobytes() for variable in network.non_trainable_variables]


def _check(
    network: keras.Model, job: TrainingJob, folder: Path, sample: np.ndarray, answers: np.ndarray, to_prove: bool
) -> None:
    """Compares a network's answers with those of one that is built anew, and, to prove it, of the SavedModel.

    Raises:
      Exception: they differ, or the SavedModel cannot be loaded as the server would.
    """
    if np.isfinite(answers).all():  # else the training diverges, or its verdict will say so
        networks.check_rebuilt(network, job, sample)
        if to_prove:
            servability.check(folder, sample, answers)


@contextlib.contextmanager
def _not_servable() -> Iterator[None]:
    """Makes a `NotServable` of whatever the code of a network makes of an export."""
    try:
        yield
    except (OSError, MemoryError, tf.errors.ResourceExhaustedError):  # of this machine
        raise
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise NotServable(f"The network cannot be served: {reason}") from error


def _held_out(predict: loop.Predict, spans: dict[str, str], rules: Pictures) -> dict[str, dict[str, float]]:
    """Returns the accuracy on what each span holds out, and on how many examples, by the span's name."""
    measured = {}
    for name, folder in spans.items():
        if Path(folder, "Split-eval").exists():
            split = read_split(Path(folder, "Split-eval"), rules)
            accuracy, _ = loop.accuracy_and_loss(predict(split.images), split.labels)
            measured[name] = {"accuracy": accuracy, "examples": len(split)}
    return measured


def run(spec: Path) -> int:
    """Runs the trainer as the whole of this process, and returns its exit code; an error's sentence goes to stderr."""
    try:
        given = from_json(TrainingSpec, spec.read_bytes())
        with modules.importable(Path(given.job.network.folder)):  # a network may import in the midst of a call
            main(given)
        gc.freeze()  # else the interpreter looks through TensorFlow's objects once more, for a second, before it ends
    except ConveyorError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return ExitCode.SUCCESS


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m trainer SPEC.json")
    processes.end_with_parent()
    if "TF_CONFIG" in os.environ:
        processes.die_with_parent()
    sys.exit(run(Path(sys.argv[1])))
