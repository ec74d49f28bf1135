import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from serving.client import messages
from serving.client.tensors import to_array, to_message
from serving.server.protocol.tensors import to_proto

ARRAYS = [
    np.array([[1.5, -2], [0, 3]], np.float32), np.array(2.5), np.array([-1, 2**31 - 1], np.int32),
    np.array([-(2**63), 2**53 + 1]), np.array([True, False]), np.array([1, 255], np.uint8), np.array([-5], np.int8),
    np.array([2**64 - 1, 1, 2**53 + 1], np.uint64), np.array([1.5, -2], np.float16),
    np.array([[b"a", b"\xff"]], object), np.zeros((0, 3), np.float32),
]  # fmt: skip


def read(proto):
    """Returns what the client makes of TensorFlow's own message."""
    message = messages.new("TensorProto")
    message.ParseFromString(proto.SerializeToString())
    return to_array(message)


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{list(a.shape)}")
def test_what_the_client_writes_is_what_tensorflow_reads(array):
    proto = tensor_pb2.TensorProto.FromString(to_message(array).SerializeToString())
    assert np.array_equal(tf.make_ndarray(proto), array)


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{list(a.shape)}")
def test_what_tensorflow_writes_is_what_the_client_reads(array):
    assert np.array_equal(read(tf.make_tensor_proto(array)), array)


@pytest.mark.parametrize("array", [a for a in ARRAYS if a.size and a.dtype.kind != "O"], ids=lambda a: str(a.dtype))
def test_values_in_fields_of_their_own_are_read(array):
    assert np.array_equal(read(to_proto(array)), array)


def test_missing_values_repeat_the_last_one():
    proto = tf.make_tensor_proto([1.0, 2.0, 2.0, 2.0])
    proto.ClearField("tensor_content")
    proto.float_val.extend([1.0, 2.0])
    assert read(proto).tolist() == [1, 2, 2, 2]


def test_other_byte_orders_are_turned():
    assert to_array(to_message(np.array([7], ">i4"))).tolist() == [7]


@pytest.mark.parametrize(("size", "message"), [(1, "has 2 values"), (2**62, "has 2 values"), (-3, "has the shape")])
def test_tensors_that_contradict_themselves_are_refused(size, message):
    proto = tf.make_tensor_proto([1.0, 2.0])
    proto.tensor_shape.dim[0].size = size
    with pytest.raises(ValueError, match=message):
        read(proto)


def test_an_unknown_type_is_refused():
    with pytest.raises(ValueError, match="unknown type 0"):
        read(tensor_pb2.TensorProto())


@pytest.mark.parametrize(
    ("array", "message"),
    [(np.array([1j]), "arrays of complex128 cannot be sent"), (np.array([None], object), "bytes or text")],
)
def test_types_that_cannot_be_sent_are_refused(array, message):
    with pytest.raises(TypeError, match=message):
        to_message(array)
