"""What the client sends over REST, byte for byte, and what it makes of answers."""

import contextlib
import http.server
import json
import socket
import ssl
import threading
import time

import numpy as np
import pytest

from serving.client import Client, ServingError
from serving.client.deadline import Deadline
from serving.client.models import TensorInfo, Tls
from serving.client.rest import RestTransport
from tests.certificates import certificates

REPLY = {"outputs": {"scores": [[0.5, 0.25]], "classes": [["a", "b"]], "label": [0]}}
PAIRS = {"dim": [{"size": "-1"}, {"size": "2"}], "unknown_rank": False}
METADATA = {
    "inputs": {"x": {"dtype": "DT_FLOAT", "tensor_shape": PAIRS}},
    "outputs": {"y": {"dtype": "DT_COMPLEX64", "tensor_shape": {"dim": [], "unknown_rank": True}}},
    "method_name": "tensorflow/serving/predict",
}


@contextlib.contextmanager
def serving(context=None):
    """Yields its address, what it was asked (method, path, content type, body), and its answers by the path's end."""
    asked, answers = [], {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked.append((self.command, self.path, self.headers["Content-Type"], body))
            answer = next(reply for end, reply in answers.items() if self.path.endswith(end))
            text = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            time.sleep(0 if text is answer else answer.get("sleep", 0))
            self.send_response(200 if text is answer else answer.get("code", 200))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST  # noqa: N815 (the library's name)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        running.handle_error = lambda *_: None  # a client that trusts us not
        if context:
            running.socket = context.wrap_socket(running.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http{'s' if context else ''}://localhost:{running.server_port}", asked, answers
        running.shutdown()


@pytest.fixture
def server():
    with serving() as running:
        yield running


@pytest.fixture
def secured(tmp_path):
    """A server that wants a certificate from its clients, and the folder of theirs."""
    certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    context.load_verify_locations(tmp_path / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    with serving(context) as running:
        yield *running, tmp_path


def test_over_https_both_sides_show_a_certificate(secured):
    address, _, answers, folder = secured
    answers[":predict"] = REPLY
    known = Tls(folder / "ca.pem", folder / "client.pem", folder / "client.key")
    with Client(address, "m", tls=known) as client:
        assert client.call("s", {"x": np.zeros(1)})["label"].tolist() == [0]
    for tls in (None, Tls(folder / "ca.pem")):
        with Client(address, "m", tls=tls, retries=0) as client, pytest.raises(ServingError) as error:
            client.call("s", {"x": np.zeros(1)})
        assert error.value.code == "UNAVAILABLE"
    with pytest.raises(ServingError, match="a certificate or key cannot be read"):
        Client(address, "m", tls=Tls(folder / "ca.pem", folder / "none.pem", folder / "client.key"))


def test_over_https_an_answer_that_comes_too_late_is_not_waited_for(secured):
    address, _, answers, folder = secured
    answers[":predict"] = REPLY | {"sleep": 2}
    known = Tls(folder / "ca.pem", folder / "client.pem", folder / "client.key")
    with Client(address, "m", tls=known, timeout=0.5, retries=0) as client, pytest.raises(ServingError) as error:
        client.call("s", {"x": np.zeros(1)})
    assert error.value.code == "DEADLINE_EXCEEDED"


def test_a_deadline_is_ended_with_what_it_was_for():
    with Deadline(60) as deadline:
        assert not deadline.passed
        (timer,) = [thread for thread in threading.enumerate() if thread is deadline._timer]
        assert timer.daemon  # a process that ends does not wait for it
    timer.join(10)
    assert not timer.is_alive()
    assert not deadline.passed


def test_a_prediction_is_one_post_of_columns(server):
    address, asked, answers = server
    answers[":predict"] = REPLY
    with Client(f"{address}/", "m") as client:
        reply = client.call("sig", {"x": np.array([[1, 2]]), "y": np.array([[b"\xff", b"z"], [b"", b"q"]], object)})
    ((method, path, kind, body),) = asked
    assert (method, path, kind) == ("POST", "/v1/models/m:predict", "application/json")
    columns = {"x": [[1, 2]], "y": [[{"b64": "/w=="}, {"b64": "eg=="}], [{"b64": ""}, {"b64": "cQ=="}]]}
    assert json.loads(body) == {"signature_name": "sig", "inputs": columns}
    assert reply["scores"].dtype == np.float32
    assert reply["scores"].tolist() == [[0.5, 0.25]]
    assert (reply["classes"].dtype, reply["classes"].tolist()) == (object, [["a", "b"]])
    assert (reply["label"].dtype.kind, reply["label"].tolist()) == ("i", [0])


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({}, "/v1/models/a%2Fb%20c"),
        ({"version": 0}, "/v1/models/a%2Fb%20c/versions/0"),
        ({"label": "x/y z"}, "/v1/models/a%2Fb%20c/labels/x%2Fy%20z"),
    ],
)
def test_names_are_one_segment_of_the_path(server, options, path):
    address, asked, answers = server
    entry = {"version": "3", "state": "END", "status": {"error_code": "UNKNOWN", "error_message": "why"}}
    answers[path] = {"model_version_status": [entry]}
    with Client(address, "a/b c", **options) as client:
        (status,) = client.status()
    assert (status.version, status.state, status.error_code, status.error_message) == (3, "END", "UNKNOWN", "why")
    assert [(method, body) for method, _, _, body in asked] == [("GET", b"")]


def test_only_the_outputs_that_are_asked_for_are_returned(server):
    address, _, answers = server
    answers[":predict"] = REPLY
    with Client(address, "m") as client:
        assert client.call("s", {"x": np.zeros(1)}, ["label", "scores"]).keys() == {"label", "scores"}
        assert client.call("s", {"x": np.zeros(1)}).keys() == {"scores", "classes", "label"}


@pytest.mark.parametrize("value", [[1.5, 2.5], {"b64": "AA=="}], ids=["numbers", "bytes"])
def test_the_only_output_of_a_signature_has_its_own_name(server, value):
    address, asked, answers = server
    answers |= {
        ":predict": {"outputs": value},
        "/metadata": {"metadata": {"signature_def": {"signature_def": {"s": METADATA}}}},
    }
    with Client(address, "m") as client:
        assert client.call("s", {"x": np.zeros(1)}).keys() == {"y"}
        assert [path.rpartition("/")[2] for _, path, _, _ in asked] == ["m:predict", "metadata"]
        assert client.call("s", {"x": np.zeros(1)}, ["y"]).keys() == {"y"}
        assert client.call("s", {"x": np.zeros(1)}, ["nonsense"]) == {}
        signature = client.metadata()["s"]
    assert signature.inputs == {"x": TensorInfo(np.dtype(np.float32), (-1, 2))}
    assert signature.outputs == {"y": TensorInfo(np.dtype(object), None)}
    assert signature.method == "tensorflow/serving/predict"


def test_an_answer_that_comes_too_late_is_said_to_with_the_time(server):
    address, _, answers = server
    answers[":predict"] = REPLY | {"sleep": 2}
    with Client(address, "m", timeout=0.3, retries=0) as client, pytest.raises(ServingError) as error:
        client.call("s", {"x": np.zeros(1)})
    assert (error.value.code, error.value.message) == ("DEADLINE_EXCEEDED", f"{address} did not answer in 0.3 s")


def test_the_deadline_is_of_all_requests_together(server):
    address, _, answers = server
    named = {"metadata": {"signature_def": {"signature_def": {"s": METADATA}}}}
    answers |= {":predict": {"outputs": [1.0], "sleep": 0.4}, "/metadata": named | {"sleep": 2}}
    with (
        Client(address, "m", timeout=0.6, retries=0) as client,
        pytest.raises(ServingError, match="did not answer in 0"),
    ):
        client.call("s", {"x": np.zeros(1)})


@pytest.mark.parametrize(
    ("answer", "code", "message"),
    [
        (b"{", "DATA_LOSS", "{address} answered what is not JSON"),
        ({"code": 404, "error": "no such model"}, "NOT_FOUND", "no such model"),
        ({"code": 418}, "UNKNOWN", "I'm a Teapot"),
    ],
    ids=["no JSON", "an error", "a status that the API has not"],
)
def test_what_went_wrong_is_said_with_its_code(server, answer, code, message):
    address, _, answers = server
    answers[":predict"] = answer
    with Client(address, "m", retries=0) as client, pytest.raises(ServingError) as error:
        client.call("s", {"x": np.zeros(1)})
    assert (error.value.code, error.value.message) == (code, message.format(address=address))


def test_a_server_that_speaks_something_else_or_is_not_there_is_said():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        def answer():
            connection, _ = listening.accept()
            connection.recv(1000)
            connection.sendall(b"\x00\x00\x12\x04\n\n")
            connection.close()

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with Client(f"http://localhost:{port}", "m", retries=0) as client, pytest.raises(ServingError) as error:
            client.status()
        thread.join(10)
    said = f"http://localhost:{port} does not speak HTTP; a gRPC server is asked as host:port"
    assert (error.value.code, error.value.message) == ("UNAVAILABLE", said)
    with Client(f"http://localhost:{port}", "m", retries=0) as client, pytest.raises(ServingError) as error:
        client.status()
    assert error.value.code == "UNAVAILABLE"
    assert error.value.message.startswith(f"http://localhost:{port}: ")


def test_an_address_that_is_none_is_said():
    with pytest.raises(ServingError) as error:
        RestTransport("http://local host:1", None)._call("/v1", None, 1)
    assert error.value.code == "INVALID_ARGUMENT"
    assert error.value.message.startswith("http://local host:1: ")
