import socket
import threading
from concurrent import futures

import grpc
import numpy as np
import pytest

from serving.client import Client, ServingError, Tls

DAMAGED = [b"\x08", b"\x0a\x05ab", b"\x0b", b"\x08" + b"\xff" * 11, b"\x0f"]


@pytest.fixture
def server():
    """A server that answers every call with the bytes in `reply`."""
    state = {}

    class Handler(grpc.GenericRpcHandler):
        def service(self, _):
            return grpc.unary_unary_rpc_method_handler(lambda request, context: state["reply"])

    running = grpc.server(futures.ThreadPoolExecutor(2), handlers=[Handler()])
    state["target"] = f"localhost:{running.add_insecure_port('localhost:0')}"
    running.start()
    yield state
    running.stop(None)


@pytest.mark.parametrize("reply", DAMAGED, ids=range(len(DAMAGED)))
@pytest.mark.parametrize("call", ["status", "metadata", "predict"])
def test_damaged_messages_are_an_error_of_the_client(server, reply, call):
    server["reply"] = reply
    with Client(server["target"], "m") as client, pytest.raises(ServingError, match="DATA_LOSS"):
        client.predict(np.zeros((1, 2, 2, 1), np.uint8)) if call == "predict" else getattr(client, call)()


def test_an_answer_without_the_outputs_is_an_error_of_the_client(server):
    server["reply"] = b""
    with Client(server["target"], "m") as client, pytest.raises(ServingError, match="FAILED_PRECONDITION"):
        client.predict(np.zeros((1, 2, 2, 1), np.uint8))


@pytest.mark.parametrize("target", ["localhost:1", "https://localhost:1"])
def test_a_missing_certificate_is_an_error_of_the_client(target, tmp_path):
    with pytest.raises(ServingError, match="a certificate or key cannot be read"):
        Client(target, "m", tls=Tls(tmp_path / "nothing.pem"))


def test_an_address_that_is_none_is_an_error_of_the_client():
    with Client("http://localhost:abc", "m") as client, pytest.raises(ServingError, match="INVALID_ARGUMENT"):
        client.status()


def test_a_server_that_speaks_no_http_is_an_error_of_the_client():
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer():
            connection, _ = listening.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"\x00\x00\x18\x04\x00\n")

        listening.settimeout(10)
        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        client = Client(f"http://127.0.0.1:{listening.getsockname()[1]}", "m", retries=0)
        with client, pytest.raises(ServingError, match=r"UNAVAILABLE: .* does not speak HTTP"):
            client.status()
        thread.join()
