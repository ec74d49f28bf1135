"""TensorFlow Lite files of a pushed model: where they lie beside its SavedModel, and how one is asked."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

FOLDER = Path("assets.extra", "tflite")  # TensorFlow Serving ignores what it does not know in assets.extra
FLOAT16, INT8 = "tflite_float16", "tflite_int8"
BATCH = 100
IMAGES, SCORES = "images", "scores"


def file_of(format_name: str) -> Path:
    """Returns where a format's file lies in a version: `assets.extra/tflite/float16.tflite` of `tflite_float16`."""
    return FOLDER / f"{format_name.removeprefix('tflite_')}.tflite"


class LiteModel:
    """A TensorFlow Lite file from pixels, uint8 [N, height, width, channels], to probabilities, float32 [N, classes].

    It computes in one thread.

    Args:
      path: the file.

    Raises:
      ValueError: it is none.
    """

    def __init__(self, path: Path) -> None:
        try:  # one thread: two that wait for each other took ten times as long on a busy machine
            self._interpreter = tf.lite.Interpreter(str(path), num_threads=1)
        except ValueError as error:
            raise ValueError(f"{path} is no TensorFlow Lite file: {error}") from error
        (self._input,) = self._interpreter.get_input_details()
        (self._output,) = self._interpreter.get_output_details()

    def scores(self, images: Any) -> np.ndarray:
        """Returns the probabilities of images, an array or another sequence that gives arrays by slices."""
        starts = range(0, len(images), BATCH)
        return np.concatenate([self._ask(images[start : start + BATCH]) for start in starts])

    def _ask(self, images: np.ndarray) -> np.ndarray:
        scale, zero = self._input["quantization"]
        if scale not in (0.0, 1.0) or zero:  # a file that was made of pictures without black or without white
            images = np.clip(np.round(images / scale + zero), 0, 255).astype(np.uint8)
        self._interpreter.resize_tensor_input(self._input["index"], images.shape)
        self._interpreter.allocate_tensors()
        self._interpreter.set_tensor(self._input["index"], images)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output["index"])
