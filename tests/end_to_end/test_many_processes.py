"""Several processes that share the ports: for who asks them they are one server."""

import collections
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import grpc
import numpy as np
import psutil
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import model_management_pb2, model_service_pb2_grpc

from serving.client import ServingError
from tests.serving import models
from tests.serving.server_process import ROOT, Server, eventually

PROCESSES = 2
READY = f"{PROCESSES} processes are listening"


def started(folder, base, *flags):
    (folder / "monitoring").write_text("prometheus_config { enable: true }")
    server = Server(
        folder / "log", f"--model_base_path={base}", f"--num_processes={PROCESSES}", "--max_num_load_retries=0",
        f"--monitoring_config_file={folder / 'monitoring'}", *flags, wait=False,
    )  # fmt: skip
    server.wait_for(READY)
    return server


def workers(server):
    """Returns the processes that listen on the REST port."""
    everyone = psutil.Process(server.process.pid).children(recursive=True)
    return [one for one in everyone if any(is_at(c, server.rest_port) for c in connections(one))]


def connections(process):
    try:
        return process.net_connections("tcp")
    except (psutil.NoSuchProcess, psutil.AccessDenied):  # it has ended meanwhile
        return []


def is_at(connection, port):
    return connection.status == psutil.CONN_LISTEN and connection.laddr.port == port


def rest(server, path="/v1/models/default:predict", body=None):
    """Returns what a connection of its own is answered."""
    data = json.dumps(body).encode() if body is not None else None
    with urllib.request.urlopen(urllib.request.Request(server.rest + path, data), timeout=30) as response:
        return response.read().decode()


def half(server, x=0.0, **spec):
    return json.loads(rest(server, body={"instances": [x]} | spec))["predictions"][0]


def answers(server, times=30):
    """Returns what so many connections are answered; the kernel spreads them over the processes."""
    return {half(server) for _ in range(times)}


def states(server):
    """Returns the states of the versions, the newest first; none where the process that is asked ends meanwhile."""
    try:
        return [version.state for version in server.client().status()]
    except ServingError:
        return []


def reload(server, text):
    request = model_management_pb2.ReloadConfigRequest()
    text_format.Merge(text, request.config)
    with grpc.insecure_channel(server.target) as channel:
        return model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest(request, timeout=60)


class Load:
    """Threads that ask over new connections until the block is left."""

    def __init__(self, server, threads=4):
        self.seen, self.failed, self._over = collections.Counter(), [], threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(server,)) for _ in range(threads)]

    def _ask(self, server):
        while not self._over.is_set():
            try:
                self.seen[half(server)] += 1
            except (OSError, urllib.error.URLError) as error:
                self.failed.append(str(error))

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        for thread in self._threads:
            thread.join()


def aborting(path, when):
    """Writes half_plus_two, whose process ends when it is loaded, or when its signature `abort` is asked."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.compat.v1.placeholder(tf.float32, [None], name="x")
        with tf.control_dependencies([tf.raw_ops.Abort(error_msg="on purpose", exit_without_error=False)]):
            aborted = tf.identity(x)
            main = tf.no_op()
        info = tf.compat.v1.saved_model.utils.build_tensor_info
        signature = tf.compat.v1.saved_model.build_signature_def
        signatures = {
            "serving_default": signature({"x": info(x)}, {"y": info(0.5 * x + 2)}, "tensorflow/serving/predict"),
            "abort": signature({"x": info(x)}, {"y": info(aborted)}, "tensorflow/serving/predict"),
        }
        builder = tf.compat.v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(session, ["serve"], signatures, main_op=main if when == "loaded" else None)
        builder.save()


@pytest.fixture
def base(tmp_path):
    models.half_plus_two(tmp_path / "models" / "1", offset=1)
    return tmp_path / "models"


def test_processes_are_as_one_server(tmp_path, base):
    with started(tmp_path, base) as server:
        assert len(workers(server)) == PROCESSES
        assert answers(server) == {1.0}
        counted = 'request_count{model_name="default",status="OK"} 30'
        assert counted in rest(server, "/monitoring/prometheus/metrics")
        assert server.client().status()[0].state == "AVAILABLE"

        # Labels and versions are the same in all of them once the reply is there.
        models.half_plus_two(base / "2", offset=2)
        entry = f"name: 'default' base_path: '{base}' model_platform: 'tensorflow' model_version_policy {{ all {{}} }}"
        reload(server, f"model_config_list {{ config {{ {entry} }} }}")
        eventually(lambda: states(server) == ["AVAILABLE", "AVAILABLE"])
        assert answers(server) == {2.0}
        reload(server, f"model_config_list {{ config {{ {entry} version_labels {{ key: 'stable' value: 1 }} }} }}")
        labelled = "/v1/models/default/labels/stable:predict"
        assert {rest(server, labelled, {"instances": [0.0]}) for _ in range(30)} == {
            '{\n  "predictions": [\n    1.0\n  ]\n}'
        }
        assert server.stop() == 0
    assert "Traceback" not in server.said()


def test_a_rollout_under_load_fails_no_request(tmp_path, base):
    with started(tmp_path, base) as server:
        with Load(server) as load:
            eventually(lambda: load.seen[1.0] > 100)
            models.half_plus_two(tmp_path / "new", offset=2)
            (tmp_path / "new").rename(base / "2")
            eventually(lambda: load.seen[2.0] > 100)
            eventually(lambda: states(server) == ["AVAILABLE", "END"])
            assert answers(server) == {2.0}
        assert not load.failed


def test_a_process_that_ends_is_replaced_and_the_others_answer_meanwhile(tmp_path, base):
    with started(tmp_path, base) as server:
        killed = workers(server)[0]
        killed.send_signal(signal.SIGKILL)
        psutil.wait_procs([killed], timeout=10)
        assert answers(server) == {1.0}, "nobody asks who is not there"
        models.half_plus_two(tmp_path / "new", offset=2)
        (tmp_path / "new").rename(base / "2")  # while one is missing
        eventually(lambda: len(workers(server)) == PROCESSES)
        eventually(lambda: states(server) == ["AVAILABLE", "END"])
        assert answers(server, times=60) == {2.0}
        assert (
            "process 0 ended with -9; another" in server.said() or "process 1 ended with -9; another" in server.said()
        )
        # One that is told to end finishes what it has begun, and what it has counted is not lost.
        before = rest(server, "/monitoring/prometheus/metrics")
        workers(server)[0].terminate()
        eventually(lambda: server.said().count("another one takes its place") == 2)
        after = rest(server, "/monitoring/prometheus/metrics")
        assert [line for line in after.splitlines() if "request_count" in line] == [
            line for line in before.splitlines() if "request_count" in line
        ]


def test_a_request_that_ends_its_process_takes_no_other_request_with_it(tmp_path):
    aborting(tmp_path / "models" / "1", when="asked")
    with started(tmp_path, tmp_path / "models") as server:
        with pytest.raises((OSError, urllib.error.URLError)):
            half(server, signature_name="abort")
        server.wait_for("ended with -6")
        assert answers(server) == {2.0}
        eventually(lambda: len(workers(server)) == PROCESSES)
        assert answers(server) == {2.0}


def test_a_version_that_ends_the_process_that_loads_it_leaves_the_others(tmp_path, base):
    with started(tmp_path, base) as server:
        aborting(tmp_path / "new", when="loaded")
        before = workers(server)
        (tmp_path / "new").rename(base / "2")
        eventually(lambda: states(server) == ["END", "AVAILABLE"])
        assert "Process 0 ended while it loaded this version." in server.client().status()[0].error_message
        assert sum(one.is_running() for one in before) == 1
        eventually(lambda: len(workers(server)) == PROCESSES)
        assert answers(server) == {1.0}


def test_a_stop_while_the_processes_start_leaves_none(tmp_path, base):
    with Server(tmp_path / "log", f"--model_base_path={base}", "--num_processes=2", wait=False) as server:
        supervisor = psutil.Process(server.process.pid)
        eventually(lambda: len(supervisor.children(recursive=True)) > PROCESSES)  # and Python's resource tracker
        everyone = supervisor.children(recursive=True)
        for process in [supervisor, *everyone]:  # as a terminal does
            process.send_signal(signal.SIGINT)
        assert server.process.wait(40) == 0
        assert psutil.wait_procs(everyone, timeout=10)[1] == []
    assert "Traceback" not in server.said()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_all_processes_end_with_the_supervisor(tmp_path, base, how):
    with started(tmp_path, base) as server:
        everyone = psutil.Process(server.process.pid).children(recursive=True)
        if how == signal.SIGINT:  # as a terminal does
            for process in everyone:
                process.send_signal(how)
        assert server.stop(how) == (-how if how == signal.SIGKILL else 0)
        assert psutil.wait_procs(everyone, timeout=30)[1] == []
    assert "Traceback" not in server.said()


def test_what_cannot_start_says_why(tmp_path, base):
    (tmp_path / "batching").write_text("max_batch_size { value: 0 }")
    wrong = {
        "max_batch_size must be at least 1": [
            "--enable_batching",
            f"--batching_parameters_file={tmp_path / 'batching'}",
        ],
        "Could not find base path": [f"--model_base_path={tmp_path / 'none'}"],
        "is not a key=value pair": ["--grpc_channel_arguments=wrong"],
    }
    for message, flags in wrong.items():
        with Server(tmp_path / "log", f"--model_base_path={base}", "--num_processes=2", *flags, wait=False) as server:
            assert server.process.wait(60) == 1
        assert message in server.said()
        assert "Traceback" not in server.said()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        flags = [f"--port={taken.getsockname()[1]}", f"--model_base_path={base}", "--num_processes=2"]
        done = subprocess.run(
            [sys.executable, "-m", "serving.server", *flags], cwd=ROOT, capture_output=True, text=True, check=False
        )
    assert done.returncode == 1
    assert "cannot be listened on: Address already in use" in done.stderr


def test_grpc_channels_are_spread(tmp_path, base):
    with started(tmp_path, base) as server:
        clients = [server.client() for _ in range(16)]
        for client in clients:
            client.call("serving_default", {"x": np.zeros(1, np.float32)})
        held = [
            sum(c.status == psutil.CONN_ESTABLISHED and c.laddr.port == server.port for c in connections(one))
            for one in workers(server)
        ]
        assert all(held), held
        killed = workers(server)[0]
        killed.send_signal(signal.SIGKILL)
        psutil.wait_procs([killed], timeout=10)
        time.sleep(0.1)  # until the clients' end of the connections sees it
        for client in clients:
            client.call("serving_default", {"x": np.zeros(1, np.float32)})
            client.close()
        with pytest.raises(ServingError, match="Could not find any versions"):
            server.client("other").status()
