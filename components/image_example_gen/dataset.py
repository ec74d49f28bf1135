"""What a data set is."""

import dataclasses
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A set of labelled images.

    Attributes:
      name: what the files are called in the home folder, `data/<name>/`.
      format: `idx` (MNIST's pairs of files), `cifar_binary` (one byte of label, then the image, channels first) or
        `folders` (`<split>/<class>/*.png`, or `<class>/*.png`, split by a hash of the content).
      shape: height, width and channels of an image, in pixels.
      classes: class names, in the order of their labels.
      eval_examples: how many examples, the first of the training files, are held out of training as the split
        `eval`. Class folders without splits are divided by `eval_share` and `test_share` instead.
      eval_share: the share of a data set without splits held out as `eval`, from 0 to 1.
      test_share: the share of a data set without splits held out as `test`, from 0 to 1.
      splits: glob patterns of the files of each input split, below the input folder, as (split, pattern) pairs.
      canonical: whether the files are published ones that `conveyor fetch` can bring and verify.
      window: how many of the newest spans are trained on, of which the base files are the oldest; 0 for all. See
        `spans`.
      holdout_share: the share of each span that is held out of training as `eval` and reported by itself, 0 to 1.
    """

    name: str
    format: Literal["idx", "cifar_binary", "folders"]
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    splits: tuple[tuple[str, str], ...]
    eval_examples: int = 0
    eval_share: float = 0.1
    test_share: float = 0.1
    canonical: bool = False
    window: int = 0
    holdout_share: float = 0.0

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Dataset":
        """Returns the data set that `dataclasses.asdict`, by way of JSON, made the fields of."""
        exact = {
            "shape": tuple(int(size) for size in fields["shape"]),  # some carriers of JSON know no integers
            "classes": tuple(fields["classes"]),
            "splits": tuple((split, pattern) for split, pattern in fields["splits"]),
            "eval_examples": int(fields["eval_examples"]),
            "window": int(fields["window"]),
        }
        return cls(**{**fields, **exact})
