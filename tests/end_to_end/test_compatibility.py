"""What TensorFlow Serving does with models and requests that people have, case by case."""

import contextlib
import gzip
import http.client
import json
import urllib.request
import zlib
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
    session_service_pb2,
)

from tests.serving import models
from tests.serving.server_process import Server, eventually


def ask(server, path, body, headers=None):
    """Returns the status and the JSON of a request over REST."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with contextlib.closing(http.client.HTTPConnection("localhost", server.rest_port, timeout=30)) as connection:
        connection.request("POST", path, data, headers or {})
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def example(x):
    made = tf.train.Example()
    made.features.feature["x"].float_list.value.append(x)
    return made


def of_examples(request, signature, *values):
    request.model_spec.name, request.model_spec.signature_name = "half", signature
    request.input.example_list.examples.extend(map(example, values))
    return request


def predict_request(values, signature=""):
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "half", signature
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(values, tf.float32))
    return request


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model of TensorFlow 2, whose warm-up requests have other shapes than its input says."""
    path = models.half_plus_two_2(tmp_path_factory.mktemp("half") / "1")
    (path / "assets.extra").mkdir()
    log = prediction_log_pb2.PredictionLog(predict_log={"request": predict_request([1, 2, 5])})
    with tf.io.TFRecordWriter(str(path / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        writer.write(log.SerializeToString())
    return path.parent


@pytest.fixture(scope="module", params=["--enable_batching=false", "--enable_batching=true"])
def server(base, tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("server")
    (folder / "monitoring").write_text("prometheus_config { enable: true }")
    flags = ["--model_name=half", f"--model_base_path={base}", f"--monitoring_config_file={folder / 'monitoring'}"]
    with Server(folder / "log", *flags, request.param) as running:
        yield running


@pytest.fixture
def stub(server):
    with grpc.insecure_channel(server.target) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.mark.compatible("tensors")
def test_static_shapes_are_not_checked(server, stub):
    assert ask(server, "/v1/models/half:predict", {"instances": [1.0, 2.0, 5.0]}) == (
        200,
        {"predictions": [2.5, 3.0, 4.5]},
    )
    assert ask(server, "/v1/models/half:predict", {"instances": [[1.0]]})[1] == {"predictions": [[2.5]]}
    reply = stub.Predict(predict_request([1, 2, 5]))
    assert list(reply.outputs["y"].float_val) == [2.5, 3.0, 4.5]


@pytest.mark.compatible("Classify, Regress and MultiInference")
def test_models_of_tensorflow_2_classify_and_regress(server, stub):
    found = stub.Classify(of_examples(classification_pb2.ClassificationRequest(), "classify", 2, 6)).result
    assert [each.classes[0].score for each in found.classifications] == [3, 5]
    found = stub.Regress(of_examples(regression_pb2.RegressionRequest(), "regress", 2, 6)).result
    assert [each.value for each in found.regressions] == [3, 5]
    request = inference_pb2.MultiInferenceRequest()
    for kind in ("classify", "regress"):
        task = request.tasks.add(method_name=f"tensorflow/serving/{kind}")
        task.model_spec.name, task.model_spec.signature_name = "half", kind
    request.input.example_list.examples.append(example(2))
    one, other = stub.MultiInference(request).results
    assert one.classification_result.classifications[0].classes[0].score == 3
    assert other.regression_result.regressions[0].value == 3
    assert ask(server, "/v1/models/half:regress", {"signature_name": "regress", "examples": [{"x": 2.0}]}) == (
        200,
        {"results": [3.0]},
    )


@pytest.mark.compatible("JSON requests")
def test_integers_and_what_is_too_large_are_floats(server):
    code, reply = ask(server, "/v1/models/half:predict", {"instances": [16777216, 1435774380]})
    assert (code, reply["predictions"]) == (200, [8388610.0, 717887170.0])
    code, reply = ask(server, "/v1/models/half:predict", {"instances": [1e39]})
    assert (code, reply["predictions"]) == (200, [float("inf")])


@pytest.mark.parametrize("name", ["__saved_model_init_op", "none", "n" * 100_000])
@pytest.mark.compatible("Predict and metadata")
def test_what_is_no_signature_is_not_run(server, stub, name):
    with pytest.raises(grpc.RpcError) as error:
        stub.Predict(predict_request([1], name))
    assert error.value.code().name == "FAILED_PRECONDITION"
    assert error.value.details().startswith(f'Serving signature key "{name[:50]}')
    code, reply = ask(server, "/v1/models/half:predict", {"signature_name": name, "instances": [1.0]})
    assert (code, "not found in signature def" in reply["error"] or len(name) > 1000) == (400, True)
    assert "Traceback" not in server.said()


@pytest.mark.compatible("tensors")
def test_values_that_a_tensor_lacks_are_its_last(stub):
    request = predict_request([[1], [1], [1]])
    del request.inputs["x"].float_val[:]
    request.inputs["x"].tensor_content = b""
    assert list(stub.Predict(request).outputs["y"].float_val) == [2, 2, 2]
    request.inputs["x"].float_val.append(4)
    assert list(stub.Predict(request).outputs["y"].float_val) == [4, 4, 4]


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.compatible("JSON requests")
def test_compressed_bodies(server, encoding):
    pack = {"gzip": gzip.compress, "deflate": zlib.compress}[encoding]
    headers = {"Content-Encoding": encoding}
    body = pack(json.dumps({"instances": [2.0] * 1000}).encode())
    assert ask(server, "/v1/models/half:predict", body, headers)[1] == {"predictions": [3.0] * 1000}
    code, reply = ask(server, "/v1/models/half:predict", body[:-9], headers)
    assert (code, "cannot be decompressed" in reply["error"]) == (400, True)
    code, reply = ask(server, "/v1/models/half:predict", body, {"Content-Encoding": "br"})
    assert (code, "JSON Parse error" in reply["error"]) == (400, True)
    assert ask(server, "/v1/models/half:predict", {"instances": [2.0]}, {"Content-Encoding": "utf-8"})[0] == 200


@pytest.mark.compatible(
    "errors and statuses", differs="a body that decompresses beyond the limit is refused before it is in memory"
)
def test_a_compressed_bomb_takes_no_memory(server):
    bomb = gzip.compress(b" " * 400_000_000, compresslevel=9)
    assert len(bomb) < 400_000
    before = peak(server)
    code, reply = ask(server, "/v1/models/half:predict", bomb, {"Content-Encoding": "gzip"})
    assert (code, "too large" in reply["error"]) == (413, True)
    assert peak(server) - before < 20


def peak(server):
    """Returns the most memory that a server has had, in megabytes."""
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000


@pytest.mark.compatible("metrics")
def test_metrics_are_there_from_the_start_and_count_what_is_unknown(base, tmp_path):
    (tmp_path / "monitoring").write_text("prometheus_config { enable: true }")
    flags = [f"--model_base_path={base}", f"--monitoring_config_file={tmp_path / 'monitoring'}"]
    with Server(tmp_path / "log", *flags) as running:

        def metrics():
            with urllib.request.urlopen(f"{running.rest}/monitoring/prometheus/metrics") as response:
                return response.read().decode()

        for name, kind in (("request_count", "counter"), ("request_latency", "histogram")):
            assert f"# TYPE :tensorflow:serving:{name} {kind}\n" in metrics()
        with grpc.insecure_channel(running.target) as channel, pytest.raises(grpc.RpcError):
            prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(predict_request([1]))
        assert ':tensorflow:serving:request_count{model_name="half",status="NOT_FOUND"} 1\n' in metrics()


@pytest.mark.compatible("Classify, Regress and MultiInference")
def test_method_names_are_checked_where_the_flag_asks_for_it(base, tmp_path):
    flags = ["--model_name=half", f"--model_base_path={base}", "--enable_signature_method_name_check"]
    with Server(tmp_path / "log", *flags) as running, grpc.insecure_channel(running.target) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        assert stub.Predict(predict_request([2])).outputs["y"].float_val[0] == 3
        with pytest.raises(grpc.RpcError, match="Expected classification signature method_name to be"):
            stub.Classify(of_examples(classification_pb2.ClassificationRequest(), "classify", 2))


@pytest.mark.compatible("reload of the configuration")
def test_the_file_of_the_configuration_comes_after_what_was_given_over_grpc(base, tmp_path):
    entry = f'config {{ name: "half" base_path: "{base}" model_platform: "tensorflow" }}'
    (tmp_path / "models.config").write_text(f"model_config_list {{ {entry} }}")
    flags = [f"--model_config_file={tmp_path / 'models.config'}", "--model_config_file_poll_wait_seconds=1"]
    with Server(tmp_path / "log", *flags) as running, grpc.insecure_channel(running.target) as channel:
        request = model_management_pb2.ReloadConfigRequest()
        other = request.config.model_config_list.config.add(name="other", base_path=str(base))
        other.model_platform = "tensorflow"
        model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest(request)

        def answers(name):
            with running.client(name, retries=0) as client:
                try:
                    return client.call("serving_default", {"x": np.ones(1, np.float32)})["y"].tolist() == [2.5]
                except Exception:
                    return False

        eventually(lambda: answers("half") and not answers("other"))


@pytest.mark.compatible(
    "Predict and metadata",
    differs="SessionRun, which the real program does not register, feeds inputs and fetches outputs of signatures",
)
def test_session_run_asks_for_tensors_by_the_names_that_the_metadata_gives(server, stub):
    asked = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    asked.model_spec.name = "half"
    signatures = get_model_metadata_pb2.SignatureDefMap()
    stub.GetModelMetadata(asked).metadata["signature_def"].Unpack(signatures)
    signature = signatures.signature_def["serving_default"]
    request = session_service_pb2.SessionRunRequest(fetch=[signature.outputs["y"].name])
    request.model_spec.name = "half"
    request.feed.add(name=signature.inputs["x"].name, tensor=tf.make_tensor_proto([2.0, 6.0]))
    with grpc.insecure_channel(server.target) as channel:
        run = channel.unary_unary(
            "/tensorflow.serving.SessionService/SessionRun",
            request.SerializeToString,
            session_service_pb2.SessionRunResponse.FromString,
        )
        (tensor,) = run(request).tensor
        assert (tensor.name, list(tensor.tensor.float_val)) == (signature.outputs["y"].name, [3, 5])
        assert run(request).model_spec.version.value == 1
        vast = tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT)
        vast.tensor_shape.dim.add().size = 2**25
        for number in range(100):  # each takes 20 bytes, and would take 128 MB
            request.feed.add(name=f"a{number}", tensor=vast)
        before = peak(server)
        with pytest.raises(grpc.RpcError, match="unable to find feed output a0:0"):
            run(request)
        assert peak(server) - before < 20
        del request.feed[1:]
        request.feed.add(name="saver_filename", tensor=tf.make_tensor_proto("/tmp/stolen"))
        with pytest.raises(grpc.RpcError, match="unable to find feed output saver_filename"):
            run(request)


@pytest.mark.compatible("TensorFlow Lite")
def test_a_tensorflow_lite_model_is_served(tmp_path):
    models.half_plus_two_lite(tmp_path / "half" / "1", {"serving_default": "x"})
    flags = ["--model_name=half", f"--model_base_path={tmp_path / 'half'}", "--prefer_tflite_model=true"]
    with Server(tmp_path / "log", *flags, "--num_tflite_pools=2", "--enable_batching") as running:
        assert ask(running, "/v1/models/half:predict", {"instances": [[2.0], [3.0], [4.0]]}) == (
            200,
            {"predictions": [[3.0], [3.5], [4.0]]},
        )
        with grpc.insecure_channel(running.target) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            assert list(stub.Predict(predict_request([[6.0]])).outputs["y"].float_val) == [5]


@pytest.mark.compatible("connections")
def test_pages_of_other_sites_may_ask_where_the_flag_says_so(base, tmp_path):
    def headers(running, method, path):
        with contextlib.closing(http.client.HTTPConnection("localhost", running.rest_port, timeout=30)) as connection:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.headers["Access-Control-Allow-Origin"]

    flags = ["--model_name=half", f"--model_base_path={base}"]
    with Server(tmp_path / "log", *flags, "--rest_api_enable_cors_support") as running:
        assert headers(running, "OPTIONS", "/v1/models/half:predict") == (200, "*")
        assert headers(running, "GET", "/v1/models/half") == (200, "*")
        assert headers(running, "GET", "/v1/models/none") == (404, "*")
    with Server(tmp_path / "log", *flags) as running:
        assert headers(running, "OPTIONS", "/v1/models/half:predict") == (400, None)
        assert headers(running, "GET", "/v1/models/half") == (200, None)
