"""`conveyor serve`, `predict` and `loadtest`, as a user types them."""

import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import PIL.Image
import psutil
import pytest
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.framework.types_pb2 import DT_UINT8
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from serving.client import Client
from serving.model_store import ModelStore, VersionRecord
from tests.digits import read_idx
from tests.end_to_end.conftest import COMMAND
from tests.serving import models
from tests.serving.server_process import ROOT, eventually, free_port, has_ipv6, has_mounts_of_its_own

# Stands in for TensorFlow Serving, which cannot be installed here: the flags and files are what is tested.
SHIM = f"""#!/bin/sh
cd {ROOT} && exec {sys.executable} -m serving.server --enable_page=false "$@"
"""
ENGINE = f"""#!/bin/sh
[ "$1" = info ] && exit 0
while [ "$1" != tensorflow/serving:2.19.1 ]; do shift; done
shift
cd {ROOT} && exec {sys.executable} -m serving.server --enable_page=false "$@"
"""


def push(model: Path, home: Path) -> None:
    ModelStore(home / "serving").model("mnist").push(model, VersionRecord(run="test"))


@pytest.fixture(scope="module")
def home(tmp_path_factory, mnist) -> Path:
    folder = tmp_path_factory.mktemp("serve")
    models.trained(folder / "model", mnist)
    push(folder / "model", folder / "home")
    images, _ = read_idx(mnist, "t10k", 40)
    for number, image in enumerate(images):
        PIL.Image.fromarray(image).save(folder / f"{number:02}.png")
    return folder / "home"


def conveyor(*arguments, **options) -> subprocess.CompletedProcess:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False, **{"text": True} | options)


class Serving:
    """A `conveyor serve` that is ready."""

    def __init__(self, home: Path, *arguments: str, path: Path | None = None) -> None:
        self.port, self.rest_port = free_port(), free_port()
        ports = [f"--port={self.port}", f"--rest-port={self.rest_port}", f"--home={home}"]
        environment = os.environ | ({"PATH": f"{path}:{os.environ['PATH']}"} if path else {})
        self.process = subprocess.Popen(
            [*COMMAND, "serve", "--json", *ports, *arguments], cwd=ROOT, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(self.process.communicate()[1])
        self.ready = json.loads(line)
        self.target = f"localhost:{self.port}"

    def __enter__(self) -> "Serving":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()  # and no harder: the server is a process of its own
        self.process.communicate(timeout=60)


@pytest.fixture(scope="module")
def serving(home):
    with Serving(home, "--backend=embedded") as running:
        yield running


def test_it_is_ready_when_it_says_so_and_its_snippets_work_as_they_stand(serving):
    ready = serving.ready
    assert (ready["backend"], ready["models"]) == ("embedded", {"mnist": 1})
    assert urllib.request.urlopen(ready["page"]).read().startswith(b"<!doctype html>")
    for name, wanted in (("curl", '"predictions"'), ("python", "Prediction(scores=")):
        if name == "curl" and not shutil.which("curl"):
            continue
        done = subprocess.run(["sh", "-c", ready["ask"][name]], cwd=ROOT, capture_output=True, text=True, check=False)
        assert wanted in done.stdout, done.stderr
    assert Path(ready["ask"]["grpcurl"].split()[3]).stat().st_size > 1000


def test_predict_shows_classes_probability_and_latency(serving, home):
    files = [home.parent / "00.png", home.parent / "01.png"]
    done = conveyor("predict", "mnist", *files, "--target", serving.target)
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines() if ".png" in line] == ["7", "2"]
    assert " %" in done.stdout
    assert " ms" in done.stdout


def test_predict_takes_patterns_standard_input_and_rest(serving, home, mnist):
    done = conveyor("predict", "mnist", home.parent / "*.png", "--target", serving.target, "--json")
    answers = json.loads(done.stdout)["predictions"]
    labels = read_idx(mnist, "t10k", 40)[1]
    right = [int(answer["classes"][0]["class"]) == label for answer, label in zip(answers, labels, strict=True)]
    assert sum(right) >= 37
    assert answers[0]["version"] == 1
    image = (home.parent / "00.png").read_bytes()
    rest = f"http://localhost:{serving.rest_port}"
    done = conveyor("predict", "mnist", "-", "--target", rest, "--json", input=image, text=False)
    assert json.loads(done.stdout)["predictions"][0]["classes"][0]["class"] == "7"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["mnist", "nowhere.png"], 2, "there is no such file"),
        (["nope", "{}/00.png"], 1, "has no model nope, or not that version of it"),
        (["mnist", "{}/00.png", "--version", "9"], 1, "Specific(mnist, 9)"),
        (["mnist", str(ROOT / "README.md")], 1, "expected PNG, JPEG, GIF, BMP or WebP, found something else"),
    ],
)
def test_predict_says_what_is_wrong(serving, home, arguments, code, message):
    given = [argument.format(home.parent) for argument in arguments]
    done = conveyor("predict", *given, "--target", serving.target)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_predict_without_a_server(home):
    done = conveyor("predict", "mnist", home.parent / "00.png", "--target", "localhost:1", "--timeout", "1")
    assert done.returncode == 1
    assert "No server answers at localhost:1 (" in done.stderr


def test_loadtest_holds_the_server_against_a_bare_session(serving, home):
    options = ["--target", serving.target, "--home", home, "--clients", "4", "--seconds", "2", "--json"]
    done = conveyor("loadtest", "mnist", *options)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["requests"] > 50
    assert 0 < seen["p50"] <= seen["p90"] <= seen["p99"]
    assert seen["errors"] == {}
    assert seen["session"] > 0
    assert seen["ratio"] == pytest.approx(seen["images"] / seen["session"])


def test_a_push_is_served_without_a_restart_and_a_stop_signal_ends_it(home, tmp_path):
    own = tmp_path / "home"
    push(home / "serving" / "mnist" / "1", own)
    models.network(tmp_path / "next")
    with Serving(own, "--backend=embedded", "--versions=latest:2", "--label=first=1") as running:
        push(tmp_path / "next", own)
        with Client(running.target, "mnist") as client:
            image = np.zeros((1, 28, 28, 1), np.uint8)
            deadline = time.monotonic() + 30
            while client.predict(image).version != 2:
                assert time.monotonic() < deadline
            assert client.predict(image, label="first").version == 1
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(40) == 0


def program(folder: Path, name: str, script: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(script)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return folder


@pytest.mark.parametrize(
    ("name", "script", "backend"),
    [("tensorflow_model_server", SHIM, "tensorflow_model_server"), ("docker", ENGINE, "docker")],
)
def test_other_backends_are_started_from_the_same_files_and_get_the_page_in_front(
    home, tmp_path, name, script, backend
):
    path = program(tmp_path / "bin", name, script)
    with Serving(home, path=path) as running:
        ready = running.ready
        assert ready["backend"] == backend
        assert ready["page"] == f"http://localhost:{running.rest_port + 1}/"
        listed = json.loads(urllib.request.urlopen(f"{ready['page']}page/models").read())
        assert [model["name"] for model in listed] == ["mnist"]
        with Client(running.target, "mnist") as client:
            assert client.predict(np.zeros((1, 28, 28, 1), np.uint8)).version == 1


def test_a_server_that_ends_is_told_with_its_last_words(home, tmp_path):
    path = program(tmp_path / "bin", "tensorflow_model_server", "#!/bin/sh\necho out of luck >&2\nexit 7\n")
    environment = os.environ | {"PATH": f"{path}:{os.environ['PATH']}"}
    ports = [f"--port={free_port()}", f"--rest-port={free_port()}"]
    done = conveyor("serve", f"--home={home}", *ports, env=environment)
    assert done.returncode == 1
    assert "The server ended with 7: out of luck" in done.stderr


def test_a_server_that_a_signal_ends_is_told_so_and_its_log_outlives_the_next_start(home, tmp_path):
    path = program(tmp_path / "bin", "tensorflow_model_server", "#!/bin/sh\necho all is well\nkill -9 $$\n")
    environment = os.environ | {"PATH": f"{path}:{os.environ['PATH']}"}
    port = free_port()
    for _ in range(2):
        done = conveyor("serve", f"--home={home}", f"--port={port}", f"--rest-port={free_port()}", env=environment)
        assert done.returncode == 1
        assert "The server was ended by a signal, SIGKILL, most likely because memory ran out" in done.stderr
        assert "all is well" not in done.stderr
    assert (home / "logs" / f"serve-{port}-before.log").read_text() == "all is well\n"


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_an_ipv6_address_is_served_and_asked(home, tmp_path):
    with Serving(home, "--backend=embedded", "--host=::1") as running:
        assert running.ready["grpc"] == f"[::1]:{running.port}"
        assert running.ready["rest"] == f"http://[::1]:{running.rest_port}"
        for target in (running.ready["grpc"], running.ready["rest"]):
            done = conveyor("predict", "mnist", home.parent / "00.png", "--target", target)
            assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not there")
def test_what_the_documentation_asks_with_curl_is_answered(serving, home):
    page = (ROOT / "docs" / "serving.md").read_text()
    command = page[page.index("curl http://") : page.index("grpcurl -plaintext")]
    command = command.replace(":8501", f":{serving.rest_port}").replace("seven.png", str(home.parent / "00.png"))
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["predictions"][0]["label"] == 7


def test_a_server_whose_conveyor_serve_was_killed_follows_labels(home, tmp_path):
    own = tmp_path / "home"
    push(home / "serving" / "mnist" / "1", own)
    models.network(tmp_path / "next")
    push(tmp_path / "next", own)
    running = Serving(own, "--backend=embedded")
    (server,) = [
        child for child in psutil.Process(running.process.pid).children() if "serving.server" in child.cmdline()
    ]
    try:
        running.process.kill()
        running.process.communicate(timeout=60)
        done = conveyor("rollback", "mnist", f"--home={own}")
        assert (done.returncode, f"{running.target} answers with it." in done.stdout) == (0, True), done.stderr
        with Client(running.target, "mnist") as client:
            assert client.predict(np.zeros((1, 28, 28, 1), np.uint8)).version == 1
    finally:
        server.terminate()
        server.wait(60)


def test_what_cannot_be_served_is_a_wrong_command(home, tmp_path):
    for arguments, message in (
        ((f"--home={tmp_path}",), "Run a pipeline first"),
        ((f"--home={home}", "flowers"), "No model flowers has been pushed"),
        ((f"--home={home}", "--versions=some"), "must be stable, latest"),
        ((f"--home={home}", "--label=x"), "expected [MODEL:]NAME=VERSION"),
    ):
        done = conveyor("serve", "--backend=embedded", *arguments)
        assert done.returncode == 2
        assert message in done.stderr


def test_a_version_that_cannot_be_loaded_is_told_of_and_what_was_served_is_served_on(home, tmp_path):
    own = tmp_path / "home"
    push(home / "serving" / "mnist" / "1", own)
    (own / "serving" / "mnist" / "2").mkdir()
    (own / "serving" / "mnist" / "2" / "saved_model.pb").write_text("no model")
    (own / "serving" / "mnist" / "labels.json").write_text('{"stable": 1, "canary": null, "previous": null}')
    why = "Version 2 of mnist cannot be loaded: "
    with Serving(own, "--backend=embedded") as running:
        assert running.ready["problems"] == []
        done = conveyor("rollback", "mnist", "--to=2", f"--home={own}")
        assert done.returncode == 1
        assert f"{running.target} does not answer with it: {why}" in done.stderr
        assert f"`conveyor rollback mnist --to 1 --home {own}` takes it back." in done.stderr
        told = json.loads(running.process.stdout.readline())
        assert told["problem"].startswith(why)
        assert told["problem"].endswith("What was served before is served on.")
        with Client(running.target, "mnist") as client:
            assert client.predict(np.zeros((1, 28, 28, 1), np.uint8)).version == 1
    with Serving(own, "--backend=embedded") as running:
        assert running.ready["models"] == {"mnist": 1}
        (problem,) = running.ready["problems"]
        assert problem.startswith(why)
        assert problem.endswith("In its place is version 1.")
    shutil.rmtree(own / "serving" / "mnist" / "1")
    ports = [f"--port={free_port()}", f"--rest-port={free_port()}"]
    command = [*COMMAND, "serve", "--backend=embedded", f"--home={own}", *ports]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as waiting:
        said = waiting.stderr.readline()  # it does not listen before it has loaded something
        waiting.send_signal(signal.SIGTERM)
        waiting.communicate(timeout=60)
    assert re.search(r"mnist does not answer yet; .*mnist/2, attempt 1: ", said)
    assert waiting.returncode == 0


def test_a_request_of_many_rows_takes_no_more_memory_than_a_batch(serving):
    """One value for them all makes a short message of it."""
    (server,) = psutil.Process(serving.process.pid).children()
    before, rows = server.memory_info().rss, 20_000
    images = TensorProto(dtype=DT_UINT8, int_val=[0])
    for size in (rows, 28, 28, 1):
        images.tensor_shape.dim.add(size=size)
    request = PredictRequest(inputs={"images": images})
    request.model_spec.name, request.model_spec.signature_name = "mnist", "predict_pixels"
    assert request.ByteSize() < 100
    with grpc.insecure_channel(serving.target) as channel:
        reply = PredictionServiceStub(channel).Predict(request, timeout=60)
    assert reply.outputs["label"].tensor_shape.dim[0].size == rows
    assert server.memory_info().rss - before < 500e6  # all at once took 3.7 GB


def test_a_terminal_that_closes_ends_the_server(home):
    with Serving(home, "--backend=embedded") as running:
        (server,) = psutil.Process(running.process.pid).children()
        running.process.send_signal(signal.SIGHUP)
        assert running.process.wait(60) == 0
        assert not server.is_running()


def test_files_for_a_server_of_your_own(home):
    done = conveyor(
        "serve", f"--home={home}", "--backend=embedded", "--files-only", "--port=18500", "--rest-port=18501"
    )
    assert done.returncode == 0
    assert f"--model_config_file={home}/server/18500/models.config" in done.stdout
    assert (home / "server" / "18500" / "models.config").exists()


def test_a_second_server_leaves_the_files_of_the_first_alone(serving, home):
    files = home / "server" / str(serving.port)
    before = {path.name: path.read_bytes() for path in files.iterdir()}
    for extra in ((), ("--dry-run",), ("--files-only",)):
        done = conveyor(
            "serve", f"--home={home}", "--backend=embedded", f"--port={serving.port}", "--versions=1", *extra
        )
        assert done.returncode == 2
    with Serving(home, "--backend=embedded", "--versions=1"):
        pass
    assert {path.name: path.read_bytes() for path in files.iterdir()} == before


def test_a_canary_gets_no_request_of_predict_or_the_page(home, tmp_path):
    own = tmp_path / "home"
    push(home / "serving" / "mnist" / "1", own)
    models.network(tmp_path / "next")
    ModelStore(own / "serving").model("mnist").push(tmp_path / "next", VersionRecord(run="test"), as_canary=True)
    with Serving(own, "--backend=embedded") as running:
        picture = home.parent / "00.png"
        done = conveyor("predict", "mnist", picture, "--target", running.target, "--json")
        assert [answer["version"] for answer in json.loads(done.stdout)["predictions"]] == [1]
        done = conveyor("predict", "mnist", picture, "--target", running.target, "--label", "canary", "--json")
        assert [answer["version"] for answer in json.loads(done.stdout)["predictions"]] == [2]
        page = running.ready["page"]
        assert [m["version"] for m in json.loads(urllib.request.urlopen(f"{page}page/models").read())] == [1]
        reply = urllib.request.urlopen(f"{page}page/models/mnist", bytes(784)).read()
        assert json.loads(reply)["version"] == 1


def test_what_predict_cannot_ask_is_explained(serving, home):
    picture = home.parent / "00.png"
    done = conveyor("predict", "mnist", picture, "--target", f"localhost:{free_port()}", "--timeout", "1")
    assert done.returncode == 1
    assert "`conveyor serve` starts one; --target names another." in done.stderr
    done = conveyor("predict", "flowers", picture, "--target", serving.target, "--home", home)
    assert done.returncode == 1
    assert f"The server at {serving.target} has no model flowers" in done.stderr
    assert "The home folder has mnist." in done.stderr


@pytest.mark.skipif(not has_mounts_of_its_own(), reason="needs root, and a root folder that is a mount point")
def test_a_read_only_home_is_served(home, tmp_path):
    own = tmp_path / "home"
    push(home / "serving" / "mnist" / "1", own)
    port, rest_port = free_port(), free_port()
    read_only = f"mount --bind {own} {own} && mount -o remount,ro,bind {own} && exec "
    serve = shlex.join([*COMMAND, "serve", f"--home={own}", f"--port={port}", f"--rest-port={rest_port}", "--json"])
    command = ["unshare", "--mount", "sh", "-c", read_only + serve + " --backend=embedded"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        ready = json.loads(line)
        assert not ready["files"].startswith(str(own))
        with Client(f"localhost:{port}", "mnist") as client:
            image = np.zeros((1, 28, 28, 1), np.uint8)
            assert client.predict(image, label="stable").version == 1
            models.network(tmp_path / "next")
            push(tmp_path / "next", own)  # from outside, as a run on another machine does
            eventually(lambda: client.predict(image, label="stable").version == 2, 30)
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0
        assert f"{own} cannot be written: the server's files and its log are in" in process.stderr.read()
    assert not Path(ready["files"]).exists()
    assert not (own / "server").exists()
