import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import model_pb2, predict_pb2

from serving.client import Spec, spec_message, wire
from serving.server.protocol.tensors import to_proto

ARRAYS = [
    np.array([[1.5, -2], [0, 3]], np.float32), np.array(2.5), np.array([-1, 2**31 - 1], np.int32),
    np.array([-(2**63), 5]), np.array([True, False]), np.array([1, 255], np.uint8), np.array([-5], np.int8),
    np.array([2**64 - 1], np.uint64), np.array([1.5, -2], np.float16), np.array([[b"a", b"\xff"]], object),
    np.zeros((0, 3), np.float32),
]  # fmt: skip


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{list(a.shape)}")
def test_tensors_are_what_tensorflow_writes_and_reads(array):
    read = tf.make_ndarray(tensor_pb2.TensorProto.FromString(wire.tensor(array)))
    assert np.array_equal(read, array)
    for proto in (tf.make_tensor_proto(array), tensor_pb2.TensorProto.FromString(wire.tensor(array))):
        assert np.array_equal(wire.array(proto.SerializeToString()), array)


@pytest.mark.parametrize("array", [a for a in ARRAYS if a.size and a.dtype.kind != "O"], ids=lambda a: str(a.dtype))
def test_values_in_fields_of_their_own_are_read(array):
    assert np.array_equal(wire.array(to_proto(array).SerializeToString()), array)


def test_other_byte_orders_are_turned():
    assert wire.array(wire.tensor(np.array([7], ">i4"))).tolist() == [7]


def test_specs_are_what_the_stubs_read():
    spec = model_pb2.ModelSpec.FromString(spec_message(Spec("m", version=0), "s"))
    assert (spec.name, spec.version.value, spec.signature_name) == ("m", 0, "s")
    assert spec.WhichOneof("version_choice") == "version"
    assert model_pb2.ModelSpec.FromString(spec_message(Spec("m", label="canary"))).version_label == "canary"
    assert model_pb2.ModelSpec.FromString(spec_message(Spec("m"))).WhichOneof("version_choice") is None


def test_maps_and_negative_numbers():
    response = predict_pb2.PredictResponse()
    response.outputs["a"].CopyFrom(tf.make_tensor_proto([1.0]))
    response.outputs["b"].CopyFrom(tf.make_tensor_proto([b"x"]))
    response.model_spec.version.value = -3
    fields = wire.fields(response.SerializeToString())
    assert {name: wire.array(one).tolist() for name, one in wire.entries(fields, 1).items()} == {"a": [1], "b": [b"x"]}
    version = wire.fields(wire.inner(wire.fields(wire.inner(fields, 2)[0]), 2)[0])
    assert wire.integer(version, 1) == -3


@pytest.mark.parametrize("data", [b"\x08", b"\x0a\x05ab", b"\x0b", b"\x08" + b"\xff" * 11, b"\x0f"])
def test_damaged_messages_are_refused(data):
    with pytest.raises(wire.Malformed):
        wire.fields(data)


def test_tensors_that_contradict_themselves_are_refused():
    proto = tf.make_tensor_proto([1.0, 2.0])
    proto.tensor_shape.dim[0].size = 1
    with pytest.raises(wire.Malformed, match="has 2 values"):
        wire.array(proto.SerializeToString())
    with pytest.raises(wire.Malformed, match="unknown type"):
        wire.array(b"")


def test_types_that_cannot_be_sent_are_told():
    with pytest.raises(TypeError, match="arrays of complex128 cannot be sent"):
        wire.tensor(np.array([1j]))
    with pytest.raises(TypeError, match="bytes or text"):
        wire.tensor(np.array([None], object))
