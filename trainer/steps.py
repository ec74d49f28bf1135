"""Takes training's steps: the compiled loop over batches, with XLA where that compiles the network."""

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from trainer import networks
from trainer.devices import Devices
from trainer.examples import ShuffledOrder, Split, batches
from trainer.settings import TrainingJob

COMPILED_FROM = 500  # steps of a training whose optimizer is compiled by XLA


class Steps:
    """Takes steps, from a first one on: the compiled loop, and the batches that it goes through.

    XLA does not compile every network, and often says so only when it is to: then the first step is taken anew
    without it.
    """

    def __init__(
        self,
        job: TrainingJob,
        devices: Devices,
        model: keras.Model,
        train_split: Split,
        order: ShuffledOrder,
        first_step: int,
        say: Callable[[str], Any],
    ) -> None:
        strategy, replicas = devices.strategy, devices.strategy.num_replicas_in_sync
        _check_spread(model, replicas)

        def shares(worker: tf.distribute.InputContext) -> tf.data.Dataset:
            local = replicas // worker.num_input_pipelines
            first = worker.input_pipeline_id * local
            return batches(train_split, order, first_step, replicas, range(first, first + local))

        self._new_iterator = lambda: iter(strategy.distribute_datasets_from_function(shares))
        self._new_loop = functools.partial(_compiled_loop, job, devices, model, _update(job, devices, model, say))
        layers = uncompilable(model)
        if devices.xla and layers:
            say(f"XLA compiles no step of this network: it has {', '.join(layers)}.")
        self._iterator, self._loop = self._new_iterator(), self._new_loop(xla=devices.xla and not layers)
        self._say = say
        self._to_restore = [*model.variables, *model.optimizer.variables] if devices.xla and not layers else []

    def take(self, count: int) -> float:
        """Takes so many steps, and returns the last one's loss."""
        to_restore, self._to_restore = self._to_restore, []
        before = [variable.numpy() for variable in to_restore]
        try:
            return float(self._loop(self._iterator, tf.constant(count)))
        except tf.errors.ResourceExhaustedError:  # which tells of XLA's buffers too
            raise
        except tf.errors.OpError as error:
            refusal = _refusal(error) if to_restore else None
            if refusal is None:
                raise
        for variable, value in zip(to_restore, before, strict=True):  # some, such as the step's number, have moved
            variable.assign(value)
        self._iterator, self._loop = self._new_iterator(), self._new_loop(xla=False)
        loss = float(self._loop(self._iterator, tf.constant(count)))
        self._say(f"XLA compiles no step of this network: {refusal}")
        return loss


def _check_spread(model: keras.Model, replicas: int) -> None:
    """Refuses what several devices would do each with its own share of the gradients, where one does it with all.

    Raises:
      NetworkError: the optimizer clips or accumulates gradients.
    """
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    names = ("clipnorm", "global_clipnorm", "clipvalue", "gradient_accumulation_steps")
    if replicas > 1 and (set_ones := [name for name in names if getattr(optimizer, name, None)]):
        raise networks.NetworkError(
            f"The optimizer has {', '.join(set_ones)}, which is not the same on {replicas} devices as on one: each "
            "would do it with its own share of the gradients. Leave it out, or train on one device with one worker."
        )


def _loss_scale(job: TrainingJob, devices: Devices, model: keras.Model) -> float:
    """Returns what the loss of a replica is multiplied by, so that the replicas' gradients add up to those of one.

    Keras's losses are divided by the number of replicas; a `compute_loss` of one's own may not be.

    Raises:
      NetworkError: a `compute_loss` of one's own does neither.
    """
    replicas = devices.strategy.num_replicas_in_sync
    if replicas == 1 or not networks.has_own_loss(model):
        return 1.0

    @tf.function(autograph=False)
    def spread() -> Any:
        return devices.strategy.run(lambda: networks.tried_loss(model, job))

    inside, outside = devices.strategy.experimental_local_results(spread())[0], networks.tried_loss(model, job)
    for scale, expected in ((1.0, outside / replicas), (1 / replicas, outside)):
        if abs(float(inside - expected)) <= 1e-4 * abs(float(expected)):
            return scale
    raise networks.NetworkError(
        f"The model's own compute_loss is {float(outside):.4g} on one device and {float(inside):.4g} on each of "
        f"{replicas}, for the same images: its gradients would not add up to those of one."
    )


def _refusal(error: tf.errors.OpError) -> str | None:
    """Returns what XLA says where it does not compile, without where in the graph it arose; None of other failures."""
    lines = [re.sub(r"\(\d+\) [A-Z_]+: *|\{\{.*?\}\}", "", line).strip() for line in error.message.splitlines()]
    return next((line for line in lines if re.search("XLA|tf2xla|libdevice", line)), None)


def _update(
    job: TrainingJob, devices: Devices, model: keras.Model, say: Callable[[str], Any]
) -> Callable[[list[tf.Tensor]], None]:
    """Returns a function of gradients that moves the weights."""
    variables = model.trainable_variables

    def update(slopes: list[tf.Tensor]) -> None:
        model.optimizer.apply(slopes, variables)

    if devices.is_one_cpu and job.training.steps >= COMPILED_FROM:
        # One pass over a weight and its averages, in place of an optimizer's many. It takes a second to compile.
        compiled = tf.function(update, jit_compile=True, autograph=False)
        try:
            compiled.experimental_get_compiler_ir([tf.zeros_like(variable) for variable in variables])("hlo")
            update = compiled
        except ValueError:
            say(f"XLA does not compile the optimizer, {type(model.optimizer).__name__}: its steps may take longer.")
    return update


def _compiled_loop(
    job: TrainingJob, devices: Devices, model: keras.Model, update: Callable[[list[tf.Tensor]], None], *, xla: bool
) -> Callable[..., tf.Tensor]:
    """Returns a function of an iterator and a count that takes so many steps and returns the last one's loss."""
    variables = model.trainable_variables
    by_number, replicas = networks.takes_class_numbers(model), devices.strategy.num_replicas_in_sync
    whole = job.training.batch_size / _loss_scale(job, devices, model)

    @tf.function(jit_compile=xla, autograph=False)
    def gradients(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            pixels = tf.cast(images, tf.float32)
            logits = tf.cast(model(pixels, training=True), tf.float32)
            targets = labels if by_number else tf.one_hot(labels, len(job.classes))
            # The mean over the whole batch: Keras divides by the number of replicas, whose gradients the optimiser adds
            # up, and which have shares that may differ by one image.
            share = tf.cast(tf.shape(images)[0] * replicas, tf.float32) / whole
            loss = model.compute_loss(pixels, targets, logits) * share
            scaled = model.optimizer.scale_loss(loss)
        return loss, tape.gradient(scaled, variables)

    @tf.autograph.experimental.do_not_convert
    def replica_step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        loss, slopes = gradients(images, labels)
        update(slopes)
        return loss

    @tf.function
    def run_steps(iterator: Iterator[Any], count: tf.Tensor) -> tf.Tensor:
        loss = tf.constant(0.0)
        for _ in tf.range(count):
            losses = devices.strategy.run(replica_step, next(iterator))
            loss = devices.strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)
        return loss

    return run_steps


def uncompilable(model: keras.Model) -> list[str]:
    """Returns the layers of a network that XLA cannot compile, such as random rotations."""
    return [layer.name for layer in model._flatten_layers() if not getattr(layer, "supports_jit", True)]
