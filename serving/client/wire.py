"""The wire format of protocol buffers, as far as the client's few messages need it.

The client is to run where TensorFlow is not, and the generated messages of PredictionService import TensorFlow.

Source: https://protobuf.dev/programming-guides/encoding/
"""

import struct
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

Value = int | str | bytes | Sequence["Value"]
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# Numbers of tensorflow/core/framework/types.proto, and the field of TensorProto that holds a type's values.
DTYPES: dict[int, np.dtype] = {
    1: np.dtype(np.float32), 2: np.dtype(np.float64), 3: np.dtype(np.int32), 4: np.dtype(np.uint8),
    5: np.dtype(np.int16), 6: np.dtype(np.int8), 7: np.dtype(object), 9: np.dtype(np.int64), 10: np.dtype(np.bool_),
    17: np.dtype(np.uint16), 19: np.dtype(np.float16), 22: np.dtype(np.uint32), 23: np.dtype(np.uint64),
}  # fmt: skip
_NUMBERS = {dtype: number for number, dtype in DTYPES.items()}
_STRING = 7
_VALUES = {1: 5, 2: 6, 3: 7, 4: 7, 5: 7, 6: 7, 7: 8, 9: 10, 10: 11, 17: 7, 19: 13, 22: 16, 23: 17}


class Malformed(ValueError):
    """Bytes that are no message."""


def message(fields: Mapping[int, Value]) -> bytes:
    """Returns a message; numbers are varints, text and bytes have a length, a sequence repeats its field."""
    parts = []
    for number, value in fields.items():
        for one in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(one, int):
                parts += [_varint(number << 3 | _VARINT), _varint(one & 0xFFFFFFFFFFFFFFFF)]
            else:
                data = one.encode() if isinstance(one, str) else one
                parts += [_varint(number << 3 | _BYTES), _varint(len(data)), data]
    return b"".join(parts)


def fields(data: bytes) -> dict[int, list[int | bytes]]:
    """Returns a message's values by field number: varints as int, all else as bytes.

    Raises:
      Malformed: the bytes end early, or hold a type that does not exist.
    """
    found: dict[int, list[int | bytes]] = {}
    for number, value in _walk(memoryview(data)):
        found.setdefault(number, []).append(value)
    return found


def text(values: Mapping[int, Sequence[int | bytes]], number: int) -> str:
    """Returns a field's text; empty where it is missing."""
    value = values.get(number, [b""])[-1]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def integer(values: Mapping[int, Sequence[int | bytes]], number: int) -> int:
    """Returns a field's signed 64-bit integer; 0 where it is missing."""
    value = values.get(number, [0])[-1]
    if not isinstance(value, int):
        raise Malformed(f"field {number} is not a number")
    return value - (1 << 64) if value >= 1 << 63 else value


def inner(values: Mapping[int, Sequence[int | bytes]], number: int) -> list[bytes]:
    """Returns a field's messages."""
    found = values.get(number, [])
    if not all(isinstance(value, bytes) for value in found):
        raise Malformed(f"field {number} is not a message")
    return [value for value in found if isinstance(value, bytes)]


def entries(values: Mapping[int, Sequence[int | bytes]], number: int) -> dict[str, bytes]:
    """Returns a map field: its keys, and their messages."""
    pairs = [fields(entry) for entry in inner(values, number)]
    return {text(pair, 1): (inner(pair, 2) or [b""])[-1] for pair in pairs}


def tensor(array: np.ndarray) -> bytes:
    """Returns an array as a TensorProto; bytes and text as an object array or numpy's own.

    Raises:
      TypeError: an array of a type that TensorFlow Serving does not take.
    """
    array = np.asarray(array)
    if array.dtype.kind in "SUO":
        flat = [value.encode() if isinstance(value, str) else value for value in array.ravel().tolist()]
        if not all(isinstance(value, bytes) for value in flat):
            raise TypeError("an object array to send holds bytes or text")
        return message({1: _STRING, 2: shape(array.shape), 8: flat})
    number = _NUMBERS.get(array.dtype.newbyteorder("="))
    if number is None:
        raise TypeError(f"arrays of {array.dtype} cannot be sent")
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return message({1: number, 2: shape(array.shape), 4: little.tobytes()})


def shape(sizes: Sequence[int]) -> bytes:
    """Returns a TensorShapeProto."""
    return message({2: [message({1: size}) for size in sizes]})


def sizes(data: bytes) -> tuple[int, ...] | None:
    """Returns a TensorShapeProto's sizes, -1 where one is open; None where the rank is."""
    values = fields(data)
    return None if integer(values, 3) else tuple(integer(fields(dim), 1) for dim in inner(values, 2))


def array(data: bytes) -> np.ndarray:
    """Returns a TensorProto's values; strings as an object array of bytes.

    Raises:
      Malformed: the tensor contradicts itself, or its type is unknown.
    """
    values = fields(data)
    number = integer(values, 1)
    if number not in DTYPES:
        raise Malformed(f"a tensor has the unknown type {number}")
    dims = sizes((inner(values, 2) or [b""])[-1]) or ()
    count = int(np.prod(dims, dtype=np.int64))
    if 4 in values:
        content = inner(values, 4)[-1]
        flat = np.frombuffer(content, DTYPES[number].newbyteorder("<")).astype(DTYPES[number])
    elif number == _STRING:
        flat = np.array([*inner(values, 8), None], dtype=object)[:-1]
    else:
        flat = _numbers(values.get(_VALUES[number], []), number)
    if len(flat) < count and len(flat):
        flat = np.concatenate([flat, np.repeat(flat[-1:], count - len(flat))])  # TensorFlow's own shorthand
    if len(flat) != count:
        raise Malformed(f"a tensor of shape {dims} has {len(flat)} values")
    return flat.reshape(dims)


def _numbers(given: Sequence[int | bytes], number: int) -> np.ndarray:
    """Returns the values of a repeated field, packed or not."""
    dtype = DTYPES[number]
    if number in (1, 2):
        return np.frombuffer(b"".join(part for part in given if isinstance(part, bytes)), dtype.newbyteorder("<"))
    integers: list[int] = []
    for part in given:
        integers += [part] if isinstance(part, int) else _varints(part)
    if number == 19:
        return np.array(integers, np.uint16).view(np.float16)
    return np.array(integers, np.uint64).astype(dtype)  # keeps the low bits: two's complement


def _varints(data: bytes) -> list[int]:
    view, at, found = memoryview(data), 0, []
    while at < len(view):
        value, at = _read_varint(view, at)
        found.append(value)
    return found


def _walk(view: memoryview) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(view):
        tag, at = _read_varint(view, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _read_varint(view, at)
            yield tag >> 3, value
            continue
        if kind == _BYTES:
            length, at = _read_varint(view, at)
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            raise Malformed(f"there is no wire type {kind}")
        if at + length > len(view):
            raise Malformed("the message ends early")
        yield tag >> 3, bytes(view[at : at + length])
        at += length


def _read_varint(view: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(view):
            raise Malformed("the message ends early")
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise Malformed("a number is too long")


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def frame(data: bytes) -> bytes:
    """Returns a message as gRPC frames it: not compressed, its length, itself."""
    return struct.pack(">BI", 0, len(data)) + data
