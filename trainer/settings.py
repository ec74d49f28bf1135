"""What a training is: the network, and how its weights are found."""

import dataclasses
from typing import Annotated, Any, Literal

from pydantic import Field

from conveyor.settings import settings

Resize = Literal["squash", "crop", "pad"]
Background = Literal["white", "black"]
# What the trainer knows, for a network that has parameters of these names: of the training, and images of it.
FACTS = ("steps", "batch_size", "images")
CHANNELS = (1, 3, 4)  # grey, RGB, RGBA: the networks whose pictures can be decoded from files


@settings("network")
class NetworkSource:
    """The code that builds a network, and what it is given.

    Attributes:
      folder: where the code is.
      module: the module with the functions, such as `flowers` or `networks.resnet`.
      build: name of the function that returns the network; see `trainer.networks.build`.
      callbacks: name of the function that returns the callbacks of a training; empty for none.
      parameters: what `build` is given by name, besides what the trainer knows.
      digest: SHA-256 of all code and files that count for the network.
    """

    folder: str
    module: str
    build: str
    callbacks: str
    parameters: dict[str, Any]
    digest: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", {name: as_tuple(value) for name, value in self.parameters.items()})


def as_tuple(value: Any) -> Any:
    """Returns a list, with the lists in it, as a tuple; JSON knows lists alone. Anything else stays what it is."""
    return tuple(map(as_tuple, value)) if isinstance(value, list | tuple) else value


@settings("training")
class Training:
    """How long a network is trained, on how much at a time; its optimizer and loss are its own.

    Attributes:
      batch_size: examples in a step, over all devices of all workers.
      steps: optimizer steps in all.
      warm_steps: steps of a training that starts from the weights of the stable version; 0 to train from scratch.
      log_every: steps between two printed lines.
      checkpoint_every: steps between two checkpoints.
      eval_every: steps between two measurements on the `eval` split, where there is one.
      seed: seed of the initial weights, of the order of the examples, and of what is random in layers.
      precision: `auto` (bfloat16 where the processor or GPU is faster in it, else float32), `float32` or
        `mixed_bfloat16`. Variables are float32 in each, and so is the exported model.
      keep_checkpoints: how many checkpoints are kept.
      workers: processes that train together: on this machine, at most one a processor; on a Ray cluster where
        `$RAY_ADDRESS` names one; or as many as `$TF_CONFIG` tells of.
    """

    batch_size: Annotated[int, Field(ge=1)]
    steps: Annotated[int, Field(ge=1)]
    warm_steps: Annotated[int, Field(ge=0)] = 0
    log_every: Annotated[int, Field(ge=1)] = 100
    checkpoint_every: Annotated[int, Field(ge=1)] = 100
    eval_every: Annotated[int, Field(ge=1)] = 500
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 2019
    precision: Literal["auto", "float32", "mixed_bfloat16"] = "auto"
    keep_checkpoints: Annotated[int, Field(ge=1)] = 3
    workers: Annotated[int, Field(ge=1)] = 1


@settings("pictures")
class Pictures:
    """What a network's images are, and how a picture file becomes one; see `trainer.pictures`.

    Attributes:
      shape: height, width and channels of an image, in pixels.
      resize: how a picture of another size is brought to that: `squash`, whatever its aspect ratio is; `crop`, its
        middle; `pad`, the whole of it, with the background around it.
      background: the colour of what is transparent, and of what is padded: `white` or `black`.
      encoded: whether tf.Examples hold picture files, as `image/encoded`; else pixels, as `image`.
    """

    shape: tuple[int, int, int]
    resize: Resize = "squash"
    background: Background = "white"
    encoded: bool = False


@settings("training job")
class TrainingJob:
    """One network to train: all that determines its weights, but for the examples.

    Attributes:
      pictures: the images.
      classes: class names, in the order of their labels.
      network: the code of the network.
      training: how long it is trained.
    """

    pictures: Pictures
    classes: tuple[str, ...]
    network: NetworkSource
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
      model: folder for the SavedModel; None for a trial, of which only its history is wanted.
      run: folder for everything else: TensorBoard's logs, history.json, summary.json, test_scores.npy, kernels.npy.
    """

    job: TrainingJob
    examples: str
    train: tuple[str, ...]
    spans: dict[str, str]
    initial: str | None
    checkpoints: str
    model: str | None
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
