"""A pool of Beam's workers with Conveyor on them, beside a TaskManager of Flink or an executor of Spark."""

import contextlib
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent import futures

import grpc
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc

from conveyor.errors import ConfigError, ConveyorError

_WORKER = "from apache_beam.runners.worker.sdk_worker import SdkHarness as H; H({url!r}, worker_id={worker!r}).run()"
GRACE_SECONDS = 10  # for a worker that is told to stop


class AddressTaken(ConveyorError):
    """Another process listens there."""


class Pool(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """Starts and stops workers, each a process of its own, as a runner asks for them.

    Beam's own pool listens on every address of the machine, to whoever can reach it, and stops when a worker has
    printed more than a pipe holds.
    """

    def __init__(self) -> None:
        self._workers: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()
        self._closed = False

    def StartWorker(self, request: beam_fn_api_pb2.StartWorkerRequest, _: grpc.ServicerContext) -> object:  # noqa: N802
        """Starts a worker that takes its work from the address that the request names."""
        code = _WORKER.format(url=request.control_endpoint.url, worker=request.worker_id)
        with self._lock:
            if self._closed:
                return beam_fn_api_pb2.StartWorkerResponse(error="The pool is being stopped.")
            self._workers = [worker for worker in self._workers if worker.poll() is None]  # the others have ended
            try:
                self._workers.append(subprocess.Popen([sys.executable, "-c", code]))
            except OSError as error:
                return beam_fn_api_pb2.StartWorkerResponse(error=str(error))
        return beam_fn_api_pb2.StartWorkerResponse()

    def StopWorker(self, request: beam_fn_api_pb2.StopWorkerRequest, _: grpc.ServicerContext) -> object:  # noqa: ARG002, N802
        """Does nothing: a worker ends by itself with its job, and another job may have called its own alike."""
        return beam_fn_api_pb2.StopWorkerResponse()

    def stop(self) -> None:
        """Stops all workers, and starts no more."""
        with self._lock:
            self._closed = True
        _stop(self._workers)


def _stop(workers: list[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        worker.terminate()
    for worker in workers:
        try:
            worker.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def serve(address: str, started: Callable[[], object]) -> None:
    """Runs a pool until SIGTERM or SIGINT comes.

    Whoever reaches the address can run any code here, as Beam's workers do: it must be one that only the runner
    reaches, and never all of the machine's.

    Args:
      address: HOST:PORT.
      started: called when the pool listens.

    Raises:
      AddressTaken: another process listens there.
      ConfigError: it is no address, or stands for all addresses of the machine.
    """
    host, port = parsed(address)
    server = grpc.server(futures.ThreadPoolExecutor(), options=[("grpc.so_reuseport", 0)])
    pool = Pool()
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
    for numeric in places(host, port):
        try:
            server.add_insecure_port(f"[{numeric}]:{port}" if ":" in numeric else f"{numeric}:{port}")
        except RuntimeError as error:
            raise AddressTaken(f"{address} cannot be listened to: {_why_not(numeric, port)}.") from error
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server.start()
    started()
    stop.wait()
    server.stop(None).wait()
    pool.stop()


def parsed(address: str) -> tuple[str, int]:
    """Returns the host and the port of an address.

    Raises:
      ConfigError: it is none.
    """
    host, _, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not host or set(host) & set("[] ") or not (port.isascii() and port.isdecimal() and 0 < int(port) < 2**16):
        raise ConfigError(f"{address!r} is no address; it must look like localhost:50000.")
    return host, int(port)


def places(host: str, port: int) -> list[str]:
    """Returns the numeric addresses of a host that are this machine's, as a pool listens at them.

    Raises:
      ConfigError: there is none, or it stands for all addresses of the machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"{host} is no host of this machine: {error}.") from error
    numeric = list(dict.fromkeys(str(place[0]) for *_, place in found))
    for number in map(ipaddress.ip_address, numeric):
        if number.is_unspecified or (getattr(number, "ipv4_mapped", None) or number).is_unspecified:
            raise ConfigError(
                f"{host} stands for every address of this machine, and whoever reaches a worker can run any code on "
                "it. Name the address that the runner beside it reaches, such as localhost:50000."
            )
    own = []
    for family, kind, protocol, _, place in found:
        # `localhost` may have an address of IPv6, and the machine no IPv6.
        with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as probe:
            probe.bind((place[0], 0, *place[2:]))
            own.append(str(place[0]))
    if not own:
        raise ConfigError(f"{host} is no address of this machine.")
    return own


def _why_not(host: str, port: int) -> str:
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(place)
    except OSError as error:
        return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    return "it is taken"
