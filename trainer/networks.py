"""The tutorial's two convolutional networks."""

import itertools
from collections.abc import Callable

import keras
import numpy as np
from keras import layers

from trainer.settings import Network, TrainingJob

Layers = list[layers.Layer]


def build(job: TrainingJob, precision: str) -> keras.Model:
    """Returns a new network with freshly drawn weights.

    Args:
      job: names the network and gives its input shape, classes and seed; the same job gives the same weights.
      precision: `float32`, or `mixed_bfloat16` for bfloat16 arithmetic on float32 variables.

    Returns:
      A model from raw pixels, float32 [N, height, width, channels] in 0 to 255, to logits, float32 [N, classes].

    Example:
      >>> from pipeline.experiments import load
      >>> build(load("mnist").training_job(), "float32").count_params()
      3274634
    """
    body = _NETWORKS[job.network.name](job.network, job.training.seed, len(job.classes))
    policy = keras.DTypePolicy(precision)
    inputs = keras.Input(job.shape, name="pixels", dtype="float32")
    outputs = layers.Rescaling(job.network.input_scale, dtype=policy)(inputs)
    for layer in body:
        layer.dtype_policy = policy
        outputs = layer(outputs)
    outputs = layers.Activation("linear", dtype="float32", name="logits")(outputs)
    return keras.Model(inputs, outputs, name=job.network.name)


def _mnist_tutorial(network: Network, seed: int, classes: int) -> Layers:
    conv, dense = _weighted(network, seed)
    return [
        conv(32, 5),
        layers.MaxPooling2D(2, strides=2, padding="same"),
        conv(64, 5),
        layers.MaxPooling2D(2, strides=2, padding="same"),
        layers.Flatten(),
        dense(1024, "relu"),
        *_dropout(network, seed),
        dense(classes, None),
    ]


def _cifar10_tutorial(network: Network, seed: int, classes: int) -> Layers:
    conv, dense = _weighted(network, seed)
    return [
        conv(64, 5),
        layers.MaxPooling2D(3, strides=2, padding="same"),
        conv(64, 5),
        layers.MaxPooling2D(3, strides=2, padding="same"),
        conv(128, 3),
        conv(128, 3),
        conv(128, 3),
        layers.Flatten(),
        dense(384, "relu"),
        *_dropout(network, seed),
        dense(classes, None),
    ]


_NETWORKS: dict[str, Callable[[Network, int, int], Layers]] = {
    "mnist_tutorial": _mnist_tutorial,
    "cifar10_tutorial": _cifar10_tutorial,
}


def _weighted(network: Network, seed: int) -> tuple[Callable[..., layers.Layer], Callable[..., layers.Layer]]:
    """Returns the makers of convolutions and of dense layers, each with its own seed and the network's initialisers."""
    seeds = itertools.count(seed)

    def initializers() -> dict[str, keras.Initializer]:
        return {
            "kernel_initializer": keras.initializers.TruncatedNormal(0.0, network.initial_stddev, seed=next(seeds)),
            "bias_initializer": keras.initializers.Constant(network.initial_bias),
        }

    def conv(filters: int, size: int) -> layers.Layer:
        return layers.Conv2D(filters, size, padding="same", activation="relu", **initializers())

    def dense(units: int, activation: str | None) -> layers.Layer:
        return layers.Dense(units, activation=activation, **initializers())

    return conv, dense


def _dropout(network: Network, seed: int) -> Layers:
    return [layers.Dropout(network.dropout, seed=seed)] if network.dropout else []


def optimizer(job: TrainingJob) -> keras.Optimizer:
    """Returns the job's optimizer with TensorFlow 1's defaults, which the tutorial trained with.

    Keras's own epsilon is 1e-7; TensorFlow 1 had 1e-8 for Adam and 1e-10 for RMSProp.
    """
    rate = job.training.learning_rate
    if job.training.optimizer == "adam":
        return keras.optimizers.Adam(rate, epsilon=1e-8)
    return TutorialRMSprop(rate, rho=0.9, epsilon=1e-10)


class TutorialRMSprop(keras.optimizers.RMSprop):
    """RMSProp as in TensorFlow 1: the running mean of squared gradients starts at 1, and not at 0 as in Keras."""

    def build(self, var_list: list[keras.Variable]) -> None:
        """Makes the optimizer's variables, with their starting values."""
        if self.built:
            return
        super().build(var_list)
        for velocity in self._velocities:
            velocity.assign(keras.ops.ones_like(velocity))


def first_kernels(model: keras.Model) -> np.ndarray:
    """Returns the first convolution's weights: float32 [height, width, input channels, filters]."""
    first = next(layer for layer in model.layers if isinstance(layer, layers.Conv2D))
    return keras.ops.convert_to_numpy(first.kernel)
