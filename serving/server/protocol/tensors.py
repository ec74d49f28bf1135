"""TensorProto to array and back, the fields checked before anything is allocated; no Python object for each number."""

import functools
import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2

from serving.server.protocol import wire
from serving.server.protocol.errors import StatusError, invalid_argument


class _Type(NamedTuple):
    """A type of tensors: NumPy's, and the field of TensorProto that holds its values."""

    numpy: np.dtype
    field: str


_FIELDS = {
    "float_val": [tf.float32],
    "double_val": [tf.float64],
    "int_val": [tf.int32, tf.uint8, tf.int16, tf.int8, tf.uint16],
    "string_val": [tf.string],
    "int64_val": [tf.int64],
    "bool_val": [tf.bool],
    "uint32_val": [tf.uint32],
    "uint64_val": [tf.uint64],
    "half_val": [tf.float16, tf.bfloat16],
}
_TYPES = {
    dtype.as_datatype_enum: _Type(np.dtype(dtype.as_numpy_dtype), name)
    for name, dtypes in _FIELDS.items()
    for dtype in dtypes
}
_BY_NUMPY = {kind.numpy: number for number, kind in _TYPES.items()}  # strings are of objects
_NUMBERS = {name: tensor_pb2.TensorProto.DESCRIPTOR.fields_by_name[name].number for name in _FIELDS}
_DTYPE, _SHAPE, _CONTENT = (
    tensor_pb2.TensorProto.DESCRIPTOR.fields_by_name[name].number
    for name in ("dtype", "tensor_shape", "tensor_content")
)
_STRING = wire.varint(_NUMBERS["string_val"] << 3 | wire.BYTES)
_SHORT = [_STRING + wire.varint(size) for size in range(128)]
_MANY = 2**14  # strings whose lengths are not looked at one by one
_ELEMENT = 64  # bytes that an element of a string tensor takes at least


class TooLarge(StatusError):
    """A tensor that takes more bytes than are allowed."""


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
      TooLarge: INVALID_ARGUMENT, where the shape takes more.
      StatusError: INVALID_ARGUMENT, where type, shape and values do not belong together.
    """
    number = proto.dtype
    kind = _TYPES.get(number)
    if kind is None:
        raise invalid_argument(f"Tensors of type {type_name(number)} cannot be fed.")
    shape = _shape(proto, limit, kind)
    if content := proto.tensor_content:
        if kind.field == "string_val":
            raise invalid_argument("A string tensor cannot be given as tensor_content.")
        if len(content) != math.prod(shape) * kind.numpy.itemsize:
            raise invalid_argument(
                f"tensor_content has {len(content)} bytes; shape {list(shape)} of "
                f"{type_name(number)} takes {math.prod(shape) * kind.numpy.itemsize}."
            )
        return np.frombuffer(content, kind.numpy).reshape(shape)
    return _filled(_values(proto, kind), shape)


def size_of(array: np.ndarray) -> int:
    """Returns about how many bytes an array takes as a message; of very many strings no less than 8 bytes each."""
    if array.dtype == object and array.size and not any(array.strides):  # one string for all
        return array.size * (8 + len(array.flat[0]))
    if array.dtype != object or array.size > _MANY:
        return array.nbytes
    return array.nbytes + sum(map(len, array.ravel().tolist()))


def to_proto(array: np.ndarray, as_content: bool = False) -> tensor_pb2.TensorProto:
    """Returns an array as a tensor; see `serialized`."""
    return tensor_pb2.TensorProto.FromString(serialized(array, as_content))


def serialized(array: np.ndarray, as_content: bool = False) -> bytes:
    """Returns an array as a serialized TensorProto.

    Args:
      array: of any type that TensorFlow has; bytes as an object array.
      as_content: puts numbers into `tensor_content`, and not into the type's own field.
    """
    number = _BY_NUMPY.get(array.dtype)
    if number is None:  # NumPy's own strings, complex, and what else TensorFlow has
        return tf.make_tensor_proto(array).SerializeToString()
    kind = _TYPES[number]
    start = _start(number, array.shape)
    if kind.field == "string_val":
        return start + b"".join([_string(item) for item in array.ravel().tolist()])
    if as_content:
        return start + wire.field(_CONTENT, array.tobytes())
    return start + wire.field(_NUMBERS[kind.field], _packed(array.ravel(), kind))


@functools.lru_cache(maxsize=1024)  # replies have few shapes
def _start(number: int, shape: tuple[int, ...]) -> bytes:
    """Returns what a tensor's values come after: its type and its shape, which a scalar has too."""
    dims = b"".join([wire.field(2, wire.varint(1 << 3) + wire.varint(size)) for size in shape])
    return wire.varint(_DTYPE << 3) + wire.varint(number) + wire.field(_SHAPE, dims)


def _string(item: bytes | str) -> bytes:
    value = item if type(item) is bytes else tf.compat.as_bytes(item)
    size = len(value)
    return (_SHORT[size] if size < 128 else _STRING + wire.varint(size)) + value


def _packed(values: np.ndarray, kind: _Type) -> bytes:
    """Returns numbers as the packed values of their field."""
    if kind.field in ("float_val", "double_val"):
        return values.tobytes()
    return wire.pack_integers(values.view(np.uint16) if kind.field == "half_val" else values)


def _shape(proto: tensor_pb2.TensorProto, limit: int, kind: _Type) -> tuple[int, ...]:
    given = proto.tensor_shape
    if given.unknown_rank:
        raise invalid_argument("A tensor to feed must have a shape.")
    shape = tuple([dim.size for dim in given.dim])
    if len(shape) > 32 or min(shape, default=0) < 0:  # numpy's own limit of dimensions
        raise invalid_argument(f"Shape {list(shape[:33])} is not one of a tensor.")
    # A shape with a zero in it holds nothing, and must not be vast in its other dimensions all the same.
    size = kind.numpy.itemsize
    if kind.field == "string_val":  # of fewer than there are elements the last is repeated
        size = max(_ELEMENT, len(proto.string_val[-1]) if proto.string_val else 0)
    for item in shape:
        size *= item or 1
    if size > limit:
        raise TooLarge(
            "INVALID_ARGUMENT", f"Shape {list(shape)} takes {size} bytes; this server takes {limit} at most."
        )
    return shape


def _values(proto: tensor_pb2.TensorProto, kind: _Type) -> np.ndarray:
    """Returns what the type's field holds; int_val is cast to the narrower types, as TensorFlow does."""
    if kind.field == "string_val":
        return np.array([*proto.string_val, None], dtype=object)[:-1]  # strings of one length would become numpy's own
    content = wire.only_field(_with_only(proto, kind.field).SerializeToString())
    if kind.field in ("float_val", "double_val"):
        return np.frombuffer(content, kind.numpy)
    numbers = wire.unpack_integers(content)
    if kind.field == "half_val":
        return numbers.astype(np.uint16).view(kind.numpy)
    return numbers.view(np.int64).astype(kind.numpy)


def _with_only(proto: tensor_pb2.TensorProto, field: str) -> tensor_pb2.TensorProto:
    """Returns a copy of a tensor without its other fields, known and unknown ones."""
    kept = tensor_pb2.TensorProto()
    kept.CopyFrom(proto)
    kept.DiscardUnknownFields()
    for descriptor, _ in kept.ListFields():
        if descriptor.name != field:
            kept.ClearField(descriptor.name)
    return kept


def _filled(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns as many values as a shape has: the first ones, or those that there are and the last one again."""
    count = math.prod(shape)
    if len(array) < min(count, 2):  # one value for all takes no more memory than the value
        one = array[:1] if len(array) else _nothing(array.dtype)
        return np.broadcast_to(one.reshape(()), shape)  # not its item, which would make a string one of NumPy's own
    if len(array) < count:
        filling = array[-1:] if len(array) else _nothing(array.dtype)
        array = np.concatenate([array, np.repeat(filling, count - len(array))])
    return array[:count].reshape(shape)


def _nothing(dtype: np.dtype) -> np.ndarray:
    """Returns the value of a type where none is given."""
    return np.array([b""], dtype=object) if dtype.kind == "O" else np.zeros(1, dtype)
