"""Arrays as TensorProto messages, and back."""

from typing import Any

import numpy as np

from serving.client import messages

_STRING, _HALF = 7, 19
_WIDE = (1, 2, 23)  # float, double and uint64, which do not fit into int64
# Number of a type in tensorflow/core/framework/types.proto -> the array's type, and the field that holds its values.
_TYPES: dict[int, tuple[type, str]] = {
    1: (np.float32, "float_val"), 2: (np.float64, "double_val"), 3: (np.int32, "int_val"), 4: (np.uint8, "int_val"),
    5: (np.int16, "int_val"), 6: (np.int8, "int_val"), _STRING: (np.object_, "string_val"),
    9: (np.int64, "int64_val"), 10: (np.bool_, "bool_val"), 17: (np.uint16, "int_val"),
    _HALF: (np.float16, "half_val"), 22: (np.uint32, "uint32_val"), 23: (np.uint64, "uint64_val"),
}  # fmt: skip
DTYPES: dict[int, np.dtype] = {number: np.dtype(kind) for number, (kind, _) in _TYPES.items()}
_NUMBERS = {dtype: number for number, dtype in DTYPES.items()}


def to_message(value: Any) -> Any:
    """Returns an array as a TensorProto; bytes and text as an object array or numpy's own.

    Raises:
      TypeError: an array of a type that TensorFlow Serving does not take.
    """
    array = np.asarray(value)
    shape = messages.new("TensorShapeProto", dim=[messages.new("Dim", size=size) for size in array.shape])
    if array.dtype.kind in "SUO":
        flat = [item.encode() if isinstance(item, str) else item for item in array.ravel().tolist()]
        if not all(isinstance(item, bytes) for item in flat):
            raise TypeError("an object array to send holds bytes or text")
        return messages.new("TensorProto", dtype=_STRING, tensor_shape=shape, string_val=flat)
    number = _NUMBERS.get(array.dtype.newbyteorder("="))
    if number is None:
        raise TypeError(f"arrays of {array.dtype} cannot be sent")
    content = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    return messages.new("TensorProto", dtype=number, tensor_shape=shape, tensor_content=content)


def to_array(tensor: Any) -> np.ndarray:
    """Returns a TensorProto's values; strings as an object array of bytes.

    Raises:
      ValueError: the tensor contradicts itself, or its type is unknown.
    """
    if tensor.dtype not in DTYPES:
        raise ValueError(f"a tensor has the unknown type {tensor.dtype}")
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    if min(shape, default=0) < 0:
        raise ValueError(f"a tensor has the shape {shape}")
    flat = _values(tensor)
    count = int(np.prod(shape, dtype=object))
    if 0 < len(flat) < count <= MAX_REPEATED:
        flat = np.concatenate([flat, np.repeat(flat[-1:], count - len(flat))])  # TensorFlow's own shorthand
    if len(flat) != count:
        raise ValueError(f"a tensor of shape {shape} has {len(flat)} values")
    return flat.reshape(shape)


MAX_REPEATED = 2**26  # values; no reply of a few bytes may take the client's memory


def _values(tensor: Any) -> np.ndarray:
    dtype, field = DTYPES[tensor.dtype], _TYPES[tensor.dtype][1]
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, dtype.newbyteorder("<")).astype(dtype)
    values = getattr(tensor, field)
    if tensor.dtype == _STRING:
        return np.array([*values, None], dtype=object)[:-1]
    if tensor.dtype == _HALF:
        return np.array(values, np.int32).astype(np.uint16).view(np.float16)
    exact = dtype if tensor.dtype in _WIDE else np.dtype(np.int64)
    return np.fromiter(values, exact, len(values)).astype(dtype)
