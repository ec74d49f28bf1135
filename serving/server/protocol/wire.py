"""Numbers in protocol buffers' wire format, as arrays: a message makes a Python object of each, which takes 50 ns.

Source: https://protobuf.dev/programming-guides/encoding/
"""

import numpy as np

BYTES = 2  # the wire type of what has a length
_BITS = 7  # of a number in each byte of a varint
_FEW = 16  # numbers that a loop is faster with
_PIECE = 2**16  # numbers or bytes that are looked at once: in between they take many times the room


def varint(number: int) -> bytes:
    """Returns a number, not negative, as a varint."""
    if number < 128:
        return bytes((number,))
    parts = []
    while number >= 128:
        parts.append(number & 127 | 128)
        number >>= _BITS
    return bytes((*parts, number))


def field(number: int, content: bytes) -> bytes:
    """Returns a field of bytes, of a message, or of packed numbers."""
    return varint(number << 3 | BYTES) + varint(len(content)) + content


def only_field(message: bytes) -> bytes:
    """Returns the content of the one field that a message has, bytes or packed numbers; empty where it has none."""
    at = 0
    for _ in range(2 if message else 0):  # its key, and its length
        while message[at] & 128:
            at += 1
        at += 1
    return message[at:]


def pack_integers(values: np.ndarray) -> bytes:
    """Returns integers, one dimension, as varints; negative ones take ten bytes, as in every implementation."""
    if len(values) <= _FEW:
        return b"".join([varint(number % 2**64) for number in values.tolist()])
    return b"".join([_pack_piece(values[at : at + _PIECE]) for at in range(0, len(values), _PIECE)])


def unpack_integers(content: bytes) -> np.ndarray:
    """Returns varints as uint64, whose bits a negative number is in."""
    found, at = [np.zeros(0, np.uint64)], 0
    while at < len(content):
        end = min(at + _PIECE, len(content))
        while content[end - 1] & 128:  # in the middle of a number
            end += 1
        found.append(_unpack_piece(np.frombuffer(content, np.uint8, end - at, at)))
        at = end
    return np.concatenate(found)


def _pack_piece(values: np.ndarray) -> bytes:
    numbers = values.astype(np.int64, copy=False).view(np.uint64)
    largest = int(numbers.max(initial=0))
    if largest < 128:
        return numbers.astype(np.uint8).tobytes()
    width = -(-largest.bit_length() // _BITS)
    shifted = numbers[:, None] >> (_BITS * np.arange(width, dtype=np.uint64))
    used = np.concatenate([np.ones((len(numbers), 1), bool), shifted[:, 1:] > 0], axis=1)
    more = np.concatenate([used[:, 1:], np.zeros((len(numbers), 1), bool)], axis=1)
    return ((shifted & 127).astype(np.uint8) | (more.astype(np.uint8) << _BITS))[used].tobytes()


def _unpack_piece(parts: np.ndarray) -> np.ndarray:
    ends = parts < 128
    if ends.all():
        return parts.astype(np.uint64)
    starts = np.concatenate([[0], np.flatnonzero(ends)[:-1] + 1])
    places = np.arange(len(parts)) - np.repeat(starts, np.diff(np.append(starts, len(parts))))
    return np.add.reduceat((parts & 127).astype(np.uint64) << (_BITS * places).astype(np.uint64), starts)
