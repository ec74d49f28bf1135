import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tensorflow.core.framework import tensor_pb2

from serving.server.protocol import wire

INTEGERS = st.lists(st.one_of(st.integers(0, 300), st.integers(-(2**63), 2**63 - 1)), max_size=20)


@given(INTEGERS)
def test_integers_are_packed_as_protobuf_packs_them(values):
    content = wire.only_field(tensor_pb2.TensorProto(int64_val=values).SerializeToString())
    assert content == wire.pack_integers(np.array(values, np.int64))
    assert wire.unpack_integers(content).view(np.int64).tolist() == values


def test_numbers_at_the_edges_of_pieces(monkeypatch):
    monkeypatch.setattr(wire, "_PIECE", 3)
    values = [1, 2**40, 127, 128, -1, 0, 2**62, 5]
    content = wire.pack_integers(np.array(values))
    assert wire.unpack_integers(content).view(np.int64).tolist() == values


@given(st.binary(max_size=300), st.integers(1, 2**20))
def test_a_field_is_one_of_protobuf(content, number):
    message = tensor_pb2.TensorProto.FromString(wire.field(4, content))  # tensor_content
    assert message.tensor_content == content
    assert tensor_pb2.TensorProto.FromString(wire.field(2**20 + number, content)).tensor_content == b"", (
        "an unknown one"
    )
