"""What a data set is, and which of its spans are trained on."""

import math
from typing import Annotated, Literal

from pydantic import Field

from conveyor.errors import ConfigError
from conveyor.settings import Name, PartialShare, settings
from trainer.settings import Background, Pictures, Resize

MAX_IMAGE_SIZE = 2**26  # values: height times width times channels
Lenient = Field(strict=False)  # a list is taken for a tuple


@settings("dataset.splits")
class NamedSplits:
    """Splits that the files themselves have.

    Attributes:
      train: glob pattern of the training files, below the input folder.
      test: glob pattern of the test files.
      eval_examples: how many training examples are held out as the split `eval`: the first ones of IDX and CIFAR-10
        files; of class folders, each class's share of them, chosen by a hash of the files' content.
      eval: glob pattern of files that are the split `eval`, where it has files of its own.
    """

    train: str
    test: str
    eval_examples: Annotated[int, Field(ge=0)] = 0
    eval: str | None = None

    def __post_init__(self) -> None:
        if self.eval is not None and self.eval_examples:
            raise ConfigError("dataset.splits: eval_examples is for data whose split eval has no files of its own.")

    @property
    def patterns(self) -> dict[str, str]:
        """The glob pattern of each split's files."""
        own = {} if self.eval is None else {"eval": self.eval}
        return {"train": self.train, **own, "test": self.test}


@settings("dataset.splits")
class HashedSplits:
    """Splits of files that have none: a hash of each image's content decides.

    Attributes:
      files: glob pattern of the files, below the input folder.
      eval_share: share of the images held out of training as the split `eval`, from 0 to 1.
      test_share: share of the images in the split `test`, from 0 to 1.
    """

    files: str = "*/*"
    eval_share: PartialShare = 0.1
    test_share: PartialShare = 0.1

    def __post_init__(self) -> None:
        if self.eval_share + self.test_share >= 1:
            total = self.eval_share + self.test_share
            raise ConfigError(
                f"dataset.splits: eval_share and test_share make {total:g} together; they must leave a share to train."
            )

    @property
    def patterns(self) -> dict[str, str]:
        """The glob pattern of all files, under the name `all`."""
        return {"all": self.files}


@settings("dataset")
class Dataset:
    """A set of labelled images: what they are, and how its base files are read.

    Attributes:
      name: name of the folder in the home folder, `data/<name>/`; `mnist` and `cifar10` are the published files, which
        are downloaded and verified.
      format: `idx` (MNIST's pairs of files), `cifar_binary` (one byte of label, then the image, channels first) or
        `folders` (`<split>/<class>/*.png`, or `<class>/*.png`).
      shape: height, width and channels of an image, in pixels.
      classes: class names, in the order of their labels.
      splits: which images are for training and which for tests.
      resize: how a picture of another size is brought to `shape`: `squash`, whatever its aspect ratio is; `crop`, its
        middle; `pad`, the whole of it, with the background around it.
      background: the colour of what is transparent, and of what is padded: `white` or `black`.
      keep_encoded: whether the examples of class folders keep the picture files, to decode them for each batch; else
        they hold pixels. Files take less of the disk where `shape` is about as large as the pictures, and more of the
        processor.
    """

    name: Name
    format: Literal["idx", "cifar_binary", "folders"]
    shape: Annotated[tuple[int, int, int], Lenient]
    classes: Annotated[tuple[str, ...], Lenient]
    splits: NamedSplits | HashedSplits = Field(default_factory=lambda: HashedSplits())
    resize: Resize = "squash"
    background: Background = "white"
    keep_encoded: bool = False

    def __post_init__(self) -> None:
        if min(self.shape) < 1:
            raise ConfigError(f"dataset.shape is {self.shape}; it must be three positive numbers.")
        if self.image_size > MAX_IMAGE_SIZE:
            raise ConfigError(f"dataset.shape is {self.shape}; an image may have {MAX_IMAGE_SIZE:,} values at most.")
        if len(self.classes) < 2 or len(set(self.classes)) < len(self.classes):
            raise ConfigError(f"dataset.classes is {self.classes}; it must be two or more different names.")
        if self.keep_encoded and self.format != "folders":
            raise ConfigError(
                f"dataset.keep_encoded is for class folders: there are no picture files in {self.format}."
            )

    @property
    def pictures(self) -> Pictures:
        """What is done to a picture file."""
        return Pictures(self.shape, self.resize, self.background, self.keep_encoded)

    @property
    def image_size(self) -> int:
        """How many values an image has: height times width times channels."""
        return math.prod(self.shape)


@settings("spans")
class Spans:
    """What is done with the spans, the images that were added after the base files.

    Attributes:
      window: how many of the newest parts are trained on, of which the base files are the oldest; 0 for all.
      holdout_share: share of each span held out of training, and reported by itself, from 0 to 1.
    """

    window: Annotated[int, Field(ge=0)] = 0
    holdout_share: PartialShare = 0.0
