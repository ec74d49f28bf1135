"""What may serve the pushed models: TensorFlow Serving itself, its container image, or the embedded server."""

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

from conveyor.errors import ConfigError
from conveyor.words import host_and_port
from pipeline.home.folders import Home
from pipeline.release import server_files

NAMES = ("auto", "tensorflow_model_server", "docker", "embedded")
IMAGE = "tensorflow/serving:2.19.1"
ENGINES = ("docker", "podman")


@dataclasses.dataclass(frozen=True)
class Backend:
    """A server to start.

    Attributes:
      name: one of `NAMES`, and not `auto`.
      why: why it was chosen, as half a sentence.
      engine: the container engine; empty for the others.
    """

    name: str
    why: str
    engine: str = ""

    @property
    def is_embedded(self) -> bool:
        """Whether it is the embedded server, which serves the page itself and may be several processes."""
        return self.name == "embedded"

    def command(self, home: Home, folder: Path, host: str, port: int, rest_port: int, image: str) -> list[str]:
        """Returns the command that starts it.

        Args:
          home: its `serving` folder is what is served; a container sees it under the same path, read-only.
          folder: of the configuration files.
          host: address to listen on. TensorFlow Serving itself always listens on every one.
          port: of gRPC.
          rest_port: of REST.
          image: of the container.
        """
        flags = server_files.flags(folder, port, rest_port)
        if self.name == "embedded":
            return [
                sys.executable, "-m", "serving.server", *flags, f"--bind_address={host}",
                "--enable_grpc_healthcheck_service",
            ]  # fmt: skip
        if self.name == "tensorflow_model_server":
            return ["tensorflow_model_server", *flags]
        mounts = [f"--volume={path}:{path}:ro" for path in (home.serving, folder)]
        ports = [f"--publish={host_and_port(host, number)}:{number}" for number in (port, rest_port)]
        user = f"--user={os.getuid()}:{os.getgid()}"
        entry = "--entrypoint=tensorflow_model_server"
        return [self.engine, "run", "--rm", "--init", user, *mounts, *ports, entry, image, *flags]


def choose(name: str) -> Backend:
    """Returns the backend of a name; for `auto` the first that can be had.

    Raises:
      ConfigError: what is asked for is not there.
    """
    binary = shutil.which("tensorflow_model_server")
    if name == "embedded":
        return Backend(name, "as asked")
    if name == "tensorflow_model_server":
        if not binary:
            raise ConfigError("tensorflow_model_server is not on the PATH; --backend embedded needs nothing more.")
        return Backend(name, "as asked")
    engine = "" if name == "auto" and binary else _engine()
    if name == "docker":
        if not engine:
            raise ConfigError("No container engine answers (docker, podman); --backend embedded needs nothing more.")
        return Backend(name, "as asked", engine)
    if binary:
        return Backend("tensorflow_model_server", f"{binary} is on the PATH")
    if engine:
        return Backend("docker", f"there is no tensorflow_model_server on the PATH, and {engine} answers", engine)
    return Backend("embedded", "there is no tensorflow_model_server on the PATH, and no container engine answers")


def _engine() -> str:
    for engine in ENGINES:
        try:
            done = subprocess.run([engine, "info"], capture_output=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            return engine
    return ""
