import contextlib

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tensorflow.core.framework import tensor_pb2, types_pb2

from serving.client import messages
from serving.client import tensors as client_tensors
from serving.server.protocol import tensors, wire
from serving.server.protocol.errors import StatusError

DTYPES = [
    np.float32, np.float64, np.int32, np.uint8, np.int16, np.int8, np.int64, np.bool_, np.uint16, np.uint32, np.uint64,
    np.float16, tf.bfloat16.as_numpy_dtype,
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("as_content", [False, True])
@pytest.mark.compatible("tensors")
def test_every_type_there_and_back_and_as_tensorflow_reads_it(dtype, as_content):
    array = np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype)
    proto = tensors.to_proto(array, as_content)
    assert np.array_equal(tf.make_ndarray(proto), array)
    assert np.array_equal(tensors.to_array(proto, 2**20), array)
    assert np.array_equal(tensors.to_array(tf.make_tensor_proto(array), 2**20), array)


@pytest.mark.compatible("tensors")
def test_strings_and_negative_numbers():
    words = np.array([[b"a"], [b"\xff\x00"]], dtype=object)
    assert tensors.to_array(tensors.to_proto(words), 2**20).tolist() == words.tolist()
    assert tensors.to_array(tf.make_tensor_proto([-5, 3], tf.int8), 2**20).tolist() == [-5, 3]


@pytest.mark.parametrize(("values", "expected"), [([1, 2], [1, 2, 2, 2]), ([], [0, 0, 0, 0])])
@pytest.mark.compatible("tensors")
def test_few_values_repeat_the_last_and_none_are_zero_as_in_tensorflow(values, expected):
    proto = shaped(4, float_val=values)
    assert tensors.to_array(proto, 2**20).tolist() == tf.make_ndarray(proto).tolist() == expected


@pytest.mark.compatible("tensors")
def test_of_more_values_than_a_shape_has_the_first_are_taken():
    assert tensors.to_array(shaped(2, float_val=[1, 2, 3]), 2**20).tolist() == [1, 2]


@pytest.mark.compatible("tensors")
def test_strings_that_are_not_given_are_empty():
    assert tensors.to_array(shaped(2, dtype=types_pb2.DT_STRING), 2**20).tolist() == [b"", b""]


@pytest.mark.compatible("tensors")
def test_scalars_have_a_shape_without_dimensions():
    proto = tensors.to_proto(np.array(3, np.float32))
    assert proto.HasField("tensor_shape")
    assert not proto.tensor_shape.dim


def shaped(*sizes, dtype=types_pb2.DT_FLOAT, **values):
    proto = tensor_pb2.TensorProto(dtype=dtype, **values)
    for size in sizes:
        proto.tensor_shape.dim.add().size = size
    return proto


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (shaped(2**40, float_val=[0]), "this server takes 1048576 at most"),
        (shaped(2**31, 2**31, 2**31, float_val=[0]), "at most"),
        (shaped(784, 2**62, 0), "at most"),
        (shaped(-1, float_val=[0]), "is not one of a tensor"),
        (shaped(*[1] * 200, float_val=[0]), "is not one of a tensor"),
        (shaped(2, tensor_content=b"123"), "tensor_content has 3 bytes"),
        (shaped(1, dtype=types_pb2.DT_STRING, tensor_content=b"1"), "cannot be given as tensor_content"),
        (shaped(1, dtype=types_pb2.DT_RESOURCE), "type resource cannot be fed"),
        (shaped(1, dtype=types_pb2.DT_INVALID), "type invalid cannot be fed"),
    ],
)
@pytest.mark.compatible(
    "tensors",
    differs="shapes beyond the limit, or that contradict their content, are refused before memory is taken",
)
def test_contradictions_and_bombs_are_refused(proto, message):
    with pytest.raises(StatusError, match=message) as error:
        tensors.to_array(proto, 2**20)
    assert error.value.code == "INVALID_ARGUMENT"


@pytest.mark.compatible("tensors")
def test_numbers_too_large_for_their_type_are_cast_as_tensorflow_casts_them():
    assert tensors.to_array(shaped(1, dtype=types_pb2.DT_UINT8, int_val=[300]), 2**20).tolist() == [44]


SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
NUMBERS = st.sampled_from(["<f4", "<f8", "<f2", "i1", "<i2", "<i4", "<i8", "u1", "<u2", "<u4", "<u8", "?"]).flatmap(
    lambda dtype: hnp.arrays(np.dtype(dtype), SHAPES)
)
STRINGS = SHAPES.flatmap(lambda shape: hnp.arrays(object, shape, elements=st.binary(max_size=4), fill=st.nothing()))


def same(found, array):
    return found.dtype == array.dtype and found.shape == array.shape and found.tobytes() == array.tobytes()


@given(NUMBERS, st.booleans())
def test_client_and_server_send_any_array_to_each_other(array, as_content):
    sent = client_tensors.to_message(array).SerializeToString()
    assert same(tensors.to_array(tensor_pb2.TensorProto.FromString(sent), 2**20), array)
    message = messages.new("TensorProto")
    message.ParseFromString(tensors.to_proto(array, as_content).SerializeToString())
    assert same(client_tensors.to_array(message), array)


@given(STRINGS)
def test_client_and_server_send_any_strings_to_each_other(array):
    sent = client_tensors.to_message(array).SerializeToString()
    assert tensors.to_array(tensor_pb2.TensorProto.FromString(sent), 2**20).tolist() == array.tolist()
    message = messages.new("TensorProto")
    message.ParseFromString(tensors.to_proto(array).SerializeToString())
    assert client_tensors.to_array(message).tolist() == array.tolist()


@given(
    st.integers(0, 30),
    st.lists(st.one_of(st.integers(0, 5), st.integers(-(2**63), 2**63 - 1)), max_size=5),
    st.sampled_from(["float_val", "double_val", "int_val", "int64_val", "half_val", "bool_val"]),
    st.lists(st.integers(0, 1), max_size=6),
    st.binary(max_size=16),
)
def test_any_tensor_is_read_or_refused_on_either_side(number, sizes, field, values, content):
    proto = shaped(*sizes, dtype=number, tensor_content=content)
    getattr(proto, field).extend(values)
    with contextlib.suppress(StatusError):
        assert tensors.to_array(proto, 2**16).shape == tuple(sizes)
    message = messages.new("TensorProto")
    message.ParseFromString(proto.SerializeToString())
    with contextlib.suppress(ValueError):
        assert client_tensors.to_array(message).shape == tuple(sizes)


def test_one_value_for_a_vast_shape_takes_no_memory():
    proto = tensors.tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[3])
    proto.tensor_shape.dim.add().size = 2**25
    array = tensors.to_array(proto, 2**27)
    assert (array.shape, array.strides, array[-1]) == ((2**25,), (0,), 3)
    with pytest.raises(tensors.TooLarge, match="takes 134217728 bytes"):
        tensors.to_array(proto, 2**16)


@pytest.mark.parametrize("kind", [np.float32, np.int64, np.int32, np.uint8])
def test_many_numbers_are_read_and_written_in_pieces(kind):
    values = np.arange(3 * wire._PIECE + 5).astype(kind)
    assert np.array_equal(tensors.to_array(tensors.to_proto(values), 2**27), values)


def test_what_protobuf_does_not_know_is_not_read_as_numbers():
    """A group, which protobuf keeps as an unknown field, and fields of other types, some of them many times."""
    group = wire.varint(100 << 3 | 3) + wire.varint(10 << 3 | 2) + b"\x01\x05" + wire.varint(100 << 3 | 4)
    data = shaped(1, dtype=types_pb2.DT_INT64).SerializeToString() + group + wire.field(8, b"") * 1000
    assert tensors.to_array(tensor_pb2.TensorProto.FromString(data), 2**20).tolist() == [0]
    data += wire.field(10, b"\x07")
    assert tensors.to_array(tensor_pb2.TensorProto.FromString(data), 2**20).tolist() == [7]


def test_sizes_are_of_what_a_message_takes():
    words = np.array([b"ab" * 1000, b"c"], object)
    assert 2000 < tensors.size_of(words) < 2100
    proto = shaped(50, 2, dtype=types_pb2.DT_STRING, string_val=[b"a" * 2000 + b"\0"])
    array = tensors.to_array(proto, 2**20)
    assert (array.dtype, array[49, 1][-2:]) == (object, b"a\0")
    assert 200_000 < tensors.size_of(array) < 205_000
    assert tensors.size_of(np.broadcast_to(array[0, 0:1], (2 * tensors._MANY,))) > 2000 * 2 * tensors._MANY
    assert tensors.size_of(np.zeros(10, np.float32)) == 40
    proto = shaped(2**20, dtype=types_pb2.DT_STRING, string_val=[b"x" * 1000])
    with pytest.raises(tensors.TooLarge):
        tensors.to_array(proto, 2**27)
