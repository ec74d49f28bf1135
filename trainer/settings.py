"""What a training is: the network and how its weights are found."""

import dataclasses
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class Network:
    """A convolutional network, by its name in `trainer.networks`.

    Attributes:
      name: `mnist_tutorial` or `cifar10_tutorial`.
      input_scale: what a raw pixel, 0 to 255, is multiplied by before the first layer: 1/255 gives [0, 1].
      initial_stddev: standard deviation of the truncated normal that weights start from.
      initial_bias: what every bias starts from.
      dropout: share of the last hidden layer's units dropped in training; 0 for none.
    """

    name: Literal["mnist_tutorial", "cifar10_tutorial"]
    input_scale: float
    initial_stddev: float = 0.05
    initial_bias: float = 0.1
    dropout: float = 0.0


@dataclasses.dataclass(frozen=True)
class Training:
    """How a network is trained.

    Attributes:
      optimizer: `adam` or `rmsprop`.
      learning_rate: the optimiser's step size.
      batch_size: examples in a step, over all devices.
      steps: optimiser steps in all.
      warm_steps: steps of a training that starts from the weights of the model that serves; 0 to start anew each time.
      log_every: steps between two printed lines, and two checkpoints.
      eval_every: steps between two measurements on the `eval` split, where there is one.
      seed: of the initial weights, of the order of the examples and of dropout.
      precision: `auto` (bfloat16 where the processor or GPU computes in it, else float32), `float32` or
        `mixed_bfloat16`. Variables are float32 in each, and so is the exported model.
      keep_checkpoints: how many checkpoints are kept.
    """

    optimizer: Literal["adam", "rmsprop"]
    learning_rate: float
    batch_size: int
    steps: int
    warm_steps: int = 0
    log_every: int = 100
    eval_every: int = 500
    seed: int = 2019
    precision: Literal["auto", "float32", "mixed_bfloat16"] = "auto"
    keep_checkpoints: int = 3


@dataclasses.dataclass(frozen=True)
class Job:
    """One network to train: all that the trainer must know, but for the examples.

    Attributes:
      shape: height, width and channels of an image, in pixels.
      classes: class names, in the order of their labels.
      network: the network.
      training: how it is trained.
    """

    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    network: Network
    training: Training

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Job":
        """Returns the job that `dataclasses.asdict`, by way of JSON, made the fields of."""
        height, width, channels = fields["shape"]
        return cls(
            shape=(height, width, channels),
            classes=tuple(fields["classes"]),
            network=Network(**fields["network"]),
            training=Training(**fields["training"]),
        )
