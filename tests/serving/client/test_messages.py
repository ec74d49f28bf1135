import numpy as np
import pytest
from tensorflow_serving.apis import get_model_status_pb2, model_pb2, predict_pb2

from serving.client import ModelSpec, messages
from serving.client.grpc import predict_request


def request(spec):
    return predict_pb2.PredictRequest.FromString(
        predict_request(spec, "s", {"x": np.array([1.0])}, ["y"]).SerializeToString()
    )


@pytest.mark.parametrize(
    ("spec", "choice", "value"),
    [
        (ModelSpec("m", version=0), "version", 0),
        (ModelSpec("m", label="canary"), "version_label", "canary"),
        (ModelSpec("m"), None, None),
    ],
    ids=["version", "label", "neither"],
)
def test_a_request_is_what_the_stubs_read(spec, choice, value):
    read = request(spec)
    assert (read.model_spec.name, read.model_spec.signature_name) == ("m", "s")
    assert read.model_spec.WhichOneof("version_choice") == choice
    if choice == "version":
        assert read.model_spec.version.value == value
    elif choice:
        assert read.model_spec.version_label == value
    assert list(read.inputs) == ["x"]
    assert list(read.output_filter) == ["y"]


def test_a_reply_of_the_stubs_is_read():
    reply = predict_pb2.PredictResponse()
    reply.outputs["a"].dtype = 1
    reply.model_spec.version.value = -3
    read = messages.new("PredictResponse")
    read.ParseFromString(reply.SerializeToString())
    assert read.outputs["a"].dtype == 1
    assert read.model_spec.version.value == -3


def test_a_status_of_the_stubs_is_read():
    reply = get_model_status_pb2.GetModelStatusResponse()
    entry = reply.model_version_status.add(version=2, state=30)
    entry.status.error_code, entry.status.error_message = 5, "gone"
    read = messages.new("GetModelStatusResponse")
    read.ParseFromString(reply.SerializeToString())
    (version,) = read.model_version_status
    assert (version.version, version.state, version.status.error_code) == (2, 30, 5)
    assert version.status.error_message == b"gone"


def test_a_text_that_is_no_utf_8_does_not_spoil_the_message():
    read = messages.new("StatusProto")
    read.ParseFromString(b"\x12\x01\xff")
    assert read.error_message == b"\xff"


def test_messages_of_both_kinds_live_in_one_process():
    own, generated = messages.new("ModelSpec", name="m"), model_pb2.ModelSpec(name="m")
    assert own.SerializeToString() == generated.SerializeToString()
