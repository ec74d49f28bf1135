import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2

from serving.server.protocol import tensors
from serving.server.protocol.errors import StatusError

DTYPES = [
    np.float32, np.float64, np.int32, np.uint8, np.int16, np.int8, np.int64, np.bool_, np.uint16, np.uint32, np.uint64,
    np.float16, tf.bfloat16.as_numpy_dtype,
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("as_content", [False, True])
def test_every_type_there_and_back_and_as_tensorflow_reads_it(dtype, as_content):
    array = np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype)
    proto = tensors.to_proto(array, as_content)
    assert np.array_equal(tf.make_ndarray(proto), array)
    assert np.array_equal(tensors.to_array(proto, 2**20), array)
    assert np.array_equal(tensors.to_array(tf.make_tensor_proto(array), 2**20), array)


def test_strings_and_negative_numbers():
    words = np.array([[b"a"], [b"\xff\x00"]], dtype=object)
    assert tensors.to_array(tensors.to_proto(words), 2**20).tolist() == words.tolist()
    assert tensors.to_array(tf.make_tensor_proto([-5, 3], tf.int8), 2**20).tolist() == [-5, 3]


def test_few_values_repeat_the_last_as_in_tensorflow():
    proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[1, 2])
    proto.tensor_shape.dim.add().size = 4
    assert tensors.to_array(proto, 2**20).tolist() == tf.make_ndarray(proto).tolist() == [1, 2, 2, 2]


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
        (shaped(2, float_val=[1, 2, 3]), "3 values were given for shape"),
        (shaped(2), "0 values were given"),
        (shaped(2, tensor_content=b"123"), "tensor_content has 3 bytes"),
        (shaped(1, dtype=types_pb2.DT_STRING, tensor_content=b"1"), "cannot be given as tensor_content"),
        (shaped(1, dtype=types_pb2.DT_RESOURCE), "type resource cannot be fed"),
        (shaped(1, dtype=types_pb2.DT_INVALID), "type invalid cannot be fed"),
    ],
)
def test_contradictions_and_bombs_are_refused(proto, message):
    with pytest.raises(StatusError, match=message) as error:
        tensors.to_array(proto, 2**20)
    assert error.value.code == "INVALID_ARGUMENT"


def test_numbers_too_large_for_their_type_are_cast_as_tensorflow_casts_them():
    assert tensors.to_array(shaped(1, dtype=types_pb2.DT_UINT8, int_val=[300]), 2**20).tolist() == [44]
