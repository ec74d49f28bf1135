"""Trains a network: blocks of steps between two lines, checkpoints that a killed run continues from."""

import dataclasses
import json
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from conveyor.errors import ConveyorError, ExitCode
from trainer import export, networks, processes
from trainer.devices import Devices
from trainer.examples import Split, batches, shuffled_order
from trainer.settings import Training, TrainingJob

STEPS_PER_EXECUTION = 10  # in one call of the compiled loop: few calls into Python, and a bar that still moves
PREDICT_BATCH = 500


class TrainingDiverged(ConveyorError):
    """The loss is not a number any more, and no further step can mend it."""


class TrainingStopped(ConveyorError):
    """The training was asked to stop, and wrote a checkpoint to continue from."""

    exit_code = ExitCode.INTERRUPTED


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """The outcome of a training.

    Attributes:
      model: the network, with its final weights.
      resumed_from: the step that a checkpoint allowed to continue from; 0 where there was none.
      seconds: how long this process trained.
      history: what was printed: one dict a line, with `step`, `accuracy`, `loss` and, at times, `eval_accuracy`.
    """

    model: keras.Model
    resumed_from: int
    seconds: float
    history: list[dict[str, float]]


class Checkpoints:
    """A training's state on disk, in TensorFlow's format with its `checkpoint` state file."""

    def __init__(self, folder: Path, model: keras.Model, optimizer: keras.Optimizer, keep: int) -> None:
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._history = tf.Variable("[]", trainable=False)
        variables = [variable.value for variable in [*model.variables, *optimizer.variables]]
        state = tf.train.Checkpoint(step=self._step, history=self._history, variables=variables)
        self._manager = tf.train.CheckpointManager(state, str(folder), max_to_keep=keep)
        self._state = state

    def save(self, step: int, history: list[dict[str, float]]) -> None:
        """Writes a checkpoint of this step."""
        self._step.assign(step)
        self._history.assign(json.dumps(history))
        self._manager.save(checkpoint_number=step)

    def restore(self) -> tuple[int, list[dict[str, float]]]:
        """Restores the newest whole checkpoint and returns its step and history; 0 and none where there is none.

        A process killed while it wrote leaves files that the `checkpoint` state file does not name: TensorFlow writes
        that file last, and replaces it in one rename.
        """
        newest = self._manager.latest_checkpoint
        if newest is None:
            return 0, []
        self._state.restore(newest).assert_consumed()
        return int(self._step.numpy()), json.loads(self._history.numpy().decode())


def train(
    job: TrainingJob,
    devices: Devices,
    train_split: Split,
    eval_split: Split | None,
    checkpoints: Path,
    logs: Path,
    say: Callable[[str], Any] = tqdm.write,
    initial: Sequence[np.ndarray] | None = None,
) -> TrainingResult:
    """Trains a network, or continues where a checkpoint says that an earlier process stopped.

    Every `log_every` steps, from step 0 on, and after the last step, it prints the accuracy and loss on the batch that
    comes next, without dropout, as the tutorial does. It writes a checkpoint every `checkpoint_every` steps.

    Args:
      job: the network and how it is trained.
      devices: what it is trained on.
      train_split: the training examples.
      eval_split: held-out examples to measure on every `job.training.eval_every` steps, if there are any.
      checkpoints: folder of this training's checkpoints, and of no other's.
      logs: folder for TensorBoard.
      say: prints a line.
      initial: weights to start from, in the order of the network's variables; None for the job's initialisers.

    Raises:
      TrainingDiverged: the loss became infinite or not a number.
      TrainingStopped: SIGTERM came.
    """
    training = job.training
    model, optimizer, saver = _prepare(job, devices, checkpoints)
    if initial is not None:
        export.set_weights(model, initial)
    first_step, history = saver.restore()
    if first_step:
        say(f"Continuing from the checkpoint at step {first_step}.")
    order = shuffled_order(len(train_split), training.batch_size, training.steps + 1, training.seed)
    shares = batches(train_split, order, first_step, devices.strategy.num_replicas_in_sync)
    iterator = iter(devices.strategy.distribute_datasets_from_function(lambda _: shares))
    run_steps = _compiled_steps(job, devices, model, optimizer)
    measure = _Measure(job, model, train_split, eval_split, order)
    stopped = threading.Event()
    started = time.perf_counter()
    with (
        _bar(first_step, training.steps) as bar,
        tf.summary.create_file_writer(str(logs)).as_default(),
        processes.on_stop(stopped.set),
    ):
        step = first_step
        while True:
            if step > first_step or not history:  # else the restored step was measured and saved before
                if _is_due(step, training.log_every, training):
                    history.append(measure(step))
                    say(_line(history[-1]))
                if _is_due(step, training.checkpoint_every, training) or stopped.is_set():
                    saver.save(step, history)
            if step == training.steps:
                return TrainingResult(model, first_step, time.perf_counter() - started, history)
            if stopped.is_set():
                raise TrainingStopped(f"Stopped at step {step}, with a checkpoint. Run again to continue from there.")
            count = _steps_to_next_event(step, training)
            loss = float(run_steps(iterator, tf.constant(count)))
            step += count
            bar.update(count)
            if not math.isfinite(loss):
                raise TrainingDiverged(_diverged(job, loss, step))


def _is_due(step: int, every: int, training: Training) -> bool:
    return step % every == 0 or step == training.steps


def _steps_to_next_event(step: int, training: Training) -> int:
    """Returns how many steps to take in one call: up to the next line, the next checkpoint or the end."""
    events = (training.log_every, training.checkpoint_every)
    return min(STEPS_PER_EXECUTION, training.steps - step, *(every - step % every for every in events))


def restore(job: TrainingJob, checkpoints: Path) -> tuple[keras.Model, int]:
    """Returns the network of a training's newest checkpoint, in float32, and its step: 0 where there is none."""
    devices = Devices(tf.distribute.get_strategy(), "float32", False, "CPU, float32")
    model, _, saver = _prepare(job, devices, checkpoints)
    step, _ = saver.restore()
    return model, step


def _prepare(job: TrainingJob, devices: Devices, checkpoints: Path) -> tuple[keras.Model, keras.Optimizer, Checkpoints]:
    with devices.strategy.scope():
        model = networks.build(job, devices.precision)
        optimizer = networks.optimizer(job)
        optimizer.build(model.trainable_variables)
        return model, optimizer, Checkpoints(checkpoints, model, optimizer, job.training.keep_checkpoints)


def _bar(first_step: int, steps: int) -> Any:
    """Returns a bar with steps a second and the time left, on standard output; nothing where that is no terminal."""
    return tqdm(
        total=steps,
        initial=first_step,
        desc="training",
        unit=" steps",
        leave=False,
        dynamic_ncols=True,
        file=sys.stdout,
        disable=None,
    )


class _Measure:
    """Accuracy and loss at a step, for the printed line, the run report and TensorBoard."""

    def __init__(
        self, job: TrainingJob, model: keras.Model, train_split: Split, eval_split: Split | None, order: np.ndarray
    ) -> None:
        self._training = job.training
        self._predict = predictor(model)
        self._train = train_split
        self._eval = eval_split
        self._order = order

    def __call__(self, step: int) -> dict[str, float]:
        batch = self._order[step]
        accuracy, loss = accuracy_and_loss(self._predict(self._train.images[batch]), self._train.labels[batch])
        entry = {"step": step, "accuracy": accuracy, "loss": loss}
        if self._eval and (step % self._training.eval_every == 0 or step == self._training.steps):
            entry["eval_accuracy"], entry["eval_loss"] = accuracy_and_loss(
                self._predict(self._eval.images), self._eval.labels
            )
        for name, value in entry.items():
            if name != "step":
                tf.summary.scalar(name, value, step)
        return entry


Predict = Callable[[np.ndarray], np.ndarray]


def predictor(model: keras.Model) -> Predict:
    """Returns a function from images, uint8 [N, height, width, channels], to probabilities, float32 [N, classes]."""
    forward = tf.function(
        lambda pixels: tf.nn.softmax(model(tf.cast(pixels, tf.float32), training=False)),
        input_signature=[tf.TensorSpec([None, *model.input_shape[1:]], tf.uint8)],
    )

    def predict(images: np.ndarray) -> np.ndarray:
        starts = range(0, len(images), PREDICT_BATCH)
        return np.concatenate([forward(images[start : start + PREDICT_BATCH]).numpy() for start in starts])

    return predict


def accuracy_and_loss(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Returns the accuracy, 0 to 1, and the mean cross-entropy, in nats, of probabilities [N, classes]."""
    accuracy = float(np.mean(scores.argmax(axis=1) == labels))
    likelihoods = scores[np.arange(len(labels)), labels]
    return accuracy, float(-np.mean(np.log(np.maximum(likelihoods, np.finfo(np.float32).tiny))))


def _compiled_steps(
    job: TrainingJob, devices: Devices, model: keras.Model, optimizer: keras.Optimizer
) -> Callable[..., Any]:
    """Returns a function of an iterator and a count that takes so many steps and returns the last one's loss."""
    variables = model.trainable_variables

    @tf.function(jit_compile=devices.xla)
    def gradients(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            logits = model(tf.cast(images, tf.float32), training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            # The mean over the whole batch: a replica has only its share, and the optimiser adds up their gradients.
            loss = tf.reduce_sum(losses) / job.training.batch_size
        return loss, tape.gradient(loss, variables)

    def replica_step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        loss, slopes = gradients(images, labels)
        optimizer.apply(slopes, variables)
        return loss

    @tf.function
    def run_steps(iterator: Iterator[Any], count: tf.Tensor) -> tf.Tensor:
        loss = tf.constant(0.0)
        for _ in tf.range(count):
            losses = devices.strategy.run(replica_step, next(iterator))
            loss = devices.strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)
        return loss

    return run_steps


def _line(entry: dict[str, float]) -> str:
    line = f"step {entry['step']}, training accuracy {entry['accuracy']:.4g}, loss {entry['loss']:.4g}"
    if "eval_accuracy" in entry:
        line += f", held-out accuracy {entry['eval_accuracy']:.4f}"
    return line


def _diverged(job: TrainingJob, loss: float, step: int) -> str:
    return (
        f"Training diverged: the loss was {loss} by step {step}. Lower training.learning_rate "
        f"(it is {job.training.learning_rate}), or try training.precision=float32. "
        "The checkpoints before it are kept."
    )
