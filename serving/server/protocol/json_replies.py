"""Protocol buffers as JSON replies of the REST API.

Source: https://www.tensorflow.org/tfx/serving/api_rest, and tensorflow_serving/util/json_tensor.cc for the messages.
"""

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from tensorflow_serving.apis import classification_pb2, regression_pb2

from serving.server.protocol.errors import invalid_argument


def predict_reply(outputs: Mapping[str, np.ndarray], rows: bool) -> bytes:
    """Returns the body of a reply: `predictions` in rows, or `outputs` in columns.

    Args:
      outputs: by their names, sorted.
      rows: whether rows are wanted.

    Raises:
      StatusError: INVALID_ARGUMENT, where outputs without a common first dimension are to be rows.
    """
    if rows:
        for name, array in outputs.items():
            if not array.ndim:
                raise invalid_argument(f"Tensor name: {name} has no shape information ")
        sizes = {name: len(array) for name, array in outputs.items()}
        if len(set(sizes.values())) > 1:
            raise invalid_argument(f"Tensors have inconsistent batch sizes: {sizes}")
    plain = {name: _plain(name, array) for name, array in outputs.items()}
    if not rows:
        return _dumps({"outputs": plain if len(plain) > 1 else next(iter(plain.values()))})
    if len(plain) == 1:
        return _dumps({"predictions": next(iter(plain.values()))})
    names = list(plain)
    return _dumps({"predictions": [dict(zip(names, row, strict=True)) for row in zip(*plain.values(), strict=True)]})


def classification_reply(response: classification_pb2.ClassificationResponse) -> bytes:
    """Returns `results`: for each example, pairs of label and score."""
    results = [
        [[entry.label, np.float32(entry.score)] for entry in item.classes] for item in response.result.classifications
    ]
    return _dumps({"results": results})


def regression_reply(response: regression_pb2.RegressionResponse) -> bytes:
    """Returns `results`: for each example, its value."""
    return _dumps({"results": [np.float32(item.value) for item in response.result.regressions]})


def _plain(name: str, array: np.ndarray) -> Any:
    """Returns an array as what `_dumps` writes: itself, or for strings nested lists."""
    if array.dtype.kind == "c":
        raise invalid_argument(f"Type {array.dtype} cannot be written as JSON.")
    if array.dtype.kind not in "OSU":
        known = array.dtype.kind in "fiub" and array.dtype != np.float16  # orjson knows neither half nor bfloat16
        array = np.ascontiguousarray(array) if array.ndim else array  # as orjson wants it
        return (array if known else array.astype(np.float32))[()]  # and no array without dimensions
    as_bytes = name.endswith("_bytes")

    def of(value: Any) -> Any:
        if isinstance(value, list):
            return [of(item) for item in value]
        text = value.encode() if isinstance(value, str) else value
        return {"b64": base64.b64encode(text).decode()} if as_bytes else text.decode("utf-8", "replace")

    return of(array.tolist())


def _dumps(value: dict[str, Any]) -> bytes:
    """Returns JSON; floats in as few digits as their own type needs; NaN and infinities by name."""
    if all(np.isfinite(array).all() for array in _floats(value)):
        return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_INDENT_2)
    return json.dumps(_listed(value)).encode()


def _floats(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [element for item in value.values() for element in _floats(item)]
    if isinstance(value, list):
        return [element for item in value for element in _floats(item)]
    return [value] if getattr(getattr(value, "dtype", None), "kind", "") == "f" else []


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_listed(item) for item in value]
    if isinstance(value, np.ndarray):
        return [_listed(item) for item in value] if value.ndim else _listed(value[()])
    if isinstance(value, np.floating):
        return float(str(value))
    return value.item() if isinstance(value, np.generic) else value
