"""TensorProto to array and back, the fields checked before anything is allocated."""

import math

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2

from serving.server.protocol.errors import invalid_argument

# TensorProto keeps each type's values in one of these fields.
_FIELDS = {
    tf.float32: "float_val",
    tf.float64: "double_val",
    tf.int32: "int_val",
    tf.uint8: "int_val",
    tf.int16: "int_val",
    tf.int8: "int_val",
    tf.uint16: "int_val",
    tf.string: "string_val",
    tf.int64: "int64_val",
    tf.bool: "bool_val",
    tf.uint32: "uint32_val",
    tf.uint64: "uint64_val",
}
_DTYPES = {dtype.as_datatype_enum: dtype for dtype in _FIELDS} | {
    types_pb2.DT_HALF: tf.float16,
    types_pb2.DT_BFLOAT16: tf.bfloat16,
}
_BY_NUMPY = {
    np.dtype(dtype.as_numpy_dtype): (number, _FIELDS.get(dtype, "half_val")) for number, dtype in _DTYPES.items()
}
_PIECE = 2**16  # numbers that are copied at once
_ELEMENT = 64  # bytes that an element of a string tensor takes at least


def type_name(number: int) -> str:
    """Returns a type as the real server names it: `float`, `int64`."""
    try:
        return types_pb2.DataType.Name(number).removeprefix("DT_").lower()
    except ValueError:
        return f"unknown dtype enum ({number})"


def to_array(proto: tensor_pb2.TensorProto, limit: int) -> np.ndarray:
    """Returns a tensor's values.

    Args:
      proto: the tensor; of fewer values than elements the last is repeated, or zero where there is none, and of more
        the first ones are taken, as TensorFlow reads it.
      limit: the most bytes that the array may take.

    Raises:
      StatusError: INVALID_ARGUMENT, where type, shape and values do not belong together, or the shape is too large.
    """
    dtype = _DTYPES.get(proto.dtype)
    if dtype is None:
        raise invalid_argument(f"Tensors of type {type_name(proto.dtype)} cannot be fed.")
    shape = _shape(proto, limit, dtype)
    if proto.tensor_content:
        if dtype == tf.string:
            raise invalid_argument("A string tensor cannot be given as tensor_content.")
        if len(proto.tensor_content) != math.prod(shape) * dtype.size:
            raise invalid_argument(
                f"tensor_content has {len(proto.tensor_content)} bytes; shape {list(shape)} of "
                f"{type_name(proto.dtype)} takes {math.prod(shape) * dtype.size}."
            )
        return np.frombuffer(proto.tensor_content, dtype.as_numpy_dtype).reshape(shape)
    return _filled(_values(proto, dtype), shape)


def claimed_bytes(proto: tensor_pb2.TensorProto) -> int:
    """Returns about how many bytes an array of a tensor takes by its shape, which may say more than is sent."""
    return 8 * math.prod(max(0, dim.size) for dim in proto.tensor_shape.dim)


def to_proto(array: np.ndarray, as_content: bool = False) -> tensor_pb2.TensorProto:
    """Returns an array as a tensor; see `fill`."""
    proto = tensor_pb2.TensorProto()
    fill(proto, array, as_content)
    return proto


def fill(proto: tensor_pb2.TensorProto, array: np.ndarray, as_content: bool = False) -> None:
    """Writes an array into an empty tensor.

    Args:
      proto: the tensor.
      array: of any type that TensorFlow has; bytes as an object array.
      as_content: puts numbers into `tensor_content`, which is smaller and faster, and not into the type's own field.
    """
    array = np.asarray(array)
    kind = array.dtype.kind
    number, field = (types_pb2.DT_STRING, "string_val") if kind in "OSU" else _BY_NUMPY.get(array.dtype, (0, ""))
    if not field:  # complex, and what else TensorFlow has
        proto.CopyFrom(tf.make_tensor_proto(array))
        return
    proto.dtype = number
    proto.tensor_shape.SetInParent()  # of a scalar too, which has no dimension
    dims = proto.tensor_shape.dim
    for size in array.shape:
        dims.add().size = size
    if field == "string_val":
        strings = array.ravel().tolist()
        proto.string_val.extend(tf.compat.as_bytes(item) if isinstance(item, str) else item for item in strings)
    elif as_content:
        proto.tensor_content = array.tobytes()
    else:
        values, kept = array.ravel(), getattr(proto, field)
        values = values.view(np.uint16) if field == "half_val" else values
        for start in range(0, len(values), _PIECE):  # Python's numbers take many times the room
            kept.extend(values[start : start + _PIECE].tolist())


def _shape(proto: tensor_pb2.TensorProto, limit: int, dtype: tf.DType) -> tuple[int, ...]:
    if proto.tensor_shape.unknown_rank:
        raise invalid_argument("A tensor to feed must have a shape.")
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    if len(shape) > 32 or min(shape, default=0) < 0:  # numpy's own limit of dimensions
        raise invalid_argument(f"Shape {list(shape[:33])} is not one of a tensor.")
    # A shape with a zero in it holds nothing, and must not be vast in its other dimensions all the same.
    size = math.prod(max(1, item) for item in shape) * (_ELEMENT if dtype == tf.string else dtype.size)
    if size > limit:
        raise invalid_argument(f"Shape {list(shape)} takes {size} bytes; this server takes {limit} at most.")
    return shape


def _values(proto: tensor_pb2.TensorProto, dtype: tf.DType) -> np.ndarray:
    """Returns what the type's field holds; int_val is cast to the narrower types, as TensorFlow does."""
    if dtype not in _FIELDS:
        return np.array(proto.half_val, np.uint32).astype(np.uint16).view(dtype.as_numpy_dtype)
    values, field = getattr(proto, _FIELDS[dtype]), _FIELDS[dtype]
    if dtype == tf.string:
        return np.array([*values, None], dtype=object)[:-1]  # strings of one length would become numpy's own
    return np.array(values, np.int32 if field == "int_val" else dtype.as_numpy_dtype).astype(dtype.as_numpy_dtype)


def _filled(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns as many values as a shape has: the first ones, or those that there are and the last one again."""
    count = math.prod(shape)
    if len(array) < min(count, 2):  # one value for all takes no more memory than the value
        return np.broadcast_to(array[0] if len(array) else _nothing(array.dtype)[0], shape)
    if len(array) < count:
        filling = array[-1:] if len(array) else _nothing(array.dtype)
        array = np.concatenate([array, np.repeat(filling, count - len(array))])
    return array[:count].reshape(shape)


def _nothing(dtype: np.dtype) -> np.ndarray:
    """Returns the value of a type where none is given."""
    return np.array([b""], dtype=object) if dtype.kind == "O" else np.zeros(1, dtype)
