"""What a training is: the network, and how its weights are found."""

import dataclasses
from typing import Annotated, Literal

from pydantic import Field

from conveyor.settings import PartialShare, settings

Resize = Literal["squash", "crop", "pad"]
Background = Literal["white", "black"]
CHANNELS = (1, 3, 4)  # grey, RGB, RGBA: the networks whose pictures can be decoded from files


@settings("network")
class Network:
    """A convolutional network, by its name in `trainer.networks`.

    Attributes:
      name: `mnist_tutorial` or `cifar10_tutorial`.
      input_scale: factor for a raw pixel, 0 to 255, before the first layer: 1/255 gives [0, 1].
      initial_stddev: standard deviation of the truncated normal distribution that the weights are drawn from.
      initial_bias: initial value of every bias.
      dropout: share of the last hidden layer's units dropped in training; 0 for none.
    """

    name: Literal["mnist_tutorial", "cifar10_tutorial"]
    input_scale: Annotated[float, Field(gt=0)]
    initial_stddev: Annotated[float, Field(gt=0)] = 0.05
    initial_bias: float = 0.1
    dropout: PartialShare = 0.0


@settings("training")
class Training:
    """How a network is trained.

    Attributes:
      optimizer: `adam` or `rmsprop`.
      learning_rate: the optimizer's step size.
      batch_size: examples in a step, over all devices.
      steps: optimizer steps in all.
      warm_steps: steps of a training that starts from the weights of the stable version; 0 to train from scratch.
      log_every: steps between two printed lines.
      checkpoint_every: steps between two checkpoints.
      eval_every: steps between two measurements on the `eval` split, where there is one.
      seed: seed of the initial weights, of the order of the examples and of dropout.
      precision: `auto` (bfloat16 where the processor or GPU computes in it, else float32), `float32` or
        `mixed_bfloat16`. Variables are float32 in each, and so is the exported model.
      keep_checkpoints: how many checkpoints are kept.
    """

    optimizer: Literal["adam", "rmsprop"]
    learning_rate: Annotated[float, Field(gt=0)]
    batch_size: Annotated[int, Field(ge=1)]
    steps: Annotated[int, Field(ge=1)]
    warm_steps: Annotated[int, Field(ge=0)] = 0
    log_every: Annotated[int, Field(ge=1)] = 100
    checkpoint_every: Annotated[int, Field(ge=1)] = 100
    eval_every: Annotated[int, Field(ge=1)] = 500
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 2019
    precision: Literal["auto", "float32", "mixed_bfloat16"] = "auto"
    keep_checkpoints: Annotated[int, Field(ge=1)] = 3


@settings("pictures")
class Pictures:
    """What a network's images are, and how a picture file becomes one; see `trainer.pictures`.

    Attributes:
      shape: height, width and channels of an image, in pixels.
      resize: how a picture of another size is brought to that: `squash`, whatever its aspect ratio is; `crop`, its
        middle; `pad`, the whole of it, with the background around it.
      background: the colour of what is transparent, and of what is padded: `white` or `black`.
    """

    shape: tuple[int, int, int]
    resize: Resize = "squash"
    background: Background = "white"


@settings("training job")
class TrainingJob:
    """One network to train: all that determines its weights, but for the examples.

    Attributes:
      pictures: the images.
      classes: class names, in the order of their labels.
      network: the network.
      training: how it is trained.
    """

    pictures: Pictures
    classes: tuple[str, ...]
    network: Network
    training: Training

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image, in pixels."""
        return self.pictures.shape


SPEC = "spec.json"  # the specification's file, in its folder `run`


@settings("training specification")
class TrainingSpec:
    """The input of the trainer's process: a job, and the folders that it reads and writes.

    Attributes:
      job: what is trained.
      examples: folder of the base files' splits: `Split-test/`, `Split-train/` and perhaps `Split-eval/`.
      train: folders of the parts to train on, each with its own `Split-train/`.
      spans: folders of spans by their names; what they hold out, `Split-eval/`, is measured by itself.
      initial: folder of a SavedModel whose weights the training starts from; None to train from scratch.
      checkpoints: folder of this training's checkpoints, and of no other's.
      model: folder for the SavedModel.
      run: folder for everything else: TensorBoard's logs, history.json, summary.json, test_scores.npy, kernels.npy.
    """

    job: TrainingJob
    examples: str
    train: tuple[str, ...]
    spans: dict[str, str]
    initial: str | None
    checkpoints: str
    model: str
    run: str


@dataclasses.dataclass(frozen=True)
class TrainingSummary:
    """What the trainer's process reports in summary.json.

    Attributes:
      device: what it trained on, in words.
      precision: `float32` or `mixed_bfloat16`.
      resumed_from: the step of the checkpoint that it continued from; 0 where there was none.
      seconds: how long it trained.
      steps: steps in all.
      test_accuracy: accuracy on the test split, 0 to 1.
      held_out: `accuracy` and number of `examples` of what each span holds out, by the span's name.
    """

    device: str
    precision: str
    resumed_from: int
    seconds: float
    steps: int
    test_accuracy: float
    held_out: dict[str, dict[str, float]]
