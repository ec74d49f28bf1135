"""Trains a network: blocks of steps between two lines, checkpoints that a killed run continues from."""

import contextlib
import dataclasses
import functools
import json
import math
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from conveyor import processes
from conveyor.errors import ConfigError, ConveyorError, ExitCode
from trainer import export, networks
from trainer.devices import Devices
from trainer.examples import Images, ShuffledOrder, Split
from trainer.records import changes_told
from trainer.settings import Training, TrainingJob
from trainer.steps import Steps

STEPS_PER_EXECUTION = 10  # in one call of the compiled loop: few calls into Python, and a bar that still moves
PREDICT_BATCH = 500
FITTED = 2000  # training images that layers may be fitted to
FLOAT_BYTES = 2**28  # of images that are in memory at once, besides batches
PROVEN_FROM = 500  # steps of a training that is worth to be proved not to be in vain


class TrainingDiverged(ConveyorError):
    """The loss is not a number any more, and no further step can mend it."""


class OtherCheckpoints(ConveyorError):
    """Workers of a training do not see the same checkpoints."""


class TrainingStopped(ConveyorError):
    """The training was asked to stop, and wrote a checkpoint to continue from."""

    exit_code = ExitCode.INTERRUPTED


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """The outcome of a training.

    Attributes:
      model: the network, with its final weights.
      steps: how many steps were taken in all; a callback may have ended the training early.
      resumed_from: the step that a checkpoint allowed to continue from; 0 where there was none.
      seconds: how long this process trained.
      history: what was printed: one dict a line, with `step`, `accuracy`, `loss` and, at times, `eval_accuracy`.
      proven: whether `prove` was called, and could say.
    """

    model: keras.Model
    steps: int
    resumed_from: int
    seconds: float
    history: list[dict[str, float]]
    proven: bool


class Checkpoints:
    """A training's state on disk, in TensorFlow's format with its `checkpoint` state file."""

    def __init__(self, folder: Path, model: keras.Model, keep: int) -> None:
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._history = tf.Variable("[]", trainable=False)
        variables = [variable.value for variable in [*model.variables, *model.optimizer.variables]]
        state = tf.train.Checkpoint(step=self._step, history=self._history, variables=variables)
        self._manager = tf.train.CheckpointManager(state, str(folder), max_to_keep=keep)
        self._state, self._model = state, model

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
        networks.derive(self._model)
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
    prove: Callable[[keras.Model], bool] | None = None,
) -> TrainingResult:
    """Trains a network, or continues where a checkpoint says that an earlier process stopped.

    Every `log_every` steps, from step 0 on, and after the last step, it prints the accuracy and loss on the batch that
    comes next, without dropout, as the tutorial does. It writes a checkpoint every `checkpoint_every` steps. To the
    network's callbacks, `eval_every` steps are an epoch; they begin anew where a training is continued.

    Of several workers, each takes its share of every batch, and does all else as the others do; the chief alone says
    and writes it, and hears SIGTERM.

    Args:
      job: the network and how it is trained.
      devices: what it is trained on.
      train_split: the training examples.
      eval_split: held-out examples to measure on every `job.training.eval_every` steps, if there are any.
      checkpoints: folder of this training's checkpoints, and of no other's.
      logs: folder for TensorBoard.
      say: prints a line.
      initial: weights to start from, in the order of the network's variables; None for the network's initialisers.
      prove: called with the network after the first step of a training of `PROVEN_FROM` or more: always then, as it may
        draw random numbers. It raises where more training is no use, and returns whether it could say.

    Raises:
      ConfigError: there are more devices than images in a batch.
      NetworkError: the network cannot be built.
      ExamplesChanged: a file of examples is not what it was.
      OtherCheckpoints: the workers' folders of checkpoints are not the same.
      TrainingDiverged: the loss became infinite or not a number.
      TrainingStopped: SIGTERM came.
    """
    training = job.training
    if training.batch_size < devices.strategy.num_replicas_in_sync:
        raise ConfigError(
            f"training.batch_size is {training.batch_size}, and {devices.strategy.num_replicas_in_sync} devices are to "
            "share it: each needs an image of it."
        )
    model, saver = _prepare(job, devices, checkpoints, functools.partial(_sample, train_split, job))
    if initial is not None:
        export.set_weights(model, initial)
    first_step, history = saver.restore()
    if not devices.agree_on(first_step):
        raise OtherCheckpoints(
            f"The workers do not see the same checkpoints in {checkpoints}: it must be on a file system that all share."
        )
    say = say if devices.is_chief else _say_nothing
    if first_step:
        say(f"Continuing from the checkpoint at step {first_step}.")
    order = ShuffledOrder(len(train_split), training.batch_size, training.steps + 1, training.seed)
    steps = Steps(job, devices, model, train_split, order, first_step, say)
    measure = _Measure(job, devices, model, train_split, eval_split, order)
    callbacks = Callbacks(job, devices, model)
    stopped = threading.Event()
    proven, started = False, time.perf_counter()
    writer = tf.summary.create_file_writer(str(logs)).as_default() if devices.is_chief else contextlib.nullcontext()
    with (
        _bar(first_step, training.steps, shown=devices.is_chief) as bar,
        writer,
        processes.on_stop(stopped.set if devices.is_chief else _do_nothing),
    ):
        step, ends = first_step, bool(history) and "ended" in history[-1]
        if not ends:
            callbacks.begin(first_step)
        while not ends:
            if step > first_step or not history:  # else the restored step was measured and saved before
                ends = step == training.steps or callbacks.ask_for_the_end
                if ends or any(step % every == 0 for every in (training.log_every, training.eval_every)):
                    history.append(measure(step, ends))
                    asked, ends = ends, callbacks.measured(history[-1], ends) or ends
                    if ends:
                        model.optimizer.finalize_variable_values(model.trainable_variables)
                        callbacks.end()
                        may_differ = model.optimizer.use_ema or callbacks.are_there  # the weights, from before
                        if may_differ or not asked:
                            history[-1] = measure(step, ends)
                        history[-1]["ended"] = 1
                    say(_line(history[-1]))
                if devices.is_chief and (ends or step % training.checkpoint_every == 0 or stopped.is_set()):
                    saver.save(step, history)
            if ends:
                break
            if stopped.is_set():
                raise TrainingStopped(f"Stopped at step {step}, with a checkpoint. Run again to continue from there.")
            proves = prove and step == 0 and training.steps >= PROVEN_FROM
            count = 1 if proves else _steps_to_next_event(step, training)
            with changes_told():
                loss = steps.take(count)
            step += count
            bar.update(count)
            if not math.isfinite(loss):
                raise TrainingDiverged(_diverged(loss, step))
            if prove and proves:
                proven = prove(model)
            callbacks.trained(step, count, loss)
    return TrainingResult(model, step, first_step, time.perf_counter() - started, history, proven)


def _say_nothing(line: str) -> None:
    """Leaves it to the chief."""


def _do_nothing() -> None:
    """Leaves it to the chief, without whom this worker ends."""


def _steps_to_next_event(step: int, training: Training) -> int:
    """Returns how many steps to take in one call: up to the next line, the next checkpoint or the end."""
    events = (training.log_every, training.eval_every, training.checkpoint_every)
    return min(STEPS_PER_EXECUTION, training.steps - step, *(every - step % every for every in events))


def restore(job: TrainingJob, checkpoints: Path) -> tuple[keras.Model, int]:
    """Returns the network of a training's newest checkpoint, in float32, and its step: 0 where there is none."""
    devices = Devices(tf.distribute.get_strategy(), "float32", False, "CPU, float32")
    model, saver = _prepare(job, devices, checkpoints)
    step, _ = saver.restore()
    return model, step


def _prepare(
    job: TrainingJob, devices: Devices, checkpoints: Path, images: Callable[[], np.ndarray] | None = None
) -> tuple[keras.Model, Checkpoints]:
    with devices.strategy.scope():
        model = networks.build(job, devices.precision, images)
        model.optimizer.build(model.trainable_variables)
    return model, Checkpoints(checkpoints, model, job.training.keep_checkpoints)


def _sample(split: Split, job: TrainingJob) -> np.ndarray:
    """Returns images of a training, drawn at random, for layers that are fitted to them."""
    count = min(len(split), FITTED, _at_once(job.shape))
    return split.images[np.sort(np.random.default_rng(job.training.seed).permutation(len(split))[:count])]


def _at_once(shape: tuple[int, int, int]) -> int:
    """Returns how many images may be in memory as floats."""
    return max(1, FLOAT_BYTES // (4 * math.prod(shape)))


def _bar(first_step: int, steps: int, *, shown: bool) -> Any:
    """Returns a bar with steps a second and the time left, on standard output; nothing where that is no terminal."""
    return tqdm(
        total=steps,
        initial=first_step,
        desc="training",
        unit=" steps",
        leave=False,
        dynamic_ncols=True,
        file=sys.stdout,
        disable=None if shown else True,
    )


class Callbacks:
    """A network's callbacks, which hear of a training much as they would of `model.fit`.

    To them, a batch is what one call of the compiled loop takes, and an epoch lies between two measurements on `eval`.
    `loss` and `accuracy` are those of the batch that comes next, `val_loss` is the cross-entropy.
    """

    def __init__(self, job: TrainingJob, devices: Devices, model: keras.Model) -> None:
        self._every = job.training.eval_every
        self._devices = devices
        self._model = model
        model.stop_training = False
        self._list = keras.callbacks.CallbackList(
            networks.callbacks(job.network),
            model=model,
            epochs=math.ceil(job.training.steps / self._every),
            steps=self._every,
            verbose=0,
        )

    @property
    def are_there(self) -> bool:
        """Whether there are any."""
        return bool(self._list.callbacks)

    @property
    def ask_for_the_end(self) -> bool:
        """Whether a callback has stopped the training: of several workers', the chief's."""
        return self.are_there and bool(self._devices.of_chief([self._model.stop_training])[0])

    def begin(self, step: int) -> None:
        """Tells of the beginning, or that a training is continued from a step."""
        self._list.on_train_begin()
        self._list.on_epoch_begin(step // self._every)

    def trained(self, step: int, count: int, loss: float) -> None:
        """Tells of steps that were taken, so many in one call."""
        self._list.on_train_batch_begin(step - count)
        self._list.on_train_batch_end(step - 1, {"loss": loss})

    def measured(self, entry: dict[str, float], ends: bool) -> bool:
        """Tells of a measurement, where it ends an epoch; returns whether a callback wants the training to end.

        Of several workers, each has callbacks of its own; they hear of the chief's measurement, and the chief's
        learning rate and end are those of all.
        """
        step = int(entry["step"])
        if step and (ends or step % self._every == 0):
            logs = {name.replace("eval_", "val_"): value for name, value in entry.items() if name != "step"}
            self._list.on_epoch_end(math.ceil(step / self._every) - 1, logs)
            if not ends and not self._model.stop_training:
                self._list.on_epoch_begin(step // self._every)
            optimizer = self._model.optimizer
            if self.are_there and isinstance(optimizer._learning_rate, keras.Variable):  # else it follows the steps
                (rate,) = self._devices.of_chief([float(keras.ops.convert_to_numpy(optimizer.learning_rate))])
                optimizer.learning_rate = rate
        return self.ask_for_the_end

    def end(self) -> None:
        """Tells of the end."""
        self._list.on_train_end()


class _Measure:
    """Accuracy and loss at a step, for the printed line, the run report and TensorBoard."""

    def __init__(
        self,
        job: TrainingJob,
        devices: Devices,
        model: keras.Model,
        train_split: Split,
        eval_split: Split | None,
        order: ShuffledOrder,
    ) -> None:
        self._training = job.training
        self._devices = devices
        self._predict = predictor(model, job.shape)
        self._train = train_split
        self._eval = eval_split
        self._order = order

    def __call__(self, step: int, ends: bool) -> dict[str, float]:
        batch = self._order[step]
        accuracy, loss = accuracy_and_loss(self._predict(self._train.images[batch]), self._train.labels[batch])
        found = {"accuracy": accuracy, "loss": loss}
        if self._eval and (ends or step % self._training.eval_every == 0):
            found["eval_accuracy"], found["eval_loss"] = accuracy_and_loss(
                self._predict(self._eval.images), self._eval.labels
            )
        found = dict(zip(found, self._devices.of_chief([*found.values()]), strict=True))
        for name, value in found.items():
            tf.summary.scalar(name, value, step)
        return {"step": step, **found}


Predict = Callable[[Images], np.ndarray]


def predictor(model: keras.Model, shape: tuple[int, int, int]) -> Predict:
    """Returns a function from images, uint8 [N, height, width, channels], to probabilities, float32 [N, classes]."""
    forward = tf.function(
        lambda pixels: tf.nn.softmax(tf.cast(model(tf.cast(pixels, tf.float32), training=False), tf.float32)),
        input_signature=[tf.TensorSpec([None, *shape], tf.uint8)],
        autograph=False,
    )

    batch = min(PREDICT_BATCH, _at_once(shape))

    def predict(images: Images) -> np.ndarray:
        starts = range(0, len(images), batch)
        return np.concatenate([forward(images[start : start + batch]).numpy() for start in starts])

    return predict


def accuracy_and_loss(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Returns the accuracy, 0 to 1, and the mean cross-entropy, in nats, of probabilities [N, classes]."""
    accuracy = float(np.mean(scores.argmax(axis=1) == labels))
    likelihoods = scores[np.arange(len(labels)), labels]
    return accuracy, float(-np.mean(np.log(np.maximum(likelihoods, np.finfo(np.float32).tiny))))


def _line(entry: dict[str, float]) -> str:
    line = f"step {entry['step']}, training accuracy {entry['accuracy']:.4g}, loss {entry['loss']:.4g}"
    if "eval_accuracy" in entry:
        line += f", held-out accuracy {entry['eval_accuracy']:.4f}"
    return line


def _diverged(loss: float, step: int) -> str:
    return (
        f"Training diverged: the loss was {loss} by step {step}. Lower the learning rate, or try "
        "training.precision=float32. The checkpoints before it are kept."
    )
