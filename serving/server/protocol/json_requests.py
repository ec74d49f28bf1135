"""JSON requests of the REST API as protocol buffers.

Source: https://www.tensorflow.org/tfx/serving/api_rest, and tensorflow_serving/util/json_tensor.cc for the messages.
"""

import base64
import binascii
import itertools
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import orjson
import tensorflow as tf
from tensorflow_serving.apis import classification_pb2, input_pb2, predict_pb2, regression_pb2

from serving.server.protocol import tensors
from serving.server.protocol.errors import StatusError, invalid_argument

_JSON_NAMES = {
    type(None): "Null",
    bool: "True",
    dict: "Object",
    list: "Array",
    str: "String",
    int: "Number",
    float: "Number",
}


def parse(body: bytes) -> dict[str, Any]:
    """Returns a request's JSON object; NaN, Infinity and -Infinity are numbers.

    Raises:
      StatusError: INVALID_ARGUMENT, where it is not one.
    """
    if not body:
        raise invalid_argument("JSON Parse error: The document is empty")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if not any(word in body for word in (b"NaN", b"Infinity")):
            raise invalid_argument(f"JSON Parse error: {error}") from error
        try:
            value = json.loads(body)
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text, as for orjson
        except (ValueError, RecursionError) as error:
            raise invalid_argument(f"JSON Parse error: {error}") from error
    if not isinstance(value, dict):
        raise invalid_argument(f"JSON Value: {_shown(value)} Is not object")
    return value


def signature_name(document: dict[str, Any]) -> str:
    """Returns the signature that a request names; empty for the default."""
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid_argument(
            f"JSON Value: {_shown(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return name


def predict_request(document: dict[str, Any], inputs: Mapping[str, Any]) -> tuple[predict_pb2.PredictRequest, bool]:
    """Returns a PredictRequest of a `:predict` body, and whether the reply is to be in rows.

    Args:
      document: the body.
      inputs: the signature's inputs: TensorInfo by name.

    Raises:
      StatusError: INVALID_ARGUMENT, with what is wrong where.
    """
    request = predict_pb2.PredictRequest()
    rows, columns = "instances" in document, "inputs" in document
    if rows and columns:
        raise invalid_argument("Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist")
    if not rows and not columns:
        raise invalid_argument("Missing 'inputs' or 'instances' key")
    arrays = _of_rows(document["instances"], inputs) if rows else _of_columns(document["inputs"], inputs)
    for name, array in arrays.items():
        request.inputs[name].CopyFrom(tensors.to_proto(array, as_content=True))
    return request, rows


def classification_request(document: dict[str, Any]) -> classification_pb2.ClassificationRequest:
    """Returns the request of a `:classify` body."""
    return classification_pb2.ClassificationRequest(input=_examples(document, "classify"))


def regression_request(document: dict[str, Any]) -> regression_pb2.RegressionRequest:
    """Returns the request of a `:regress` body."""
    return regression_pb2.RegressionRequest(input=_examples(document, "regress"))


def _of_rows(instances: Any, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    if not isinstance(instances, list):
        raise invalid_argument("Expecting 'instances' to be an list/array")
    if not instances:
        raise invalid_argument("No values in 'instances' array")
    if not _is_object(instances[0]):
        if len(inputs) > 1:
            raise invalid_argument(
                "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
                "tensorinfo_map"
            )
        for index, element in enumerate(instances):
            if _is_object(element):
                raise invalid_argument(f"Expecting value/list but got object at item {index} of input list")
        name, info = next(iter(inputs.items()))
        return {name: _array(instances, info.dtype)}
    for index, element in enumerate(instances):
        if not _is_object(element):
            raise invalid_argument(f"Expecting object but got list at item {index} of input list")
        if set(element) != set(inputs):
            raise invalid_argument(
                f"Failed to process element: {index} of 'instances' list. JSON object: {_shown(element)} "
                f"keys must be equal to: {','.join(sorted(inputs))}"
            )
    return {name: _array([element[name] for element in instances], info.dtype) for name, info in inputs.items()}


def _of_columns(value: Any, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    if not _is_object(value):
        if len(inputs) > 1:
            raise invalid_argument(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        name, info = next(iter(inputs.items()))
        return {name: _array(value, info.dtype)}
    for name in sorted(inputs):
        if name not in value:
            raise invalid_argument(f"Missing named input: {name} in 'inputs' object.")
    return {name: _array(value[name], info.dtype) for name, info in inputs.items()}


def _array(value: Any, number: int) -> np.ndarray:
    """Returns nested lists as an array of a type.

    Raises:
      StatusError: INVALID_ARGUMENT for ragged lists and values of another type.
    """
    dtype = tf.dtypes.as_dtype(number)
    shape: list[int] = []
    first = value
    while isinstance(first, list) and len(shape) < 32:
        shape.append(len(first))
        if not first:
            break
        first = first[0]
    leaves = [value]
    for level, size in enumerate(shape):
        for item in leaves:
            if not isinstance(item, list):
                raise invalid_argument(
                    f"JSON Value: {_shown(item)} found at incorrect level: {level} in the JSON DOM. "
                    f"Expected at level: {len(shape)}"
                )
            if len(item) != size:
                raise invalid_argument(
                    f"Encountered list at unexpected size: {len(item)} at level: {level} expected size: {size}"
                )
        leaves = list(itertools.chain.from_iterable(leaves))
    return _converted(leaves, dtype).reshape(shape)


def _converted(leaves: list[Any], dtype: tf.DType) -> np.ndarray:
    kinds = set(map(type, leaves))
    if list in kinds:
        raise invalid_argument("Encountered list at unexpected level")
    if dtype == tf.string:
        return np.array([_bytes(leaf) for leaf in leaves] + [None], dtype=object)[:-1]
    if dtype.is_floating:
        allowed = {int, float}
    elif dtype == tf.bool:
        allowed = {bool}
    elif dtype.is_integer:
        allowed = {int}
    else:
        raise StatusError("UNIMPLEMENTED", f"Conversion of JSON values to type: {dtype.name}")
    if not kinds <= allowed:
        wrong = next(leaf for leaf in leaves if type(leaf) not in allowed)
        raise invalid_argument(
            f"JSON Value: {_shown(wrong)} Type: {_JSON_NAMES[type(wrong)]} is not of expected type: "
            f"{tensors.type_name(dtype.as_datatype_enum)}"
        )
    if dtype.is_integer and leaves and not dtype.min <= min(leaves) <= max(leaves) <= dtype.max:
        wrong = next(leaf for leaf in leaves if not dtype.min <= leaf <= dtype.max)
        raise invalid_argument(f"JSON Value: {wrong} Type: Number is not of expected type: {dtype.name}")
    return _lossless(leaves, kinds, dtype) if dtype.is_floating else np.array(leaves, dtype.as_numpy_dtype)


def _lossless(leaves: list[Any], kinds: set[type], dtype: tf.DType) -> np.ndarray:
    """Returns floats; refuses those beyond the type's range, and integers that it cannot hold exactly."""
    wide = np.array(leaves, np.float64)
    beyond = np.isfinite(wide) & (np.abs(wide) > float(dtype.max))
    if int in kinds and dtype in (tf.float32, tf.float64):
        most = 2 ** (24 if dtype == tf.float32 else 53) - 1
        beyond |= np.array([type(leaf) is int and abs(leaf) > most for leaf in leaves])
    if beyond.any():
        wrong = leaves[int(np.argmax(beyond))]
        name = {tf.float32: "float", tf.float64: "double"}.get(dtype, dtype.name)
        raise invalid_argument(f"Cannot convert JSON value: {wrong} to {name} without loss of precision.")
    return wide.astype(dtype.as_numpy_dtype)


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if not isinstance(value, dict):
        raise invalid_argument(
            f"JSON Value: {_shown(value)} Type: {_JSON_NAMES[type(value)]} is not of expected type: string"
        )
    if set(value) != {"b64"} or not isinstance(value["b64"], str):
        raise invalid_argument(f"JSON Value: {_shown(value)} not formatted correctly for base64 data")
    text = value["b64"]
    try:  # absl's Base64Unescape takes missing padding too
        return base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid_argument("Unable to base64 decode") from error


_CONVERT: dict[str, Callable[[Any], Any]] = {"bytes": _bytes, "float": float, "int64": int}


def _examples(document: dict[str, Any], method: str) -> input_pb2.Input:
    given = input_pb2.Input()
    examples = document.get("examples")
    if "examples" not in document:
        raise invalid_argument(f"When method is {method}, key 'examples' is expected and was not found")
    if not isinstance(examples, list):
        raise invalid_argument("Expecting 'examples' value to be an list/array")
    if not examples:
        raise invalid_argument("'examples' value is an empty array")
    if "context" in document:
        _fill_example(document["context"], given.example_list_with_context.context)
    target = given.example_list_with_context if "context" in document else given.example_list
    for example in examples:
        _fill_example(example, target.examples.add())
    return given


def _fill_example(value: Any, example: Any) -> None:
    if not isinstance(value, dict):
        raise invalid_argument(f"Example must be JSON object but got JSON {_JSON_NAMES[type(value)]}")
    for name, content in value.items():
        values = content if isinstance(content, list) else [content]
        feature = example.features.feature[name]
        kinds = {_feature_kind(name, item) for item in values}
        if len(kinds) > 1:
            raise invalid_argument(f"Unexpected element type in feature: {name} expecting type: {min(kinds)}")
        for kind in kinds:
            getattr(feature, f"{kind}_list").value.extend(_CONVERT[kind](item) for item in values)


def _feature_kind(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "int64"
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise invalid_argument(f"Feature: {name} has uint64 element. Only int64 is supported.")
        return "int64"
    if isinstance(value, float):
        if math.isfinite(value) and abs(value) > float(np.finfo(np.float32).max):
            raise invalid_argument(f"Cannot convert JSON value: {value} to float without loss of precision.")
        return "float"
    if isinstance(value, str) or (not _is_object(value) and isinstance(value, dict)):
        return "bytes"
    raise invalid_argument(f"Feature: {name} has element with unexpected JSON type: {_JSON_NAMES[type(value)]}")


def _is_object(value: Any) -> bool:
    """Whether a value is an object other than base64 data."""
    return isinstance(value, dict) and not (set(value) == {"b64"} and isinstance(value["b64"], str))


def _shown(value: Any) -> str:
    """Returns a value for a message, cut where it is long."""
    try:
        text = json.dumps(value)
    except RecursionError:
        text = "(deeply nested)"
    return text if len(text) <= 200 else f"{text[:200]}..."
