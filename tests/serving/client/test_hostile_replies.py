"""The REST client against servers that drip, cut and garble their replies."""

import json
import random
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from serving.client import Client, ServingError
from serving.client.models import is_local

IMAGES = np.zeros((1, 2, 2, 1), np.uint8)
GOOD = {
    "predict": {"outputs": {"scores": [[0.1, 0.9]], "classes": [["a", "b"]], "label": [1]}},
    "status": {
        "model_version_status": [
            {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ]
    },
    "metadata": {
        "metadata": {
            "signature_def": {
                "signature_def": {
                    "s": {
                        "inputs": {
                            "x": {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1"}], "unknown_rank": False}}
                        },
                        "outputs": {},
                        "method_name": "m",
                    }
                }
            }
        }
    },
}


@pytest.fixture
def server():
    """An HTTP server that sends the bytes in `reply`, and announces `length` of them."""
    state = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(state.get("code", 200))
            self.send_header("Content-Length", str(state.get("length", len(state["reply"]))))
            self.end_headers()
            self.wfile.write(state["reply"])

        def do_POST(self):
            self.do_GET()

        def log_message(self, *_):
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    state["target"] = f"http://127.0.0.1:{running.server_port}"
    yield state
    running.shutdown()
    running.server_close()


def ask(client, call):
    return client.predict(IMAGES) if call == "predict" else getattr(client, call)()


@pytest.mark.parametrize("call", GOOD)
def test_a_good_reply_is_read(server, call):
    server["reply"] = json.dumps(GOOD[call]).encode()
    with Client(server["target"], "m") as client:
        assert ask(client, call)


@pytest.mark.parametrize("call", GOOD)
def test_a_reply_that_is_cut_is_an_error_of_the_client(server, call):
    server["reply"], server["length"] = json.dumps(GOOD[call]).encode()[:20], 1000
    with Client(server["target"], "m", retries=0) as client, pytest.raises(ServingError, match="UNAVAILABLE"):
        ask(client, call)


def garbled(value, rng):
    """Returns JSON in which one part is another kind of thing."""
    other = [None, 3, -1, 2.5, "text", [], {}, [[]], True, "9" * 50, {"b64": "!"}, [1, "a"]]
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.3:
        return rng.choice(other)
    if isinstance(value, list):
        number = rng.randrange(len(value))
        return [garbled(item, rng) if i == number else item for i, item in enumerate(value)]
    chosen = rng.choice(sorted(value))
    if rng.random() < 0.2:
        return {name: item for name, item in value.items() if name != chosen}
    return {name: garbled(item, rng) if name == chosen else item for name, item in value.items()}


@pytest.mark.parametrize("call", GOOD)
def test_garbled_replies_are_read_or_are_errors_of_the_client(server, call):
    rng = random.Random(11)
    refused = 0
    with Client(server["target"], "m", retries=0) as client:
        for _ in range(200):
            server["reply"] = json.dumps(garbled(GOOD[call], rng)).encode()
            try:
                ask(client, call)
            except ServingError:
                refused += 1
    assert refused > 20


@pytest.mark.parametrize("code", [400, 500, 599, 300])
@pytest.mark.parametrize("reply", [b"", b"[]", b'{"error": 3}', b'{"error": "why"}', b"\xff" * 1000, b"[" * 100000])
@pytest.mark.parametrize("cut", [0, 10])
def test_failures_with_any_body_are_errors_of_the_client(server, code, reply, cut):
    server["reply"], server["code"], server["length"] = reply, code, len(reply) + cut
    with Client(server["target"], "m", retries=0) as client, pytest.raises(ServingError):
        client.status()


def test_a_reply_that_is_nested_too_deeply_is_an_error_of_the_client(server):
    server["reply"] = b"[" * 100000
    with Client(server["target"], "m", retries=0) as client, pytest.raises(ServingError, match="what is not JSON"):
        client.status()


@pytest.mark.parametrize("target", ["http://[::1", "[::1"])
def test_what_is_no_address_is_an_error_of_the_client(target):
    with pytest.raises(ServingError, match="is no address"):
        Client(target, "m")


@pytest.mark.parametrize(
    "beginning", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"], ids=["header", "body"]
)
def test_a_server_that_drips_is_left_at_the_deadline(beginning):
    stopped = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)

        def drip():
            connection, _ = listening.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(beginning or b"HTTP/1.1 200 OK\r\n")
                while not stopped.wait(0.05):
                    try:
                        connection.sendall(b" " if beginning else b"X-Y: z\r\n")
                    except OSError:
                        return

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        started = time.monotonic()
        client = Client(f"http://127.0.0.1:{listening.getsockname()[1]}", "m", timeout=0.5, retries=0)
        with client, pytest.raises(ServingError, match="DEADLINE_EXCEEDED"):
            client.status()
        waited = time.monotonic() - started
        stopped.set()
        thread.join()
    assert waited < 3  # it dripped on for as long as it was let


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("localhost:8500", True),
        ("http://127.0.0.1:8501", True),
        ("[::1]:8500", True),
        ("unix:/tmp/x", True),
        ("example.org:8500", False),
        ("http://10.0.0.1", False),
        ("localhost.example.org:1", False),
        ("unixbox.example.org:8500", False),
        ("HTTP://Localhost:8501", True),
    ],
)
def test_no_proxy_is_the_way_to_this_machine(target, expected):
    assert is_local(target) == expected


@pytest.mark.parametrize("scheme", ["http://", ""])
def test_a_proxy_is_not_asked_for_this_machine(monkeypatch, scheme):
    with socket.create_server(("127.0.0.1", 0)) as proxy, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        for name in ("http_proxy", "HTTP_PROXY", "grpc_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        proxy.settimeout(0.3)
        target = f"{scheme}127.0.0.1:{free.getsockname()[1]}"
        with Client(target, "m", retries=0, timeout=1) as client, pytest.raises(ServingError):
            client.status()
        with pytest.raises(TimeoutError):
            proxy.accept()
