"""A version's `model.tflite` in TensorFlow Lite interpreters, as TensorFlow Serving's --prefer_tflite_model serves it.

Source: https://github.com/tensorflow/serving/blob/master/tensorflow_serving/servables/tensorflow/tflite_session.cc
"""

import queue
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from flatbuffers import flexbuffers
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.lite.python import schema_py_generated as schema

from serving.server.models.bundle import Bundle
from serving.server.protocol.errors import StatusError, invalid_argument
from serving.server.protocol.requests import DEFAULT_SIGNATURE, SignaturePlan

MODEL_FILE = "model.tflite"
SIGNATURES = "signature_defs_metadata"  # name of the metadata that a file may hold its SignatureDefs in


class LiteBundle(Bundle):
    """A TensorFlow Lite file. Its interpreters answer one request each, whose shapes they take on."""

    def __init__(self, path: Path, interpreters: int) -> None:
        """Loads a version's file.

        Args:
          path: folder of the version.
          interpreters: how many requests may run at once.

        Raises:
          StatusError: INVALID_ARGUMENT for a file that is no model, or whose SignatureDefs name tensors it has not.
        """
        self.path = path
        first = self._new_interpreter()
        inputs = {each["name"]: each for each in first.get_input_details()}
        outputs = {each["name"]: each for each in first.get_output_details()}
        self.signatures = _signatures((path / MODEL_FILE).read_bytes()) or _default(inputs, outputs)
        for signature in self.signatures.values():
            _bind(signature.inputs, inputs)
            _bind(signature.outputs, outputs)
        self.plans = {name: SignaturePlan.of(signature) for name, signature in self.signatures.items()}
        self._indexes = {name: each["index"] for name, each in (inputs | outputs).items()}
        self._shapes = {name: each["shape_signature"].tolist() for name, each in inputs.items()}
        self._free: queue.SimpleQueue[tf.lite.Interpreter] = queue.SimpleQueue()
        for interpreter in (first, *(self._new_interpreter() for _ in range(interpreters - 1))):
            self._free.put(interpreter)

    def max_batch_size(self, _name: str) -> int:
        """See `Bundle.max_batch_size`: these are not batched."""
        return 0

    def run(
        self,
        name: str,
        inputs: Sequence[np.ndarray],
        outputs: Sequence[str] = (),
        alone: bool = True,  # noqa: ARG002
    ) -> list[np.ndarray]:
        """See `Bundle.run`."""
        plan = self.plans[name]
        for key, feed, value in zip(plan.inputs, plan.feeds, inputs, strict=True):
            _check_shape(key, value.shape, self._shapes[feed])
        interpreter = self._free.get()
        try:
            answer = self._answer(
                interpreter, plan.feeds, inputs, [plan.fetches[key] for key in outputs or plan.outputs]
            )
        except (RuntimeError, ValueError) as error:
            self._free.put(self._new_interpreter())  # what failed half-way may hold shapes that do not fit together
            raise StatusError("INTERNAL", str(error)) from error
        self._free.put(interpreter)
        return answer

    def run_tensors(self, *_asked: Any) -> list[np.ndarray]:
        """See `Bundle.run_tensors`."""
        raise StatusError("UNIMPLEMENTED", f"{self.path / MODEL_FILE} has no graph whose tensors could be asked for.")

    def close(self) -> None:
        """See `Bundle.close`."""
        self._free = queue.SimpleQueue()

    def _new_interpreter(self) -> tf.lite.Interpreter:
        try:
            return tf.lite.Interpreter(str(self.path / MODEL_FILE), num_threads=1)
        except (RuntimeError, ValueError) as error:
            raise invalid_argument(f"Cannot build an interpreter of {self.path / MODEL_FILE}: {error}") from error

    def _answer(
        self, interpreter: tf.lite.Interpreter, feeds: Sequence[str], inputs: Sequence[np.ndarray], fetches: list[str]
    ) -> list[np.ndarray]:
        for name, value in zip(feeds, inputs, strict=True):
            interpreter.resize_tensor_input(self._indexes[name], value.shape)
        interpreter.allocate_tensors()
        for name, value in zip(feeds, inputs, strict=True):
            interpreter.set_tensor(self._indexes[name], value)
        interpreter.invoke()
        return [interpreter.get_tensor(self._indexes[name]) for name in fetches]


def _signatures(data: bytes) -> dict[str, meta_graph_pb2.SignatureDef]:
    """Returns the SignatureDefs that a file holds as metadata. The real server ignores those of the file's own kind."""
    model = schema.Model.GetRootAsModel(data, 0)
    signatures = {}
    for metadata in map(model.Metadata, range(model.MetadataLength())):
        if metadata.Name() == SIGNATURES.encode():
            entries = flexbuffers.GetRoot(model.Buffers(metadata.Buffer()).DataAsNumpy().tobytes()).AsMap
            for key in entries.Keys:
                signature = meta_graph_pb2.SignatureDef()
                try:
                    signature.ParseFromString(entries[key.AsKey].AsStringBytes)
                except DecodeError as error:
                    raise invalid_argument(f"Invalid SignatureDefs found in TfLite model: {error}") from error
                signatures[key.AsKey] = signature
    return signatures


def _default(inputs: dict[str, Any], outputs: dict[str, Any]) -> dict[str, meta_graph_pb2.SignatureDef]:
    """Returns the signature of a file that holds none: its inputs and outputs under the names of their tensors."""
    signature = meta_graph_pb2.SignatureDef(method_name=tf.saved_model.PREDICT_METHOD_NAME)
    for names, details in ((signature.inputs, inputs), (signature.outputs, outputs)):
        for name in details:
            names[_short(name)].name = name
    return {DEFAULT_SIGNATURE: signature}


def _bind(infos: Any, details: dict[str, Any]) -> None:
    """Fills in what the interpreter knows of a signature's tensors; older files have names without the output's number.

    Raises:
      StatusError: INVALID_ARGUMENT for a tensor that the file has not.
    """
    for key, info in infos.items():
        name = info.name if info.name in details else _short(info.name)
        if name not in details:
            raise invalid_argument(f"Signature tensor {key} references an unknown tensor {info.name!r}.")
        found = details[name]
        info.name, info.dtype = name, tf.as_dtype(found["dtype"]).as_datatype_enum
        del info.tensor_shape.dim[:]
        for size in found["shape"]:
            info.tensor_shape.dim.add().size = size


def _check_shape(key: str, shape: Sequence[int], wanted: Sequence[int]) -> None:
    """Checks an input's shape: kernels divide by sizes that they were not built for, which ends the process.

    Raises:
      StatusError: INVALID_ARGUMENT for another shape than the file has, but for the number of rows.
    """
    sizes = zip(shape[1:], wanted[1:], strict=False)
    if len(shape) != len(wanted) or 0 in shape or any(want not in (-1, size) for size, want in sizes):
        raise invalid_argument(f"Input {key} must have the shape {list(wanted)}, of any rows; {list(shape)} is given.")


def _short(name: str) -> str:
    return name.partition(":")[0]
