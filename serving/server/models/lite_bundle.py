"""A version's `model.tflite` in TensorFlow Lite interpreters, as TensorFlow Serving's --prefer_tflite_model serves it.

Source: https://github.com/tensorflow/serving/blob/master/tensorflow_serving/servables/tensorflow/tflite_session.cc
"""

import queue
from collections.abc import Iterable, Sequence
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
    """A TensorFlow Lite file, in interpreters that answer one request each."""

    def __init__(self, path: Path, interpreters: int) -> None:
        """Loads a version's file.

        Args:
          path: folder of the version.
          interpreters: how many requests may run at once.

        Raises:
          StatusError: INVALID_ARGUMENT for a file that is no model, or whose SignatureDefs are not of its inputs and
            outputs; ALREADY_EXISTS where two of those have one name.
        """
        self.path = path
        first = self._new_interpreter()
        self._inputs = _by_name("Input", first.get_input_details())
        self._outputs = _by_name("Output", first.get_output_details())
        self.signatures = _signatures((path / MODEL_FILE).read_bytes()) or _default(self._inputs, self._outputs)
        for name, signature in self.signatures.items():
            _bind(signature.inputs, self._inputs)
            _bind(signature.outputs, self._outputs)
            if {info.name for info in signature.inputs.values()} != self._inputs.keys():
                raise invalid_argument(f"Signature {name} does not name every input: {', '.join(self._inputs)}.")
        self.plans = {name: SignaturePlan.of(signature) for name, signature in self.signatures.items()}
        self._free: queue.SimpleQueue[tf.lite.Interpreter] = queue.SimpleQueue()
        for interpreter in (first, *(self._new_interpreter() for _ in range(interpreters - 1))):
            self._free.put(interpreter)

    def run(self, name: str, inputs: Sequence[np.ndarray], outputs: Sequence[str] = ()) -> list[np.ndarray]:
        """See `Bundle.run`."""
        plan = self.plans[name]
        one_by_one = [
            _rows_are_run_one_by_one(key, value, self._inputs[feed]["shape_signature"].tolist())
            for key, feed, value in zip(plan.inputs, plan.feeds, inputs, strict=True)
        ]
        parts: Iterable[Sequence[np.ndarray]] = [inputs]
        if any(one_by_one):
            if not all(one_by_one) or len({len(value) for value in inputs}) > 1:
                raise invalid_argument("The inputs must have as many rows each.")
            parts = [[value[row : row + 1] for value in inputs] for row in range(len(inputs[0]))]
        fetches = [plan.fetches[key] for key in outputs or plan.outputs]
        interpreter = self._free.get()
        try:
            answers = [self._answer(interpreter, plan.feeds, part, fetches) for part in parts]
        except (RuntimeError, ValueError) as error:
            raise StatusError("INTERNAL", str(error)) from error
        finally:
            self._free.put(interpreter)  # which allocates anew for the next request, whatever this one left
        return answers[0] if len(answers) == 1 else [np.concatenate(rows) for rows in zip(*answers, strict=True)]

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
            interpreter.resize_tensor_input(self._inputs[name]["index"], value.shape)
        interpreter.allocate_tensors()
        interpreter.reset_all_variables()  # what a recurrent network keeps is of the request before
        for name, value in zip(feeds, inputs, strict=True):
            interpreter.set_tensor(self._inputs[name]["index"], value)
        interpreter.invoke()
        return [interpreter.get_tensor(self._outputs[name]["index"]) for name in fetches]


def _by_name(kind: str, details: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns what an interpreter knows of its inputs or outputs, by the name of the tensor.

    Raises:
      StatusError: ALREADY_EXISTS, where two have one name, with or without the number of the output.
    """
    found = {each["name"]: each for each in details}
    if len(set(map(_short, found))) < len(details):
        raise StatusError("ALREADY_EXISTS", f"{kind} tensor names are not all different: {', '.join(found)}")
    return found


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


def _default(inputs: Iterable[str], outputs: Iterable[str]) -> dict[str, meta_graph_pb2.SignatureDef]:
    """Returns the signature of a file that holds none: its inputs and outputs under the names of their tensors."""
    signature = meta_graph_pb2.SignatureDef(method_name=tf.saved_model.PREDICT_METHOD_NAME)
    for infos, names in ((signature.inputs, inputs), (signature.outputs, outputs)):
        for name in names:
            infos[_short(name)].name = name
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


def _rows_are_run_one_by_one(key: str, value: np.ndarray, wanted: list[int]) -> bool:
    """Whether an input is of one row, and is given several.

    Operations are built for the sizes that the file says: with others they divide by zero, or write beyond their
    memory, and end the process.

    Raises:
      StatusError: INVALID_ARGUMENT for another shape than the file has.
    """
    shape = list(value.shape)
    one_by_one = bool(wanted) and wanted[0] == 1 and len(value) > 1 if value.ndim else False
    sizes = zip(shape, [-1, *wanted[1:]] if one_by_one else wanted, strict=False)
    if len(shape) != len(wanted) or 0 in shape or any(want not in (-1, size) for size, want in sizes):
        raise invalid_argument(f"Input {key} must have the shape {wanted}; {shape} is given.")
    if value.dtype.kind == "O" and not value.ndim:
        raise invalid_argument(f"Input {key} is one string: TensorFlow's interpreter cannot be given it from Python.")
    return one_by_one


def _short(name: str) -> str:
    return name.partition(":")[0]
