import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from serving.client import Client, ModelSpec, ServingError, Tls
from serving.client import client as client_module
from serving.signatures import encoded
from tests.serving import models
from tests.serving.server_process import Server

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.slow  # starts a server


@pytest.fixture(scope="module")
def server(tmp_path_factory, shapes):
    folder = tmp_path_factory.mktemp("client")
    models.network(folder / "mnist" / "1")
    models.network(folder / "mnist" / "2", seed=1)
    config = folder / "models.config"
    config.write_text(
        f"""model_config_list {{
          config {{ name: "mnist" base_path: "{folder}/mnist" model_platform: "tensorflow"
                   model_version_policy {{ all {{}} }}
                   version_labels {{ key: "stable" value: 1 }} }}
          config {{ name: "shapes" base_path: "{shapes}" model_platform: "tensorflow" }} }}"""
    )
    flags = [f"--model_config_file={config}", "--allow_version_labels_for_unavailable_models"]
    with Server(folder / "log", *flags) as running:
        with Client(running.target, "mnist") as client:
            while [status.state for status in client.status()] != ["AVAILABLE"] * 2:
                time.sleep(0.05)
        yield running


@pytest.fixture(params=["grpc", "rest"])
def target(request, server):
    return server.target if request.param == "grpc" else server.rest


def test_images_of_every_kind_have_one_answer(target):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)
    with Client(target, "mnist") as client:
        answers = [
            client.predict(pixels),
            client.predict((pixels / 255).astype(np.float32)),
            client.predict((pixels / 255).reshape(3, 784)),
            client.predict(list(encoded(pixels))),
        ]
    for answer in answers:
        assert np.allclose(answer.scores, answers[0].scores, atol=1e-5)
        assert answer.scores.dtype == np.float32
        assert answer.classes.tolist() == [[str(i) for i in range(10)]] * 3
        assert answer.label.tolist() == answer.scores.argmax(1).tolist()
        assert answer.version in (2, None)


def test_versions_and_labels(target):
    pixels = np.zeros((1, 28, 28, 1), np.uint8)
    with Client(target, "mnist", label="stable") as client:
        stable = client.predict(pixels).scores
        assert np.array_equal(client.predict(pixels, version=1).scores, stable)
        assert not np.array_equal(client.predict(pixels, version=2).scores, stable)
    with Client(target + "/mnist", version=1) as client:
        assert np.array_equal(client.predict(pixels).scores, stable)
    with pytest.raises(ValueError, match="not for both"):
        ModelSpec("m", 1, "stable")


def test_status_and_metadata(target):
    with Client(target, "mnist") as client:
        assert [(v.version, v.state, v.error_code) for v in client.status()] == [
            (2, "AVAILABLE", "OK"),
            (1, "AVAILABLE", "OK"),
        ]
        images = client.metadata()["predict_pixels"].inputs["images"]
        assert (images.dtype, images.shape) == (np.uint8, (-1, 28, 28, 1))
        assert client.metadata()["predict_images"].inputs["images"].shape is None


def test_any_signature_and_chosen_outputs(target):
    with Client(target, "shapes") as client:
        inputs = {"a": np.array([1, 2]), "b": np.array([3, 4])}
        assert client.call("add", inputs)["sum"].tolist() == [4, 6]
        assert list(client.call("add", inputs, ["difference"])) == ["difference"]
        words = client.call("shout", {"text": np.array([b"ab"], object)})["upper"].tolist()
        assert words in ([b"AB"], ["AB"])


@pytest.mark.parametrize(("model", "version", "code"), [("nope", None, "NOT_FOUND"), ("mnist", 9, "NOT_FOUND")])
def test_refusals_have_their_code(target, model, version, code):
    with Client(target, model, version=version) as client, pytest.raises(ServingError) as error:
        client.predict(np.zeros((1, 28, 28, 1), np.uint8))
    assert error.value.code == code
    assert model in error.value.message


def test_what_is_no_image_is_told(target):
    with Client(target, "mnist") as client, pytest.raises(TypeError, match="picture files"):
        client.predict([7])
    with Client(target, "mnist") as client, pytest.raises(ServingError, match="INVALID_ARGUMENT"):
        client.predict([b"\x89PNG\r\n\x1a\nand no picture"])


class Flaky(BaseHTTPRequestHandler):
    """Is unavailable some times, then answers."""

    left = 0
    seen: list[float]

    def do_GET(self):
        type(self).seen.append(time.monotonic())
        type(self).left -= 1
        ok = type(self).left < 0
        self.send_response(200 if ok else 503)
        self.end_headers()
        self.wfile.write(b'{"model_version_status": []}' if ok else b'{"error": "starting"}')

    def log_message(self, *_):
        pass


@pytest.fixture
def flaky():
    Flaky.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Flaky)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_unavailable_is_tried_again_ever_later(flaky, monkeypatch):
    Flaky.left, pauses = 3, []
    monkeypatch.setattr(client_module.time, "sleep", pauses.append)
    assert Client(flaky, "m").status() == []
    assert [0.025 * 2**n <= pause <= 0.075 * 2**n for n, pause in enumerate(pauses)] == [True] * 3  # and jitter


def test_tries_end(flaky):
    Flaky.left = 100
    with pytest.raises(ServingError, match="UNAVAILABLE: starting"):
        Client(flaky, "m", retries=2).status()
    assert len(Flaky.seen) == 3
    started = time.monotonic()
    with pytest.raises(ServingError):
        Client(flaky, "m", timeout=0.3, retries=50).status()
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("localhost", "names no host and port, as localhost:8500 does"),
        ("8500", "names no host and port"),
        ("localhost:99999", "names no host and port"),
        ("localhost:٨٥٠٠", "names no host and port"),
        ("grpc://localhost:8500", "gRPC is asked as host:port, REST as http://host:port"),
        ("::1:8500", r"stands in brackets, as in \[::1\]:8500"),
    ],
)
def test_a_target_that_is_no_address_is_told(target, message):
    with pytest.raises(ServingError, match=f"INVALID_ARGUMENT.*{message}"):
        Client(target, "m")


@pytest.mark.parametrize(
    "target",
    [
        "unix:/s",
        "[::1]:8500",
        "dns:///localhost:8500",
        "ipv6:[::1]:8500",
        "vsock:2:3",
        "a:1/m",
        "HTTP://a:1",
    ],
)
def test_addresses(target):
    Client(target).close()


def test_an_address_of_another_model_is_refused():
    assert Client("localhost:1/m", model="m").spec.model == "m"
    with pytest.raises(ServingError, match="the address names the model other, and m is to be asked"):
        Client("localhost:1/other", model="m")


def test_a_port_may_be_left_out_with_tls():
    for target in ("example.org", "[::1]"):
        Client(target, tls=Tls()).close()


def test_tls_that_cannot_be_meant_is_told(tmp_path):
    with pytest.raises(ValueError, match="given together"):  # gRPC would end the process
        Tls(certificate="a.pem")
    (tmp_path / "no.pem").write_text("no certificate")
    for target, path, message in (
        ("localhost:1", "no.pem", "no.pem is no PEM file"),
        ("localhost:1", "nowhere.pem", "cannot be read: .*nowhere.pem"),
        ("http://localhost:1", "no.pem", "is not encrypted, and TLS is asked for"),
    ):
        with pytest.raises(ServingError, match=f"INVALID_ARGUMENT.*{message}"):
            Client(target, tls=Tls(str(tmp_path / path)))


def test_arguments_that_cannot_be_meant_are_told():
    with pytest.raises(ValueError, match="0 or more"):
        Client("localhost:1", retries=-1)
    assert Client("localhost:1", version=np.int64(3)).spec.version == 3
    with pytest.raises(TypeError, match="a version is a number, not '2'"):
        Client("localhost:1", version="2")


def test_with_tls_there_is_a_port_of_its_own():
    Client("serving.example.com", tls=Tls()).close()


def test_a_rest_port_asked_over_grpc_is_told(server):
    target = server.rest.removeprefix("http://")
    with Client(target, "mnist", retries=0) as client, pytest.raises(ServingError) as error:
        client.status()
    assert "does not speak gRPC" in error.value.message
    assert f"is asked as http://{target}" in error.value.message


def test_what_no_message_holds_is_refused_before_it_is_made():
    huge = np.broadcast_to(np.uint8(0), (2**31, 1))  # takes no memory
    files = np.array([bytes(2**20)], dtype=object).repeat(2**11)
    with Client("localhost:1", "m") as client:
        for inputs in ({"images": huge}, {"image_bytes": files}):
            with pytest.raises(ServingError, match="ask in several requests"):
                client.call("predict", inputs)


@pytest.mark.parametrize("target", ["localhost:1", "http://localhost:1"])
def test_nobody_there_is_unavailable(target):
    with Client(target, "m", timeout=1, retries=1) as client, pytest.raises(ServingError, match="UNAVAILABLE"):
        client.status()


def test_needs_neither_tensorflow_nor_tfx():
    allowed = ("numpy", "grpc", "google", "typing_extensions", "serving", "conveyor")  # typing_extensions is grpcio's
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        top = name.partition('.')[0]\n"
        f"        if top not in {allowed} and top not in sys.stdlib_module_names:\n"
        "            raise ImportError(name + ' is not for the client')\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from conveyor import Client\n"
        "Client('localhost:1', 'm')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_stable_version_is_asked_and_not_the_highest(target):
    pixels = np.zeros((1, 28, 28, 1), np.uint8)
    with Client(target, "mnist") as client, Client.stable(target, "mnist") as stable:
        assert [entry.version for entry in stable.status()] == [1]
        expected = client.predict(pixels, version=1).scores
        assert np.array_equal(stable.predict(pixels).scores, expected)
        assert not np.array_equal(client.predict(pixels).scores, expected)


def test_without_a_label_the_highest_version_is_asked(target):
    with Client.stable(target, "shapes", timeout=5) as client:
        assert client.spec == ModelSpec("shapes")


def test_an_unknown_model_and_a_server_that_is_away_are_told_of_at_once(target):
    with pytest.raises(ServingError) as error:
        Client.stable(target, "nothing")
    assert error.value.code == "NOT_FOUND"
    with pytest.raises(ServingError) as error:
        Client.stable("localhost:1", "mnist", retries=0)
    assert error.value.code == "UNAVAILABLE"
