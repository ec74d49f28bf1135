"""Thousands of bad requests: none may be answered with a crash, a hang or a leak, and the next good one rightly."""

import http.client
import json
import random
import socket
import struct
from collections import Counter

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import classification_pb2, predict_pb2

from tests.serving import models
from tests.serving.server_process import Server

SERVICE = "/tensorflow.serving."
METHODS = [
    "PredictionService/Predict", "PredictionService/Classify", "PredictionService/Regress",
    "PredictionService/MultiInference", "PredictionService/GetModelMetadata", "SessionService/SessionRun",
    "ModelService/GetModelStatus",
    "ModelService/HandleReloadConfigRequest",
]  # fmt: skip
SEED = 2019


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    models.network(folder / "m" / "1")
    flags = [f"--model_base_path={folder / 'm'}", "--enable_batching", "--max_message_bytes=4000000"]
    with Server(folder / "log", *flags) as running:
        yield running


@pytest.fixture
def good(server):
    """The right answer, which every test must get again at its end, from a server that has not grown."""
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1), np.uint8)
    with server.client() as client:
        before, said = client.predict(images), len(server.said())
        memory, threads = server.memory(), server.threads()
        yield
        assert server.process.poll() is None
        after = client.predict(images)
    assert np.allclose(after.scores, before.scores, atol=1e-6)
    assert server.memory() < memory + 150, "megabytes"
    assert server.threads() < threads + 40
    assert "Traceback" not in server.said()[said:], server.said()[said:][:2000]


def valid_request(signature: str = "predict_pixels") -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "default", signature
    request.inputs["images"].CopyFrom(tf.make_tensor_proto(np.zeros((1, 28, 28, 1), np.uint8)))
    return request


def mutated(data: bytes, dice: random.Random) -> bytes:
    """Returns bytes with some flipped, cut out, repeated or put in."""
    changed = bytearray(data)
    for _ in range(dice.randint(1, 8)):
        at = dice.randrange(len(changed) + 1)
        kind = dice.randrange(4)
        if kind == 0 and at < len(changed):
            changed[at] = dice.randrange(256)
        elif kind == 1:
            del changed[at : at + dice.randint(1, 40)]
        elif kind == 2:
            changed[at:at] = changed[at : at + dice.randint(1, 40)]
        else:
            changed[at:at] = dice.randbytes(dice.randint(1, 10))
    return bytes(changed)


def test_random_and_mutated_messages_over_grpc(server, good):
    dice = random.Random(SEED)
    seeds = [valid_request(name).SerializeToString() for name in ("predict_pixels", "serving_default", "none", "")]
    codes: Counter[str] = Counter()
    with grpc.insecure_channel(server.target) as channel:
        calls = [channel.unary_unary(SERVICE + method) for method in METHODS]
        for number in range(3000):
            # A reload of the configuration that fuzzing makes valid would rightly change what is served.
            call = calls[0] if number % 2 else calls[dice.randrange(len(METHODS) - 1)]
            body = dice.randbytes(dice.randrange(200)) if number % 5 == 0 else mutated(dice.choice(seeds), dice)
            try:
                call(body, timeout=20)
                codes["OK"] += 1
            except grpc.RpcError as error:
                codes[error.code().name] += 1
        for _ in range(200):
            with pytest.raises(grpc.RpcError):
                calls[-1](dice.randbytes(dice.randrange(1, 100)), timeout=20)
    assert not {"UNAVAILABLE", "DEADLINE_EXCEEDED", "UNKNOWN", "CANCELLED"} & set(codes), codes
    assert len(codes) >= 4, codes


def test_wrong_types_and_huge_shapes(server, good):
    dice = random.Random(SEED)
    codes: Counter[str] = Counter()
    names = ["predict_pixels", "predict_images", "predict_encoded", "serving_default"]
    inputs = {"predict_encoded": "image_bytes", "serving_default": "examples"}
    with grpc.insecure_channel(server.target) as channel:
        call = channel.unary_unary(SERVICE + METHODS[0])
        for _ in range(2000):
            name = dice.choice(names)
            request = predict_pb2.PredictRequest()
            request.model_spec.name, request.model_spec.signature_name = "default", name
            tensor = request.inputs[inputs.get(name, "images")]
            tensor.dtype = dice.choice([*types_pb2.DataType.values()[:24], tensor_type(name), tensor_type(name)])
            for _ in range(dice.randrange(6)):
                tensor.tensor_shape.dim.add().size = dice.choice([0, 1, 2, 28, 784, -1, 2**20, 2**31, 2**62])
            tensor.tensor_content = dice.randbytes(dice.choice([0, 0, 1, 784]))
            tensor.float_val.extend([dice.choice([0.0, float("nan"), float("inf"), 1e38])] * dice.randrange(3))
            tensor.int_val.extend([dice.choice([0, -1, 2**31 - 1])] * dice.randrange(3))
            tensor.string_val.extend([dice.randbytes(dice.randrange(30))] * dice.randrange(3))
            try:
                call(request.SerializeToString(), timeout=20)
                codes["OK"] += 1
            except grpc.RpcError as error:
                codes[error.code().name] += 1
    assert set(codes) <= {"OK", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}, codes
    assert codes["INVALID_ARGUMENT"] > 1000, codes


def tensor_type(signature: str) -> int:
    kinds = {"predict_pixels": types_pb2.DT_UINT8, "predict_images": types_pb2.DT_FLOAT}
    return kinds.get(signature, types_pb2.DT_STRING)


def test_examples_and_pictures_of_random_bytes(server, good):
    dice = random.Random(SEED)
    png = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 6, 0, 0, 0)
    codes: Counter[str] = Counter()
    with grpc.insecure_channel(server.target) as channel:
        call = channel.unary_unary(SERVICE + METHODS[0])
        for number in range(600):
            signature, name = (("predict_encoded", "image_bytes"), ("serving_default", "examples"))[number % 2]
            request = predict_pb2.PredictRequest()
            request.model_spec.name, request.model_spec.signature_name = "default", signature
            payload = mutated(png, dice) if number % 3 == 0 else dice.randbytes(dice.randrange(300))
            request.inputs[name].CopyFrom(tf.make_tensor_proto([payload]))
            try:
                call(request.SerializeToString(), timeout=20)
                codes["OK"] += 1
            except grpc.RpcError as error:
                codes[error.code().name] += 1
        request = classification_pb2.ClassificationRequest()
        request.model_spec.name = "default"
        with pytest.raises(grpc.RpcError, match="method_name"):
            channel.unary_unary(SERVICE + METHODS[1])(request.SerializeToString())
    assert set(codes) == {"INVALID_ARGUMENT"}, codes


def test_json_of_every_bad_kind(server, good):
    dice = random.Random(SEED)
    path = "/v1/models/default:predict"
    pixels = [[[[0]] * 28] * 28]
    base = json.dumps({"signature_name": "predict_pixels", "instances": pixels}).encode()
    bodies = [
        b"", b"{", b"null", b"[]", b'"x"', b"\x00" * 100, b"\xff\xfe", b"[" * 200_000, b'{"a":' * 200_000,
        b'{"instances":' + b"[" * 900 + b"]" * 900 + b"}", b'{"instances": [1e400]}',
        b'{"instances": [NaN,' + b"[" * 99_999,
        json.dumps({"instances": [{"b64": "A" * 1_000_000}]}).encode(), json.dumps({"inputs": [1] * 300_000}).encode(),
        b'{"signature_name": "predict_pixels", "instances": [' + b"[]," * 100_000 + b"[]]}",
        b'{"instances": [' + b"9" * 100_000 + b"]}", json.dumps({"instances": [[[[0]] * 27] * 28]}).encode(),
    ]  # fmt: skip
    codes: Counter[int] = Counter()
    connection = http.client.HTTPConnection("localhost", server.rest_port, timeout=30)
    for number in range(2000):
        body = bodies[number] if number < len(bodies) else mutated(base, dice)
        connection.request("POST", path, body)
        response = connection.getresponse()
        reply = json.loads(response.read())
        codes[response.status] += 1
        assert response.status == 200 or reply["error"], (response.status, body[:200])
    connection.close()
    assert set(codes) <= {200, 400}, codes
    assert codes[400] > 1000, codes


def test_noise_and_truncated_frames_on_both_ports(server, good):
    dice = random.Random(SEED)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    frame = b"\x00\x10\x00\x00\x01\x00\x00\x00\x01" + b"\x00\x00\x00\x0f\xff"  # says 4096 bytes, has five
    post = b"POST /v1/models/default:predict HTTP/1.1\r\nHost: x\r\n"
    starts = [
        b"", preface, preface + frame, preface + b"\xff" * 50, post + b"Content-Length: 1000\r\n\r\n{",
        post + b"Content-Length: -5\r\n\r\n", post + b"Transfer-Encoding: chunked\r\n\r\nffffffff\r\n",
        b"GET " + b"/" * 70_000,
        post + b"X: " + b"y" * 100_000, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ]  # fmt: skip
    for number in range(600):
        port = (server.port, server.rest_port)[number % 2]
        with socket.create_connection(("localhost", port), 10) as connection:
            connection.settimeout(0.02)
            try:
                connection.sendall(dice.choice(starts) + dice.randbytes(dice.randrange(100)))
                connection.recv(10_000)
            except OSError:
                continue


def test_connections_that_say_nothing_do_not_stop_the_others(server, good):
    quiet = [socket.create_connection(("localhost", (server.port, server.rest_port)[n % 2])) for n in range(200)]
    with server.client(timeout=5, retries=0) as client:
        for _ in range(20):
            client.predict(np.zeros((1, 28, 28, 1), np.uint8))
    for connection in quiet:
        connection.close()
