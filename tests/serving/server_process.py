"""The embedded server as a process of its own, as a user starts it."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

from serving.client import Client

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def has_ipv6() -> bool:
    """Whether the loopback has an IPv6 address."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


class Server:
    """Starts with flags; `port` and `rest_port` are free ones. Stops when the block is left."""

    def __init__(self, log: Path, *flags: str, wait: bool = True, rest: bool = True) -> None:
        self.log = log
        self.port, self.rest_port = free_port(), free_port() if rest else 0
        command = [sys.executable, "-m", "serving.server", f"--port={self.port}", f"--rest_api_port={self.rest_port}"]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, *flags], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.target, self.rest = f"localhost:{self.port}", f"http://localhost:{self.rest_port}"
        if wait:
            self.wait_for("Exporting HTTP/REST API" if rest else "Running gRPC ModelServer")

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str, seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while not re.search(text, self.said()):
            assert self.process.poll() is None, f"the server ended with {self.process.returncode}:\n{self.said()}"
            assert time.monotonic() < deadline, f"no {text!r} in\n{self.said()}"
            time.sleep(0.05)

    def client(self, model: str = "default", **options) -> Client:
        return Client(self.target, model, **options)

    def memory(self) -> float:
        """Returns the process's memory, megabytes."""
        return psutil.Process(self.process.pid).memory_info().rss / 1e6

    def threads(self) -> int:
        return psutil.Process(self.process.pid).num_threads()

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(40)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def eventually(holds, seconds: float = 30, every: float = 0.05) -> None:
    """Waits until a condition holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(every)


def has_mounts_of_its_own() -> bool:
    """Whether a process may mount what nobody else sees: not in a chroot, and not without being root."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        return False
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0
