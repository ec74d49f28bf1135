"""Clients that others wrote ask the embedded server, each in an environment of its own: they bring the protocol's
modules under names that TensorFlow has too. `ovmsclient` and the plain stubs are in test_server.py."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.extras import environment
from tests.serving.server_process import Server

ROOT = Path(__file__).parents[2]

MIN_TFS_CLIENT = """
import sys
import numpy as np
from min_tfs_client.requests import TensorServingClient
from min_tfs_client.tensors import tensor_proto_to_ndarray

client = TensorServingClient(host="localhost", port=int(sys.argv[1]), credentials=None)
given = {"x": np.array([[2.0], [4.0]], np.float32)}
for version in (None, 1):
    reply = client.predict_request(model_name="half", input_dict=given, model_version=version, timeout=30)
    print(tensor_proto_to_ndarray(reply.outputs["y"]).tolist())
try:
    client.predict_request(model_name="half", input_dict=given, model_version=9, timeout=30)
except Exception as error:
    print(error.code().name, error.details())
"""

CLIENT_GRPC = """
import sys
import grpc
from tensorflow_serving.apis import classification_pb2, get_model_status_pb2, model_service_pb2_grpc, predict_pb2
from tensorflow_serving.apis import prediction_service_pb2_grpc

with grpc.insecure_channel(f"localhost:{sys.argv[1]}") as channel:
    service = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "half"
    request.inputs["x"].dtype = 1
    request.inputs["x"].float_val.extend([2.0, 4.0])
    request.inputs["x"].tensor_shape.dim.add().size = 2
    print(list(service.Predict(request, timeout=30).outputs["y"].float_val))
    asked = classification_pb2.ClassificationRequest()
    asked.model_spec.name, asked.model_spec.signature_name = "half", "classify"
    asked.input.example_list.examples.add().features.feature["x"].float_list.value.append(10)
    found = service.Classify(asked, timeout=30).result.classifications[0].classes[0]
    print([found.label, found.score])
    status = get_model_status_pb2.GetModelStatusRequest()
    status.model_spec.name = "half"
    versions = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(status, timeout=30)
    print([(one.version, one.state) for one in versions.model_version_status])
"""


@pytest.fixture(scope="module")
def server(half_plus_two, tmp_path_factory):
    log = tmp_path_factory.mktemp("server") / "log"
    with Server(log, "--model_name=half", f"--model_base_path={half_plus_two}") as started:
        yield started


@pytest.fixture
def python(request, tmp_path):
    """The Python of a client's environment."""
    return environment(tmp_path / "environment", request.param)


def answers(python, program, server):
    done = subprocess.run(
        [str(python), "-c", program, str(server.port)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.compatible("connections")
@pytest.mark.parametrize("python", ["min-tfs-client"], indirect=True)
def test_min_tfs_client(python, server):
    assert answers(python, MIN_TFS_CLIENT, server) == [
        "[[3.0], [4.0]]",
        "[[3.0], [4.0]]",
        "NOT_FOUND Servable not found for request: Specific(half, 9)",
    ]


@pytest.mark.compatible("connections")
@pytest.mark.parametrize("python", ["tensorflow-serving-client-grpc"], indirect=True)
def test_tensorflow_serving_client_grpc(python, server):
    assert answers(python, CLIENT_GRPC, server) == ["[3.0, 4.0]", "['high', 7.0]", "[(1, 30)]"]


@pytest.mark.compatible("connections")
@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_curl_as_the_documentation_of_tensorflow_serving_has_it(server):
    def curl(path, *options):
        command = ["curl", "--silent", "--show-error", *options, f"{server.rest}/v1/models/half{path}"]
        return json.loads(subprocess.run(command, capture_output=True, timeout=30, check=True).stdout)

    assert curl(":predict", "-d", '{"instances": [1.0, 2.0, 5.0]}') == {"predictions": [2.5, 3.0, 4.5]}
    assert curl("")["model_version_status"][0]["state"] == "AVAILABLE"
    found = curl(":classify", "-X", "POST", "-d", '{"signature_name": "classify", "examples": [{"x": 10.0}]}')
    assert found == {"results": [[["high", 7.0]]]}
    assert "JSON Parse error" in curl(":predict", "-d", "{")["error"]


GO_PROGRAMS = {
    "grpcurl": "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3",
    "ghz": "github.com/bojand/ghz/cmd/ghz@v0.120.0",
}
REQUEST = {
    "model_spec": {"name": "half"},
    "inputs": {"x": {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": 2}]}, "float_val": [2, 4]}},
}


@pytest.fixture
def program(request, tmp_path):
    """Returns a program of the PATH, or one that Go builds."""
    name = request.param
    if found := shutil.which(name):
        return found
    if not shutil.which("go"):
        pytest.skip(f"needs {name}, or Go to build it")
    environment = os.environ | {"GOBIN": str(tmp_path)}
    done = subprocess.run(
        ["go", "install", GO_PROGRAMS[name]], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"Go cannot build {name}: {done.stderr.strip()[-200:]}")
    return str(tmp_path / name)


@pytest.fixture
def protoset(tmp_path):
    path = tmp_path / "protoset"
    subprocess.run([sys.executable, "-m", "serving.protoset", path], cwd=ROOT, check=True, capture_output=True)
    return path


@pytest.mark.compatible("connections")
@pytest.mark.parametrize("program", ["grpcurl"], indirect=True)
def test_grpcurl(program, protoset, server):
    def asked(method, message):
        command = [program, "-plaintext", "-protoset", str(protoset), "-d", json.dumps(message), server.target]
        return subprocess.run(
            [*command, f"tensorflow.serving.{method}"], capture_output=True, text=True, timeout=30, check=False
        )

    outputs = json.loads(asked("PredictionService/Predict", REQUEST).stdout)["outputs"]
    assert outputs["y"]["float_val"] == [3, 4]
    status = json.loads(asked("ModelService/GetModelStatus", {"model_spec": {"name": "half"}}).stdout)
    assert status["model_version_status"][0]["state"] == "AVAILABLE"
    failed = asked("PredictionService/Predict", REQUEST | {"model_spec": {"name": "half", "version": 9}})
    assert "Code: NotFound" in failed.stderr
    assert "Servable not found for request: Specific(half, 9)" in failed.stderr


@pytest.mark.parametrize("program", ["grpcurl"], indirect=True)
def test_what_the_documentation_asks_with_grpcurl_is_understood(program, protoset, server):
    page = (ROOT / "docs" / "serving.md").read_text()
    command = page[page.index("grpcurl -plaintext") : page.index("```\n\ngrpcurl needs")]
    command = command.replace("grpcurl", program, 1).replace(":8500", f":{server.port}")
    command = command.replace(".conveyor/server/serving.protoset", str(protoset)).replace(
        "$(base64 -w0 seven.png)", "AA=="
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30, check=False)
    assert "Servable not found for request: Latest(mnist)" in done.stderr  # this server has another model


@pytest.mark.compatible("connections")
@pytest.mark.parametrize("program", ["ghz"], indirect=True)
def test_ghz(program, protoset, server):
    command = [
        program, "--insecure", "--protoset", str(protoset), "--call", "tensorflow.serving.PredictionService/Predict",
        "--total", "400", "--concurrency", "16", "--connections", "4", "--format", "json",
        "--data", json.dumps(REQUEST), server.target,
    ]  # fmt: skip
    report = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)
    assert report["statusCodeDistribution"] == {"OK": 400}
