"""Loads a SavedModel the way TensorFlow Serving does, in a process of its own, and tries all it must answer.

`python -m serving.servability MODEL IMAGES SCORES` prints one JSON object: `ok`, `reason`, and `differences`, the
largest absolute difference of a probability by signature. IMAGES and SCORES are .npy files: uint8 [N, height, width,
channels] and float32 [N, classes], the trainer's own probabilities for them.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from conveyor.errors import ConveyorError
from serving import warmup
from serving.server.models.bundle import Bundle, SavedModelBundle
from serving.server.protocol.errors import StatusError
from serving.signatures import DECODE, OUTPUTS, SIGNATURES, encoded

TOLERANCE = 1e-4  # of a probability: float32 arithmetic in another order, nothing more
BATCH = 64
PYTHON_OPERATIONS = {"EagerPyFunc", "PyFunc", "PyFuncStateless"}


class NotServable(ConveyorError):
    """A model that the server would refuse, or that would answer wrongly."""


def check(model: Path, images: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Calls every signature and compares its answers with the trainer's own.

    Args:
      model: folder of the SavedModel.
      images: uint8 [N, height, width, channels].
      scores: the trainer's probabilities for them: float32 [N, classes].

    Returns:
      The largest absolute difference of a probability, by signature.

    Raises:
      NotServable: the model needs Python, cannot be loaded, lacks a signature or an output, or answers otherwise than
        the trainer.
    """
    try:
        bundle = SavedModelBundle(model)
    except StatusError as error:
        raise NotServable(f"the server's loader refuses it: {error}") from error
    try:
        if python := _python_operations(model):
            raise NotServable(f"its graph calls Python ({', '.join(sorted(python))}), which the server has not")
        return _differences(bundle, images, scores)
    except StatusError as error:
        raise NotServable(str(error)) from error
    finally:
        bundle.close()


def _python_operations(model: Path) -> set[str]:
    """Returns the kinds of operations in a SavedModel that call back into the Python that made it.

    The process that made a model has them at hand, so that loading it there shows nothing.
    """
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((model / tf.saved_model.SAVED_MODEL_FILENAME_PB).read_bytes())
    return {op.name for meta in saved.meta_graphs for op in meta.meta_info_def.stripped_op_list.op} & PYTHON_OPERATIONS


def _differences(bundle: Bundle, images: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    differences = {}
    for signature, (name, make) in SIGNATURES.items():
        replies = [bundle.ask(signature, {name: make(batch)}) for batch in _batches(images)]
        for output in OUTPUTS:
            if output not in replies[0]:
                raise NotServable(f"{signature} does not return {output!r}")
        answer = np.concatenate([reply["scores"] for reply in replies])
        if answer.shape != scores.shape:
            raise NotServable(f"{signature} returns scores of shape {answer.shape}, the trainer has {scores.shape}")
        differences[signature] = float(np.abs(answer - scores).max())
        if not differences[signature] <= TOLERANCE:
            raise NotServable(
                f"{signature} differs from the trainer by up to {differences[signature]:.3g} in a probability; "
                f"at most {TOLERANCE} is rounding"
            )
    if DECODE in bundle.signatures:
        for batch in _batches(images):
            if not np.array_equal(bundle.ask(DECODE, {"image_bytes": encoded(batch)})["images"], batch):
                raise NotServable(f"{DECODE} returns other pixels than those of a picture")
    for request in warmup.read(bundle.path):
        inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        bundle.ask(request.model_spec.signature_name, inputs)
    return differences


def _batches(images: np.ndarray) -> Iterable[np.ndarray]:
    return (images[start : start + BATCH] for start in range(0, len(images), BATCH))


def main(model: Path, images: Path, scores: Path) -> None:
    """Prints the outcome of `check` as JSON."""
    try:
        differences = check(model, np.load(images, allow_pickle=False), np.load(scores, allow_pickle=False))
        outcome = {"ok": True, "reason": "", "differences": differences}
    except NotServable as error:
        outcome = {"ok": False, "reason": str(error), "differences": {}}
    print(json.dumps(outcome))


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python -m serving.servability MODEL IMAGES.npy SCORES.npy")
    main(*map(Path, sys.argv[1:]))
