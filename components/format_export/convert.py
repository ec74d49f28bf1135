"""Converts a trained network to TensorFlow Lite: `python -m components.format_export.convert MODEL RUN EXAMPLES ...`.

A process of its own, because a network that the converter cannot take may end the process.
"""

import dataclasses
import functools
import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from components.format_export.executor import SAVED_MODEL, ConversionFailed
from conveyor import modules, processes
from conveyor.settings import from_json
from serving.server.models.bundle import SavedModelBundle
from serving.tflite import FLOAT16, IMAGES, INT8, SCORES, LiteModel, file_of
from trainer import export, networks
from trainer.examples import Split, read_split
from trainer.settings import SPEC, TrainingJob, TrainingSpec

CALIBRATION = 500  # training images that show int8 how large activations become
TIMED = 200  # images, asked for one by one


def main(model: Path, run: Path, examples: Path, target: Path, formats: Sequence[str]) -> list[dict[str, Any]]:
    """Writes the files of all formats, and returns what was measured; see `executor.convert`.

    Raises:
      ConversionFailed: the network cannot be converted.
    """
    spec = from_json(TrainingSpec, (run / SPEC).read_bytes())
    code = run / "network"  # where the run's record has it, also in a home that was moved
    job = dataclasses.replace(spec.job, network=dataclasses.replace(spec.job.network, folder=str(code)))
    with modules.importable(code):  # a network may import in the midst of a call
        return _formats(job, model, run, examples, target, formats)


def _formats(
    job: TrainingJob, model: Path, run: Path, examples: Path, target: Path, formats: Sequence[str]
) -> list[dict[str, Any]]:
    network = networks.build(job, "float32")
    networks.set_weights(network, export.read_weights(model))
    test = read_split(examples / "Split-test", job.pictures)
    bundle = SavedModelBundle(model)
    scores = np.load(run / "test_scores.npy", allow_pickle=False)
    size = sum(path.stat().st_size for path in model.rglob("*") if path.is_file())
    rows = [_row(SAVED_MODEL, size, scores, test, lambda image: bundle.ask("predict_pixels", {"images": image}))]
    for name in formats:
        path = target / file_of(name).name
        path.write_bytes(_converted(network, job, name, lambda: _calibration(examples, job)))
        lite = LiteModel(path)
        rows.append(_row(name, path.stat().st_size, lite.scores(test.images), test, lite.scores))
    return rows


def _calibration(examples: Path, job: TrainingJob) -> Iterator[list[np.ndarray]]:
    """Yields some training images, float32 [1, height, width, channels] each, drawn at random.

    Each has a black and a white pixel in its corners, so that the file takes pixels of the whole range as they are.
    """
    train = read_split(examples / "Split-train", job.pictures)
    drawn = np.sort(np.random.default_rng(job.training.seed).permutation(len(train))[:CALIBRATION])
    for number in drawn:
        image = train.images[number : number + 1].astype(np.float32)
        image[0, 0, 0], image[0, -1, -1] = 0, 255
        yield [image]


def _converted(
    network: keras.Model, job: TrainingJob, name: str, calibration: Callable[[], Iterator[list[np.ndarray]]]
) -> bytes:
    """Returns a network as a TensorFlow Lite file from raw pixels, uint8, to probabilities, float32."""
    with tempfile.TemporaryDirectory() as folder:  # the converter takes Keras 3's variables from a SavedModel alone
        tf.saved_model.save(_Answer(network, job, tf.float32 if name == INT8 else tf.uint8), folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if name == FLOAT16:
            converter.target_spec.supported_types = [tf.float16]
        else:
            converter.representative_dataset = calibration
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = tf.uint8  # which it then takes in place of float32
        try:
            return converter.convert()
        except Exception as error:  # of the converter, of any kind
            raise ConversionFailed(f"The network cannot be converted to {name}: {_why(error)}.") from error


def _why(error: Exception) -> str:
    """Returns what the converter says, or the operations that TensorFlow Lite has not, where it is those."""
    text = str(error).strip() or type(error).__name__
    missing = sorted(set(re.findall(r"'tf\.(\w+)' op is neither", text)))
    return f"TensorFlow Lite has no {', '.join(missing)}" if missing else text.splitlines()[0].rstrip(".")


class _Answer(tf.Module):
    """A network from pixels to probabilities."""

    def __init__(self, network: keras.Model, job: TrainingJob, taken: tf.DType) -> None:
        super().__init__()
        self._logits = functools.partial(network, training=False)
        self._weights = [weight.value for weight in network.weights]
        spec = tf.TensorSpec([None, *job.shape], taken, name=IMAGES)
        self.answer = tf.function(self._answer, input_signature=[spec])

    def _answer(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {SCORES: tf.nn.softmax(self._logits(tf.cast(images, tf.float32)))}


def _row(name: str, size: int, scores: np.ndarray, test: Split, ask: Callable[[np.ndarray], Any]) -> dict[str, Any]:
    """Returns what is worth knowing of a format; see `executor.convert`."""
    correct = int(np.count_nonzero(scores.argmax(axis=1) == test.labels))
    ask(test.images[:1])  # the first one takes longer
    seconds = []
    for number in range(min(TIMED, len(test))):
        image = test.images[number : number + 1]
        started = time.perf_counter()
        ask(image)
        seconds.append(time.perf_counter() - started)
    return {
        "format": name,
        "bytes": size,
        "accuracy": correct / len(test),
        "correct": correct,
        "examples": len(test),
        "milliseconds": 1000 * statistics.median(seconds),
    }


if __name__ == "__main__":
    if len(sys.argv) < 7:
        sys.exit("usage: python -m components.format_export.convert MODEL RUN EXAMPLES TARGET ANSWER FORMAT...")
    processes.end_with_parent()
    saved_model, model_run, splits, files, answer = map(Path, sys.argv[1:6])
    try:
        found: list[dict[str, Any]] | str = main(saved_model, model_run, splits, files, sys.argv[6:])
    except ConversionFailed as error:
        found = str(error)
    answer.write_text(json.dumps(found))
