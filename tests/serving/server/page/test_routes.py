import base64
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest

from serving.server.models.replica import LoadedVersion
from serving.server.page.routes import ActivationCache
from tests.pictures import encode, noise
from tests.serving import models
from tests.serving.server_process import Server, eventually, free_port

IMAGE = np.random.default_rng(0).integers(0, 256, (28, 28, 1), np.uint8)

pytestmark = pytest.mark.slow  # starts a server


@pytest.fixture(scope="module")
def server(tmp_path_factory, shapes):
    folder = tmp_path_factory.mktemp("page")
    for version in (1, 2):
        models.network(folder / "serving" / "mnist" / str(version), seed=2018 + version)
    config = folder / "config"
    entry = 'config {{ name: "{}" base_path: "{}" model_platform: "tensorflow" {} }}'
    labels = 'model_version_policy { all {} } version_labels { key: "stable" value: 1 }'  # 2 is a canary
    both = entry.format("mnist", folder / "serving" / "mnist", labels) + entry.format("shapes", shapes, "")
    config.write_text(f"model_config_list {{ {both} }}")
    with Server(
        folder / "log",
        f"--model_config_file={config}",
        "--enable_batching",
        "--allow_version_labels_for_unavailable_models",
    ) as running:
        for name, count in (("mnist", 2), ("shapes", 1)):
            with running.client(name) as client:
                eventually(lambda: [v.state for v in client.status()] == ["AVAILABLE"] * count)  # noqa: B023 (called here)
        yield running


@pytest.fixture(scope="module")
def remote(server):
    """The page of a server that has none of its own."""
    port = free_port()
    serving = server.log.parent / "serving"
    command = [sys.executable, "-m", "serving.server.page.remote", server.target, str(serving), "127.0.0.1", str(port)]
    with subprocess.Popen(command) as process:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://localhost:{port}/page/models")
                break
            except OSError:
                assert process.poll() is None
                time.sleep(0.1)
        yield f"http://localhost:{port}"
        process.terminate()


@pytest.fixture(params=["its own", "in front of another"])
def url(request, server):
    return server.rest if request.param == "its own" else request.getfixturevalue("remote")


def fetch(url: str, body: bytes | None = None):
    with urllib.request.urlopen(urllib.request.Request(url, body)) as response:
        return response.headers, response.read()


def test_models_that_say_their_shape_are_listed(url):
    listed = json.loads(fetch(f"{url}/page/models")[1])
    expected = {"name": "mnist", "version": 1, "shape": [28, 28, 1], "classes": [str(i) for i in range(10)]}
    assert listed == [expected | {"resize": "squash", "background": "black"}]


def test_a_picture_is_answered_with_scores_kernels_and_maps(url, server):
    reply = json.loads(fetch(f"{url}/page/models/mnist", IMAGE.tobytes())[1])
    with server.client("mnist") as client:
        answer = client.predict(IMAGE[np.newaxis], version=1)
    assert reply["version"] == 1
    assert base64.b64decode(reply["seen"]) == IMAGE.tobytes()
    assert np.allclose(reply["scores"], answer.scores[0], atol=1e-6)
    assert reply["kernels"]["shape"] == [32, 5, 5, 1]
    assert [layer["shape"] for layer in reply["layers"]] == [[32, 28, 28], [32, 14, 14], [64, 14, 14], [64, 7, 7]]
    for sheet in (reply["kernels"], *reply["layers"]):
        values = np.frombuffer(base64.b64decode(sheet["values"]), np.uint8)
        assert values.size == np.prod(sheet["shape"])
        assert (values.min(), values.max()) == (0, 255)


def test_a_picture_of_several_megabytes_is_answered(url):
    large = encode(noise(1100, 1100, 3), "PNG")
    assert len(large) > 3e6
    assert len(json.loads(fetch(f"{url}/page/models/mnist/picture", large)[1])["scores"]) == 10


def test_a_version_that_cannot_decode_pictures_says_so(url, server):
    asset = server.log.parent / "serving" / "mnist" / "1" / "assets" / "dataset.json"
    fields = asset.read_text()
    asset.write_text(json.dumps({"shape": [28, 28, 1], "classes": [str(i) for i in range(10)]}))  # as 0.1.0 wrote it
    try:
        with pytest.raises(urllib.error.HTTPError) as error:
            fetch(f"{url}/page/models/mnist/picture", encode(noise(9, 9, 3), "PNG"))
    finally:
        asset.write_text(fields)
    assert "Version 1 of mnist is older than the signature decode" in json.loads(error.value.read())["error"]


@pytest.mark.parametrize(
    ("path", "body", "code", "message"),
    [
        ("mnist", b"123", 400, "3 bytes are not a picture of"),
        ("mnist/picture", b"123", 400, "expected PNG, JPEG, GIF, BMP or WebP, found something else"),
        ("mnist/picture", encode(noise(9, 9, 3), "PNG")[:100], 400, "Invalid PNG data"),
        ("mnist/picture", encode(noise(9, 9, 3), "JPEG")[:-90], 400, "Invalid JPEG data or crop window"),
        ("nope/picture", b"1", 404, "No model nope"),
        ("shapes", b"1", 404, "No model shapes with a shape and classes"),
        ("nope", b"1", 404, "No model nope"),
    ],
)
def test_what_is_wrong_is_said(url, path, body, code, message):
    with pytest.raises(urllib.error.HTTPError) as error:
        fetch(f"{url}/page/models/{path}", body)
    assert error.value.code == code
    said = json.loads(error.value.read())["error"]
    assert message in said
    assert "\n" not in said


def test_the_page_fetches_nothing_from_elsewhere_and_cannot_be_framed(url):
    for path in ("/", "/page/app.js", "/page/style.css"):
        headers, body = fetch(url + path)
        assert b"//" not in body.replace(b"http://www.w3.org", b"") or path == "/page/app.js"
        assert b"https:" not in body
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy


def test_one_version_of_a_model_is_explained_at_a_time(tmp_path, half_plus_two):
    explainers = ActivationCache()
    first, second = (explainers.of(models.network(tmp_path / "m" / number)) for number in ("1", "2"))
    assert explainers.of(half_plus_two / "1") is None
    assert second.maps(IMAGE)
    with pytest.raises(RuntimeError, match="closed"):
        first.maps(IMAGE)
    explainers.forget(LoadedVersion("m", 2, tmp_path / "m" / "2", bundle=None))
    with pytest.raises(RuntimeError, match="closed"):
        second.maps(IMAGE)
