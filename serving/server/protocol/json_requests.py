"""JSON requests of the REST API as protocol buffers.

Source: https://www.tensorflow.org/tfx/serving/api_rest, and tensorflow_serving/util/json_tensor.cc for the messages.
"""

import base64
import binascii
import contextlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import tensorflow as tf
from tensorflow_serving.apis import classification_pb2, input_pb2, regression_pb2

from serving.server.protocol import tensors
from serving.server.protocol.errors import StatusError, invalid_argument

MAX_RANK = 32  # numpy's own limit of dimensions
EXPLAINED = 2_000  # values that are looked at for the words of a mistake
NOT_ALIKE = "The rows of 'instances' are not alike, or lack an input."
NOT_TEXT = 'The body is no text in UTF-8. Within JSON, bytes stand in base64, as {"b64": "..."}.'
SHOWN = 200  # characters of a value in a message
_ENCODER = json.JSONEncoder(indent=4, ensure_ascii=False)
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
            about = NOT_TEXT if str(error).startswith("str is not valid UTF-8") else error
            raise invalid_argument(f"JSON Parse error: {about}") from error
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


def predict_inputs(document: dict[str, Any], inputs: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], bool]:
    """Returns the inputs in a `:predict` body by name, and whether the reply is to be in rows.

    Args:
      document: the body.
      inputs: the signature's inputs: TensorInfo by name.

    Raises:
      StatusError: INVALID_ARGUMENT, with what is wrong where.
    """
    rows, columns = "instances" in document, "inputs" in document
    if rows and columns:
        raise invalid_argument(
            f"JSON Value: {_shown(document)} Not formatted correctly expecting only one of 'inputs' or 'instances' "
            "keys to exist "
        )
    if not rows and not columns:
        raise invalid_argument("Missing 'inputs' or 'instances' key")
    return (_of_rows(document["instances"], inputs) if rows else _of_columns(document["inputs"], inputs)), rows


def classification_request(document: dict[str, Any]) -> classification_pb2.ClassificationRequest:
    """Returns the request of a `:classify` body."""
    return classification_pb2.ClassificationRequest(input=_examples(document, "classify"))


def regression_request(document: dict[str, Any]) -> regression_pb2.RegressionRequest:
    """Returns the request of a `:regress` body."""
    return regression_pb2.RegressionRequest(input=_examples(document, "regress"))


def _of_rows(instances: Any, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    if not isinstance(instances, list):
        raise invalid_argument(f"JSON Value: {_shown(instances)} Excepting 'instances' to be an list/array")
    if not instances:
        raise invalid_argument(f"JSON Value: {_shown(instances)} No values in 'instances' array")
    if not isinstance(instances[0], dict) and len(inputs) > 1:
        raise invalid_argument(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    try:
        if _is_object(instances[0]):
            if any(not _is_object(element) or element.keys() != inputs.keys() for element in instances):
                raise invalid_argument(NOT_ALIKE)
            return {name: _array([element[name] for element in instances], info) for name, info in inputs.items()}
        if any(_is_object(element) for element in instances):
            raise invalid_argument(NOT_ALIKE)
        name, info = next(iter(inputs.items()))
        return {name: _array(instances, info)}
    except StatusError as error:
        with contextlib.suppress(_TooMuch):
            _explain_rows(instances, inputs, iter(range(EXPLAINED)))
        raise error


def _explain_rows(instances: list[Any], inputs: Mapping[str, Any], left: Iterator[int]) -> None:
    """Goes through rows one after the other, as the real server does, to raise its words; see `_explain`."""
    shapes: dict[str, list[int]] = {}

    def look(value: Any, name: str) -> None:
        if name not in inputs:
            raise invalid_argument(f"JSON object: does not have named input: {name}")
        shape = _dense_shape(value)
        _explain(value, shape, tf.dtypes.as_dtype(inputs[name].dtype), left)
        first = shapes.setdefault(name, shape)
        if math.prod(first) != math.prod(shape):
            raise invalid_argument(f"Expecting tensor size: {math.prod(first)} but got: {math.prod(shape)}")
        if first != shape:
            raise invalid_argument(f"Expecting shape {_shape_text(first)} but got: {_shape_text(shape)}")

    are_objects = _is_object(instances[0])
    for index, element in enumerate(instances):
        if are_objects != _is_object(element):
            kinds = ("object", "list") if are_objects else ("value/list", "object")
            raise invalid_argument(f"Expecting {kinds[0]} but got {kinds[1]} at item {index} of input list")
        for name, value in element.items() if are_objects else [(next(iter(inputs)), element)]:
            try:
                look(value, name)
            except StatusError as error:
                key = f" key: {name}" if are_objects else ""
                raise invalid_argument(
                    f"Failed to process element: {index}{key} of 'instances' list. Error: {error.code}: {error.message}"
                ) from None
        if are_objects and element.keys() != inputs.keys():
            raise invalid_argument(
                f"Failed to process element: {index} of 'instances' list. JSON object: {_shown(element)} "
                f"keys must be equal to: {','.join(sorted(inputs))}"
            )


def _of_columns(value: Any, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    if not _is_object(value):
        if len(inputs) > 1:
            raise invalid_argument(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        value = {next(iter(inputs)): value}
    arrays = {}
    for name, info in sorted(inputs.items()):
        if name not in value:
            raise invalid_argument(f"Missing named input: {name} in 'inputs' object.")
        try:
            arrays[name] = _array(value[name], info)
        except StatusError as error:
            with contextlib.suppress(_TooMuch):
                _explain(value[name], _dense_shape(value[name]), tf.dtypes.as_dtype(info.dtype), iter(range(EXPLAINED)))
            raise error
    return arrays


def _dense_shape(value: Any) -> list[int]:
    """Returns the shape that a value's first elements have."""
    shape: list[int] = []
    while isinstance(value, list) and len(shape) < MAX_RANK:
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return shape


def _array(value: Any, info: Any) -> np.ndarray:
    """Returns nested lists as an array of a TensorInfo's type.

    Raises:
      StatusError: INVALID_ARGUMENT for ragged lists and values of another type; see `_explain` for the words.
    """
    dtype = tf.dtypes.as_dtype(info.dtype)
    shape = _dense_shape(value)
    leaves = [value]
    for size in shape:
        if any(not isinstance(item, list) or len(item) != size for item in leaves):
            raise invalid_argument("The lists are ragged.")
        leaves = list(itertools.chain.from_iterable(leaves))
    return _converted(leaves, dtype).reshape(shape)


class _TooMuch(Exception):
    """There are more values than are looked at."""


def _explain(value: Any, shape: Sequence[int], dtype: tf.DType, left: Iterator[int], level: int = 0) -> None:
    """Goes through nested lists as the real server does, depth first, to raise its words for the first mistake.

    Raises:
      StatusError: it says what is wrong.
      _TooMuch: `left`, one for each value, has come to its end.
    """
    if next(left, None) is None:
        raise _TooMuch
    if isinstance(value, list):
        if level >= len(shape):
            raise invalid_argument(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
        if len(value) != shape[level]:
            raise invalid_argument(
                f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
            )
        for item in value:
            _explain(item, shape, dtype, left, level + 1)
        return
    if level != len(shape):
        raise invalid_argument(
            f"JSON Value: {_shown(value)} found at incorrect level: {level + 1} in the JSON DOM. "
            f"Expected at level: {len(shape)}"
        )
    _converted([value], dtype)


def _converted(leaves: list[Any], dtype: tf.DType) -> np.ndarray:
    kinds = set(map(type, leaves))
    if dtype == tf.string:
        return np.array([_bytes(leaf) for leaf in leaves] + [None], dtype=object)[:-1]
    if dtype.is_floating:
        allowed = {int, float}
    elif dtype == tf.bool:
        allowed = {bool}
    elif dtype.is_integer:
        allowed = {int}
    else:
        first = leaves[0] if leaves else []
        raise StatusError("UNIMPLEMENTED", f"Conversion of JSON Value: {_shown(first)} to type: {dtype.name}")
    if not kinds <= allowed:
        wrong = next(leaf for leaf in leaves if type(leaf) not in allowed)
        raise _of_another_type(wrong, dtype)
    if dtype.is_integer and leaves and not dtype.min <= min(leaves) <= max(leaves) <= dtype.max:
        raise _of_another_type(next(leaf for leaf in leaves if not dtype.min <= leaf <= dtype.max), dtype)
    if dtype.is_floating:
        try:
            with np.errstate(over="ignore"):  # what is beyond the type's range becomes infinite, as in C++
                return np.array(leaves, np.float64).astype(dtype.as_numpy_dtype)
        except OverflowError as error:  # an integer of more than 300 digits
            raise invalid_argument(f"JSON Parse error: a number is too large for {dtype.name}") from error
    return np.array(leaves, dtype.as_numpy_dtype)


def _of_another_type(value: Any, dtype: tf.DType) -> StatusError:
    kind = "False" if value is False else _JSON_NAMES[type(value)]
    expected = tensors.type_name(dtype.as_datatype_enum)
    return invalid_argument(f"JSON Value: {_shown(value)} Type: {kind} is not of expected type: {expected}")


def _shape_text(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if not isinstance(value, dict):
        raise _of_another_type(value, tf.string)
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
        kinds = dict.fromkeys(_feature_kind(name, item) for item in values)
        if len(kinds) > 1:
            raise invalid_argument(f"Unexpected element type in feature: {name} expecting type: {next(iter(kinds))}")
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
    """Returns a value for a message, indented as the real server does it, and cut where it is long."""
    text = ""
    try:
        for piece in _ENCODER.iterencode(value):  # no more of a large one than is shown
            text += piece
            if len(text) > SHOWN:
                return f"{text[:SHOWN]}..."
    except RecursionError:
        return "(deeply nested)"
    return text
