"""Ray, beside this stack, and a cluster of two nodes that are processes of this machine."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.extras import extra

LOST_SOON = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "2"}


@pytest.fixture(scope="session")
def ray(request) -> dict[str, str]:
    """The environment that makes Ray importable."""
    return {"PYTHONPATH": str(extra(request, "ray")), "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture
def cluster(ray):
    """A Ray cluster of two nodes with a processor each: its address, and the second node's daemon."""
    folder = tempfile.mkdtemp(prefix="ray-")  # a short one: the names of sockets lie in it
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address, port = "127.0.0.1", free.getsockname()[1]

    def start(*arguments):
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--num-cpus=1", "--disable-usage-stats"]
        command += [f"--node-ip-address={address}", *arguments]
        subprocess.run(command, env=os.environ | ray | LOST_SOON, check=True, capture_output=True)

    try:
        start("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}")
        start(f"--address={address}:{port}")
        yield f"{address}:{port}", _process(f"--raylet_socket_name={folder}/", "/raylet.1")
    finally:
        subprocess.run(["pkill", "-9", "-f", folder], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def _process(*parts):
    """Returns the process with all of these in one of its arguments."""
    for path in list(Path("/proc").glob("[0-9]*/cmdline")):  # to the end: what reads a folder is closed then
        if any(all(part in argument for part in parts) for argument in path.read_text(errors="replace").split("\0")):
            return int(path.parent.name)
    raise AssertionError(f"no process has {parts}")
