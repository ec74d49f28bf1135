import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from pipeline.beam.runners import BeamRunner

ROOT = Path(__file__).parents[3]
POOL = [sys.executable, "-m", "pipeline.cli", "worker", "--address"]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def on_loopback(address: str) -> BeamRunner:
    """A runner of Beam's own, in this process, that asks for its workers as those of a cluster do."""
    return BeamRunner.of(
        f"--runner=PortableRunner --job_endpoint=embed --environment_config={address} --parallelism=2", "--beam"
    )


@contextlib.contextmanager
def begun(command: list[str], folder: Path = ROOT) -> Iterator[subprocess.Popen]:
    """A pool that listens, with the modules of a folder; it is killed at the end."""
    environment = os.environ | {"PYTHONPATH": str(folder)}
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout.readline().startswith("Workers for Beam at ")
            yield process
        finally:
            process.terminate()  # or its workers would stay
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
