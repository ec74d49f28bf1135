"""The embedded server as a process, asked by clients that others wrote."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from serving.client import Client, ServingError, Tls
from serving.model_store import StoredModel, VersionRecord
from tests.certificates import certificates
from tests.serving import models
from tests.serving.server_process import ROOT, Server, eventually


@pytest.fixture(scope="module")
def server(tmp_path_factory, half_plus_two):
    folder = tmp_path_factory.mktemp("server")
    (folder / "monitoring").write_text("prometheus_config { enable: true }")
    flags = (
        "--model_name=half", f"--model_base_path={half_plus_two}", "--enable_batching",
        "--enable_grpc_healthcheck_service",
        f"--monitoring_config_file={folder / 'monitoring'}", f"--grpc_socket_path={folder / 'socket'}",
        "--flush_filesystem_caches=true",
    )  # fmt: skip
    with Server(folder / "log", *flags) as running:
        yield running


@pytest.fixture(scope="module")
def stubs(server):
    with grpc.insecure_channel(server.target) as channel:
        yield (
            prediction_service_pb2_grpc.PredictionServiceStub(channel),
            model_service_pb2_grpc.ModelServiceStub(channel),
        )


def predict_request(value: float, model: str = "half") -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([value], tf.float32))
    return request


def http(url: str, body: object = None) -> tuple[int, object]:
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=30) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        text = error.read()
        return error.code, json.loads(text) if text.startswith(b"{") else text.decode()


def example(x: float) -> tf.train.Example:
    made = tf.train.Example()
    made.features.feature["x"].float_list.value.append(x)
    return made


@pytest.mark.compatible("Predict and metadata")
def test_plain_stubs_of_the_protocol(stubs):
    prediction, model = stubs
    response = prediction.Predict(predict_request(6))
    assert response.outputs["y"].float_val == [5]
    assert (response.model_spec.version.value, response.model_spec.signature_name) == (1, "serving_default")
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name, request.model_spec.signature_name = "half", "classify"
    request.input.example_list.examples.append(example(10))
    assert prediction.Classify(request).result.classifications[0].classes[0].label == "high"
    request = regression_pb2.RegressionRequest()
    request.model_spec.name, request.model_spec.signature_name = "half", "regress"
    request.input.example_list.examples.append(example(10))
    assert prediction.Regress(request).result.regressions[0].value == 7
    request = inference_pb2.MultiInferenceRequest()
    for name in ("classify", "regress"):
        task = request.tasks.add(method_name=f"tensorflow/serving/{name}")
        task.model_spec.name, task.model_spec.signature_name = "half", name
    request.input.example_list.examples.append(example(10))
    assert len(prediction.MultiInference(request).results) == 2
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "half"
    assert "signature_def" in prediction.GetModelMetadata(request).metadata
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "half"
    status = model.GetModelStatus(request).model_version_status[0]
    assert (status.version, status.state, status.status.error_code) == (1, 30, 0)


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (predict_request(1, "nope"), "NOT_FOUND", "Servable not found for request: Latest(nope)"),
        (predict_request(1, ""), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        (predict_pb2.PredictRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
        (
            predict_request(1, 20_000 * "é"),
            "NOT_FOUND",
            f"Servable not found for request: Latest({980 * 'é'}...",
        ),
    ],
    ids=["unknown", "no name", "no spec", "a long name"],
)
@pytest.mark.compatible("errors and statuses")
def test_failures_have_the_real_servers_codes(stubs, request_, code, message):
    with pytest.raises(grpc.RpcError) as error:
        stubs[0].Predict(request_)
    assert (error.value.code().name, error.value.details()) == (code, message)


@pytest.mark.compatible("Predict and metadata")
def test_rest_as_documented(server):
    url = f"{server.rest}/v1/models/half"
    assert http(f"{url}:predict", {"instances": [1, 2]}) == (200, {"predictions": [2.5, 3.0]})
    assert http(f"{url}/versions/1:predict", {"inputs": [1, 2]}) == (200, {"outputs": [2.5, 3.0]})
    assert http(f"{url}:predict", b'{"instances": [NaN]}')[0] == 200
    body = {"signature_name": "classify", "examples": [{"x": 10.0}]}
    assert http(f"{url}:classify", body) == (200, {"results": [[["high", 7.0]]]})
    body = {"signature_name": "regress", "context": {"c": 1.0}, "examples": [{"x": 10.0}]}
    assert http(f"{url}:regress", body) == (200, {"results": [8.0]})
    code, status = http(url)
    assert code == 200
    expected = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert status == {"model_version_status": [expected]}
    code, metadata = http(f"{url}/versions/1/metadata")
    assert metadata["model_spec"] == {"name": "half", "signature_name": "", "version": "1"}
    signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["x"]["dtype"] == "DT_FLOAT"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"\x89PNG\r\n", 'Within JSON, bytes stand in base64, as {"b64": "..."}.'),
        ({"instances": ["a"]}, "It was checked against serving_default. Others can be named in 'signature_name': cl"),
    ],
)
def test_rest_says_what_may_have_been_meant(server, body, message):
    code, reply = http(f"{server.rest}/v1/models/half:predict", body)
    assert (code, message in reply["error"]) == (400, True), reply


@pytest.mark.parametrize(
    ("path", "body", "code", "message"),
    [
        ("/v1/models/nope:predict", {"instances": [1]}, 404, "Servable not found for request: Latest(nope)"),
        ("/v1/models/half/versions/9:predict", {"instances": [1]}, 404, "Specific(half, 9)"),
        ("/v1/models/half/labels/x:predict", {"instances": [1]}, 400, "Unrecognized servable version label: x"),
        ("/v1/models/half:predict", {"instances": ["a"]}, 400, "is not of expected type: float"),
        ("/v1/models/half:predict", b"{", 400, "JSON Parse error"),
        ("/v1/models/half:predict", b"[" * 100_000, 400, "JSON Parse error"),
        ("/v1/models/half:predict", {"signature_name": "s", "instances": [1]}, 400, 'signature name: "s" not found'),
        ("/v1/models/half:explain", {}, 400, "Malformed request: POST /v1/models/half:explain"),
        ("/v1/models/nope", None, 404, "Could not find any versions of model nope"),
        ("/v1/models/half/versions/99999999999999999999", None, 400, "to numeric"),
        (f"/v1/models/half/versions/{5000 * '9'}", None, 400, "Failed to convert version: 9"),
        (f"/v1/models/half/versions/{200 * '0'}9", None, 404, "9"),
        ("/v1/models/half:predict", b'{"signature_name": "\\ud800", "instances": [NaN]}', 400, "JSON Parse error"),
        ("/v1/models", None, 400, "Missing model name in request."),
    ],
)
@pytest.mark.compatible("errors and statuses")
def test_rest_errors(server, path, body, code, message):
    got, reply = http(server.rest + path, body)
    assert got == code
    assert message in reply["error"]


@pytest.mark.compatible("metrics")
def test_prometheus_metrics(server):
    with server.client("half") as client:
        client.call("serving_default", {"x": np.ones(1, np.float32)})
    with urllib.request.urlopen(f"{server.rest}/monitoring/prometheus/metrics") as response:
        text = response.read().decode()
    assert ':tensorflow:serving:request_count{model_name="half",status="OK"}' in text
    assert ":tensorflow:serving:request_latency_bucket" in text


@pytest.mark.compatible("connections")
def test_health_and_unix_socket(server):
    with grpc.insecure_channel(server.target) as channel:
        reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert reply.status == health_pb2.HealthCheckResponse.SERVING
    with Client(f"unix:{server.log.parent / 'socket'}", "half") as client:
        assert client.call("serving_default", {"x": np.zeros(1, np.float32)})["y"].tolist() == [2]


@pytest.mark.compatible(
    "flags",
    differs="it listens on loopback unless --bind_address says otherwise, and says which flags it does not carry out",
)
def test_flags_without_effect_are_told_and_loopback_is_all_it_listens_on(server):
    assert "--flush_filesystem_caches is accepted and not done" in server.said()
    listening = [c.laddr.ip for c in psutil.Process(server.process.pid).net_connections() if c.status == "LISTEN"]
    assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}


OVMS = """
import sys
import numpy as np
grpc_target, http_target = sys.argv[1:]
from ovmsclient import make_grpc_client, make_http_client
for client in (make_grpc_client(grpc_target), make_http_client(http_target)):
    assert client.get_model_status("half", 1)[1]["state"] == "AVAILABLE", client.get_model_status("half", 1)
    metadata = client.get_model_metadata("half", 1)
    if "metadata" in metadata:  # over HTTP it hands on what the server says
        metadata = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert metadata["inputs"]["x"]["dtype"] == "DT_FLOAT"
    answer = client.predict({"x": np.array([6, 8], np.float32)}, "half", 1)
    assert np.asarray(answer).tolist() == [5, 6], answer
    try:
        client.predict({"x": np.array([6], np.float32)}, "half")  # it sends version 0
        raise SystemExit("version 0 was answered")
    except Exception as error:
        assert "Specific(half, 0)" in str(error), error
print("both answered")
"""


@pytest.mark.compatible("connections")
def test_ovmsclient_over_grpc_and_http(server):
    command = [sys.executable, "-c", OVMS, server.target, server.rest.removeprefix("http://")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "both answered"


@pytest.mark.compatible("reload of the configuration")
def test_reload_over_grpc(tmp_path, half_plus_two):
    models.half_plus_two(tmp_path / "other" / "5", offset=5)
    with Server(tmp_path / "log", "--model_name=half", f"--model_base_path={half_plus_two}") as running:
        with grpc.insecure_channel(running.target) as channel:
            stub = model_service_pb2_grpc.ModelServiceStub(channel)
            request = model_management_pb2.ReloadConfigRequest()
            for name, base in (("half", half_plus_two), ("other", tmp_path / "other")):
                request.config.model_config_list.config.add(name=name, base_path=str(base), model_platform="tensorflow")
            stub.HandleReloadConfigRequest(request)
            with running.client("other") as client:
                assert client.call("serving_default", {"x": np.zeros(1, np.float32)})["y"].tolist() == [5]
            del request.config.model_config_list.config[0]
            stub.HandleReloadConfigRequest(request)
            with pytest.raises(grpc.RpcError) as error:
                stub.HandleReloadConfigRequest(model_management_pb2.ReloadConfigRequest())
            assert "Only ModelConfigList is currently supported" in error.value.details()
        with running.client("half") as client:
            eventually(lambda: refused(client) == "NOT_FOUND")


def refused(client: Client) -> str:
    try:
        client.call("serving_default", {"x": np.zeros(1, np.float32)})
    except ServingError as error:
        return error.code
    return "OK"


@pytest.mark.compatible("reload of the configuration")
def test_configuration_file_is_polled_and_a_wrong_one_changes_nothing(tmp_path, half_plus_two):
    models.half_plus_two(tmp_path / "other" / "1")
    config = tmp_path / "models.config"
    entry = 'config {{ name: "{}" base_path: "{}" model_platform: "tensorflow" }}'
    config.write_text(f"model_config_list {{ {entry.format('half', half_plus_two)} }}")
    flags = [f"--model_config_file={config}", "--model_config_file_poll_wait_seconds=1"]
    with Server(tmp_path / "log", *flags) as running:
        config.write_text("model_config_list {")
        running.wait_for("What was served is served on")
        with running.client("half") as client:
            assert refused(client) == "OK"
        config.write_text(f"model_config_list {{ {entry.format('other', tmp_path / 'other')} }}")
        running.wait_for("The model configuration has changed")
        with running.client("other") as client:
            assert refused(client) == "OK"


@pytest.mark.parametrize("mutual", [False, True])
@pytest.mark.compatible("connections")
def test_tls(tmp_path, half_plus_two, mutual):
    certificates(tmp_path)
    fields = {"server_key": "server.key", "server_cert": "server.pem", "custom_ca": "ca.pem"}
    text = "".join(f"{k}: {json.dumps((tmp_path / v).read_text())}\n" for k, v in fields.items())
    (tmp_path / "ssl.config").write_text(text + f"client_verify: {str(mutual).lower()}\n")
    flags = [f"--model_base_path={half_plus_two}", f"--ssl_config_file={tmp_path / 'ssl.config'}"]
    trusting = Tls(tmp_path / "ca.pem")
    known = Tls(tmp_path / "ca.pem", tmp_path / "client.pem", tmp_path / "client.key")
    with Server(tmp_path / "log", *flags, rest=False) as running:
        for tls, answered in ((None, False), (trusting, not mutual), (known, True)):
            with running.client(tls=tls, timeout=3, retries=0) as client:
                assert refused(client) == ("OK" if answered else "UNAVAILABLE")


@pytest.mark.compatible(
    "errors and statuses", differs="messages and requests beyond a limit get RESOURCE_EXHAUSTED: memory is bounded"
)
def test_limits_are_answered_with_resource_exhausted(tmp_path):
    models.shapes(tmp_path / "m" / "1")
    # Requests wait three seconds for a batch to fill, so that the fifth comes while four are there.
    (tmp_path / "batching").write_text("max_batch_size { value: 64 } batch_timeout_micros { value: 3000000 }")
    batching = ["--enable_batching", f"--batching_parameters_file={tmp_path / 'batching'}"]
    limits = ["--max_message_bytes=100000", "--max_concurrent_requests=4"]
    flags = [*limits, *batching, f"--model_base_path={tmp_path / 'm'}"]
    with Server(tmp_path / "log", *flags) as running, running.client() as client:
        with pytest.raises(ServingError) as error:
            client.call("checked", {"x": np.zeros(100_000, np.float32)})
        assert error.value.code == "RESOURCE_EXHAUSTED"
        code, reply = http(f"{running.rest}/v1/models/default:predict", b" " * 200_000)
        assert (code, "too large" in reply["error"]) == (413, True)
        codes = []
        threads = [threading.Thread(target=lambda: codes.append(_shouted(running.target))) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(codes) == {"OK", "RESOURCE_EXHAUSTED"}
        assert client.call("checked", {"x": np.array([4], np.float32)})["root"].tolist() == [2]


def _shouted(target: str) -> str:
    with Client(target, retries=0, timeout=60) as client:
        try:
            client.call("shout", {"text": np.array([b"x"], object)})
        except ServingError as error:
            return error.code
    return "OK"


@pytest.mark.compatible("errors and statuses")
def test_deadline_of_rest(tmp_path, half_plus_two):
    flags = [f"--model_base_path={half_plus_two}", "--rest_api_timeout_in_ms=1", "--enable_batching"]
    (tmp_path / "batching").write_text("batch_timeout_micros { value: 500000 }")
    with Server(tmp_path / "log", *flags, f"--batching_parameters_file={tmp_path / 'batching'}") as running:
        code, reply = http(f"{running.rest}/v1/models/default:predict", {"instances": [1]})
        assert (code, "Timed out" in reply["error"]) == (504, True)


class Traffic:
    """Asks without a pause from several threads, and writes down every answer and every failure."""

    def __init__(self, target: str, threads: int = 4) -> None:
        self.versions: list[list[int]] = [[] for _ in range(threads)]
        self.wrong: list[str] = []
        self.stopped = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(target, seen)) for seen in self.versions]

    def _ask(self, target: str, seen: list[int]) -> None:
        with grpc.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            while not self.stopped.is_set():
                try:
                    response = stub.Predict(predict_request(10), timeout=10)
                except grpc.RpcError as error:
                    self.wrong.append(f"{error.code().name}: {error.details()}")
                    continue
                version = response.model_spec.version.value
                if response.outputs["y"].float_val != [5 + version]:
                    self.wrong.append(f"version {version} answered {response.outputs['y'].float_val}")
                seen.append(version)

    def last(self) -> set[int]:
        return {seen[-1] for seen in self.versions if seen}

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        for thread in self._threads:
            thread.join()


def pushed(tmp_path: Path, number: int) -> Path:
    """Pushes a model that adds its version's number, as the pipeline pushes."""
    made = models.half_plus_two(tmp_path / f"model-{number}", offset=number)
    done = StoredModel(tmp_path / "half").push(made, VersionRecord(run=str(number)))
    assert done.version == number
    return done.path


@pytest.mark.compatible("changes of the file system")
def test_three_pushes_and_a_rollback_under_load_fail_no_request(tmp_path):
    pushed(tmp_path, 1)
    flags = ["--model_name=half", f"--model_base_path={tmp_path / 'half'}", "--enable_batching"]
    with Server(tmp_path / "log", *flags) as running, Traffic(running.target) as traffic:
        eventually(lambda: traffic.last() == {1})
        for number in (2, 3, 4):
            pushed(tmp_path, number)
            eventually(lambda number=number: traffic.last() == {number})
            time.sleep(0.3)
        asked_before = [len(seen) for seen in traffic.versions]
        shutil.rmtree(tmp_path / "half" / "4")
        eventually(lambda: traffic.last() == {3})
        time.sleep(0.5)
    assert traffic.wrong == []
    assert sum(map(len, traffic.versions)) > 200
    for seen, before in zip(traffic.versions, asked_before, strict=True):
        assert seen[:before] == sorted(seen[:before]), "a version went backward before the rollback"
        after = seen[before:]
        assert after == sorted(after, reverse=True), "after it, only the way back is gone"
        assert set(seen) == {1, 2, 3, 4}


@pytest.mark.parametrize("damage", ["graph", "variables", "warm-up"])
def test_a_corrupt_push_under_load_fails_no_request(tmp_path, damage):
    pushed(tmp_path, 1)
    flags = [
        "--model_name=half", f"--model_base_path={tmp_path / 'half'}", "--enable_batching", "--max_num_load_retries=2",
        "--load_retry_interval_micros=100000",
    ]  # fmt: skip
    with Server(tmp_path / "log", *flags) as running, Traffic(running.target) as traffic:
        eventually(lambda: traffic.last() == {1})
        made = models.half_plus_two(tmp_path / "made", offset=2)
        files = {"graph": "saved_model.pb", "variables": "variables/variables.data-00000-of-00001"}
        if damage == "warm-up":
            (made / "assets.extra").mkdir()
            (made / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"no records at all")
        else:
            (made / files[damage]).write_bytes(b"\x00\x01\x02")
        made.rename(tmp_path / "half" / "2")
        with running.client("half") as client:
            eventually(lambda: [v.state for v in client.status()] == ["END", "AVAILABLE"])
            status = client.status()[0]
        assert status.error_code != "OK"
        assert status.error_message
        assert running.said().count("half/2, attempt") == 3
        models.half_plus_two(tmp_path / "fixed", offset=3)
        (tmp_path / "fixed").rename(tmp_path / "half" / "3")
        eventually(lambda: traffic.last() == {3})
    assert traffic.wrong == []
    assert {version for seen in traffic.versions for version in seen} <= {1, 3}


def test_reloading_and_serving_leak_nothing(tmp_path):
    models.network(tmp_path / "source")
    base = tmp_path / "m"
    base.mkdir()
    shutil.copytree(tmp_path / "source", base / "1")
    images = np.zeros((4, 28, 28, 1), np.uint8)
    flags = [f"--model_base_path={base}", "--enable_batching"]
    with Server(tmp_path / "log", *flags) as running, running.client() as client:
        memory, threads = [], []
        for number in range(2, 26):
            shutil.copytree(tmp_path / "source", tmp_path / "next")
            (tmp_path / "next").rename(base / str(number))
            eventually(lambda number=number: client.predict(images).version == number)
            shutil.rmtree(base / str(number - 1))
            running.wait_for(f"default/{number - 1} is unloaded")
            for _ in range(20):
                client.predict(images)
            memory.append(running.memory())
            threads.append(running.threads())
    # 13 MB of weights a version: a leak of them alone would be 180 MB from the tenth reload to the last.
    assert max(memory[-4:]) - max(memory[8:12]) < 45, memory
    assert threads[-1] <= threads[6] + 2, threads


@pytest.mark.compatible("connections")
def test_a_stop_signal_lets_requests_finish(tmp_path, half_plus_two):
    (tmp_path / "batching").write_text("batch_timeout_micros { value: 1500000 }")
    flags = [
        "--model_name=half", f"--model_base_path={half_plus_two}", "--enable_batching",
        f"--batching_parameters_file={tmp_path / 'batching'}",
    ]  # fmt: skip
    with Server(tmp_path / "log", *flags) as running:
        with grpc.insecure_channel(running.target) as channel:
            answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict.future(predict_request(10))
            time.sleep(0.5)
            running.process.send_signal(signal.SIGTERM)
            assert answer.result(timeout=20).outputs["y"].float_val == [7]
        assert running.process.wait(40) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model_config_file={}/none"], "none cannot be read: No such file"),
        (["--model_base_path={}/empty"], "No versions of servable default found under base path"),
        (["--model_base_path={}/nowhere"], "Could not find base path"),
        (
            ["--model_base_path={}/bad", "--max_num_load_retries=0"],
            "1 servable(s) did not become available: {{default}}",
        ),
        (["--model_base_path={}/good", "--ssl_config_file={}/ssl"], "needs server_key and server_cert"),
        (["--model_base_path={}/good", "--enable_batching", "--batching_parameters_file={}/ssl"], "BatchingParameters"),
        (["--model_base_path={}/good", "--grpc_channel_arguments=x"], "'x' is not a key=value pair"),
    ],
)
@pytest.mark.compatible(
    "errors and statuses", differs="a start without anything to serve ends with 1; the real server waits"
)
def test_what_cannot_start_says_why(tmp_path, half_plus_two, flags, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad" / "1").mkdir(parents=True)
    (tmp_path / "bad" / "1" / "saved_model.pb").write_bytes(b"nothing of the kind")
    (tmp_path / "good").symlink_to(half_plus_two)
    (tmp_path / "ssl").write_text('server_cert: "x"')
    running = Server(tmp_path / "log", *[flag.format(tmp_path) for flag in flags], wait=False)
    with running:
        assert running.process.wait(60) == 1
    last = running.said().strip().splitlines()[-1]
    assert last.startswith("Failed to start server. Error: ")
    assert message.format() in last
    assert "Traceback" not in running.said()


def test_a_taken_port_is_told(tmp_path, half_plus_two):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        flags = [f"--port={taken.getsockname()[1]}", f"--model_base_path={half_plus_two}"]
        running = Server(tmp_path / "log", *flags, wait=False)
        with running:
            assert running.process.wait(60) == 1
    assert "cannot be listened on: is the port another server's, or the address another machine's?" in running.said()


@pytest.mark.compatible("flags")
def test_version_flag():
    command = [sys.executable, "-m", "serving.server", "--version"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("TensorFlow ModelServer: conveyor")
    assert f"TensorFlow Library: {tf.__version__}" in done.stdout
