"""`conveyor serve`: starts a server of the pushed models, waits until it answers, and says how to ask it."""

import base64
import contextlib
import dataclasses
import errno
import io
import json
import math
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import PIL.Image

from conveyor.errors import ConfigError, ConveyorError, storage_errors
from conveyor.processes import ROOT
from conveyor.words import host_and_port
from pipeline.home.folders import Home
from pipeline.release import backends, server_files
from pipeline.release.backends import Backend
from pipeline.release.rollout import Rollout
from pipeline.release.server_files import Served
from pipeline.release.server_folder import ServerFolder, ServerRecord
from serving.client import Client, ServingError
from serving.model_store.labels import CANARY, STABLE

START_LIMIT = 300  # seconds until a server must answer
STOP_LIMIT = 30  # seconds that it is given to finish what runs


class ServeFailed(ConveyorError):
    """The server ended, or did not answer."""


@dataclasses.dataclass(frozen=True)
class ServerSettings:
    """What the command line says.

    Attributes:
      models: names; empty for every pushed one.
      versions: as `server_files.VersionChoice.of` reads it.
      labels: as `server_files.labels_of` reads them.
      host: address to listen on.
      port: of gRPC.
      rest_port: of REST; where the backend has no page, the page is on the next.
      image: of the container.
      processes: of the embedded server; 0 for as many as it finds right.
    """

    models: tuple[str, ...] = ()
    backend: str = "auto"
    versions: str = "stable"
    labels: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8500
    rest_port: int = 8501
    image: str = backends.IMAGE
    processes: int = 0

    @property
    def target(self) -> str:
        """host:port to ask at, over gRPC."""
        return host_and_port(self.reach, self.port)

    @property
    def reach(self) -> str:
        """The address to ask at."""
        return "localhost" if self.host in ("127.0.0.1", "0.0.0.0", "::") else self.host


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """A server that answers.

    Attributes:
      backend: what serves.
      why: it was chosen.
      grpc: host:port of gRPC.
      rest: address of REST.
      page: address of the page.
      models: the stable version of each, or else the highest that is served.
      versions: all that each is served in.
      canaries: the version of each that is tried beside the stable one.
      files: folder of its configuration.
      log: what it writes.
    """

    backend: str
    why: str
    grpc: str
    rest: str
    page: str
    models: dict[str, int]
    versions: dict[str, list[int]]
    canaries: dict[str, int]
    files: str
    log: str


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What is about to be started.

    Attributes:
      backend: what serves.
      folder: of its configuration files.
      models: the stable version of each.
      served: how each is served.
      record: what is written down of it: labels are followed where nothing else was asked for.
    """

    backend: Backend
    folder: ServerFolder
    models: dict[str, int]
    served: dict[str, Served]
    record: ServerRecord

    def versions(self, home: Home) -> dict[str, list[int]]:
        """Returns all versions that each model is served in, rising."""
        there = {name: home.models.model(name).versions() for name in self.served}
        return {
            name: sorted({*served.versions, *self.record.served(name, there[name])})
            for name, served in self.served.items()
        }


def prepare(home: Home, settings: ServerSettings, backend: Backend | None = None) -> Prepared:
    """Chooses the models and their versions, and the backend where none is given; nothing is written.

    Raises:
      ConfigError: nothing to serve, or a wrong option.
    """
    backend = backend or backends.choose(settings.backend)
    if settings.processes > 1 and not backend.is_embedded:
        raise ConfigError(f"--processes is of the embedded server, and {backend.name} was chosen: {backend.why}.")
    ports = _ports(settings, backend)
    if len(set(ports.values())) < len(ports):
        listed = ", ".join(f"{option} {port}" for option, port in ports.items())
        raise ConfigError(f"{listed}: each must be another port.")
    models = server_files.pushed_models(home, settings.models)
    labels = server_files.labels_of(settings.labels, models)
    choice = server_files.VersionChoice.of(settings.versions)
    served = {name: choice.of_model(home, name, labels[name]) for name in models}
    followed = tuple(models) if choice.stable and not settings.labels else ()
    named = {} if followed else {n: tuple(sorted({*s.versions, *s.labels.values()})) for n, s in served.items()}
    record = ServerRecord(settings.target, followed, named, settings.versions)
    return Prepared(backend, ServerFolder.of(home, settings.port), models, served, record)


def _ports(settings: ServerSettings, backend: Backend) -> dict[str, int]:
    """Returns the ports that are listened on, by the option that says which."""
    ports = {"--port": settings.port, "--rest-port": settings.rest_port}
    return (
        ports
        if backend.is_embedded
        else ports | {"the page's port, the one after --rest-port,": settings.rest_port + 1}
    )


@contextlib.contextmanager
def writable(home: Home) -> Iterator[Home]:
    """Yields the home; where it cannot be written to, one whose server's files are in a folder that goes at the end.

    Models are often mounted read-only where they are served. Labels that move are followed all the same.
    """
    if not home.root.is_dir() or os.access(home.root, os.W_OK):
        yield home
        return
    with tempfile.TemporaryDirectory(prefix="conveyor-serve-") as scratch:
        yield dataclasses.replace(home, scratch=Path(scratch))


@contextlib.contextmanager
def written(home: Home, settings: ServerSettings, backend: Backend | None = None) -> Iterator[Prepared]:
    """Prepares a server, writes its files, and holds their folder as long as the block lasts.

    Raises:
      ConfigError: see `prepare`; or another `conveyor serve` holds the folder.
      StorageError: the folder cannot be written.
    """
    folder = ServerFolder.of(home, settings.port)
    backend = prepare(home, settings, backend).backend  # what is wrong is found before anything is touched
    with folder.held():
        folder.forget_record()
        prepared = prepare(home, settings, backend)
        server_files.write(home, folder.path, prepared.served)
        folder.write_record(prepared.record)
        for name, served in prepared.served.items():  # `gc`, which looked before the record was there, may have gone on
            for version in served.versions:
                home.models.model(name).require(version)
        yield prepared


def check_address(settings: ServerSettings, backend: Backend) -> None:
    """Checks that the server can listen.

    Raises:
      ConfigError: a port is taken, or the host is no address of this machine.
    """
    try:
        family, *_, address = socket.getaddrinfo(settings.host, None, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:  # the latter: no name of a host could be like this
        reason = getattr(error, "strerror", None) or "it is no name of a host"
        raise ConfigError(f"--host {settings.host} cannot be resolved: {reason}.") from error
    for option, port in _ports(settings, backend).items():
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address[0], port))
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    raise ConfigError(f"--host {settings.host} is no address of this machine.") from error
                raise ConfigError(
                    f"{option} {port} cannot be listened on ({error.strerror}); choose another. `ss -ltnp` shows which "
                    "program has it: a `conveyor serve` that was killed leaves its server."
                ) from error


def commands(home: Home, settings: ServerSettings, prepared: Prepared) -> list[list[str]]:
    """Returns the commands to start: the server, and for one without a page the page."""
    backend = prepared.backend
    files = prepared.folder.path
    server = backend.command(home, files, settings.host, settings.port, settings.rest_port, settings.image)
    if backend.is_embedded:
        return [[*server, f"--num_processes={settings.processes}"]]
    page = [
        sys.executable, "-m", "serving.server.page.remote", settings.target, str(home.serving), settings.host,
        str(settings.rest_port + 1),
    ]  # fmt: skip
    return [server, page]


def serve(
    home: Home, settings: ServerSettings, say: Callable[[Endpoint], None], follow: Callable[[str, Served], None]
) -> None:
    """Serves until SIGTERM or SIGINT.

    Args:
      home: whose models are served.
      settings: what the command line says.
      say: called once, when the newest version of every model has answered.
      follow: called each time that the server has followed a model's labels, with how it is served now.

    Raises:
      ConfigError: see `prepare` and `written`; or a port is taken, or the host is not this machine's.
      ServeFailed: the server ended by itself, or did not answer in time.
    """
    backend = backends.choose(settings.backend)
    check_address(settings, backend)
    log = home.log(f"serve-{settings.port}")
    with contextlib.ExitStack() as stack, _signals() as stopped:
        prepared = stack.enter_context(written(home, settings, backend))
        models = prepared.models
        with storage_errors(f"The log {log} cannot be written"):
            if log.exists():
                log.replace(home.log(f"serve-{settings.port}-before"))
            output = stack.enter_context(log.open("wb"))
        started = []
        for command in commands(home, settings, prepared):
            with storage_errors(f"{command[0]} cannot be started"):
                # In our folder: the user's may have modules of the same names as ours, and Python's.
                process = subprocess.Popen(
                    command, cwd=ROOT, env=_environment(), stdout=output, stderr=subprocess.STDOUT,
                    start_new_session=True,
                )  # fmt: skip
            stack.callback(_stop, process)
            started.append(process)
        _await(started, stopped, settings, models, log)
        if stopped():
            return
        page = settings.rest_port + (0 if backend.is_embedded else 1)
        rest = f"http://{host_and_port(settings.reach, settings.rest_port)}"
        versions = prepared.versions(home)
        say(
            Endpoint(
                backend.name,
                backend.why,
                settings.target,
                rest,
                f"http://{host_and_port(settings.reach, page)}/",
                {n: prepared.served[n].labels.get(STABLE) or max(versions[n], default=models[n]) for n in models},
                versions,
                {name: served.labels[CANARY] for name, served in prepared.served.items() if CANARY in served.labels},
                str(prepared.folder.path),
                str(log),
            )
        )
        following = Rollout(
            home, prepared.folder.path, settings.target, prepared.record.followed, prepared.served, follow
        )
        while not stopped():
            _check(started, log)
            following.step()
            time.sleep(0.2)


def _environment() -> dict[str, str]:
    """Returns the environment for a process in another folder, in which programs are found as in this one."""
    return {**os.environ, "PATH": os.pathsep.join(map(os.path.abspath, os.get_exec_path()))}


def snippets(home: Home, endpoint: Endpoint) -> dict[str, str]:
    """Returns commands that ask the first model as they stand: with grpcurl, with curl, in Python."""
    model, version = next(iter(endpoint.models.items()))
    dataset = home.models.model(model).dataset(version)
    if dataset is None:
        return {}
    shape = dataset.shape
    protoset = server_files.protoset(home.server)
    blank = {"dtype": "DT_UINT8", "tensor_shape": {"dim": [{"size": n} for n in (1, *shape)]}, "int_val": [0]}
    spec = {"name": model, "signature_name": "predict_pixels"}
    over_grpc = json.dumps({"model_spec": spec, "inputs": {"images": blank}})
    file = io.BytesIO()
    PIL.Image.fromarray(np.zeros(shape, np.uint8).squeeze()).save(file, "PNG")
    png = base64.b64encode(file.getvalue()).decode()
    over_rest = json.dumps({"signature_name": "predict_encoded", "instances": [{"b64": png}]})
    python = (
        f"import numpy; from conveyor import Client; "
        f'print(Client("{endpoint.grpc}/{model}").predict(numpy.zeros({(1, *shape)}, "uint8")))'
    )
    method = "tensorflow.serving.PredictionService/Predict"
    return {
        "grpcurl": f"grpcurl -plaintext -protoset {shlex.quote(str(protoset))} -d {shlex.quote(over_grpc)} "
        f"{endpoint.grpc} {method}",
        "curl": f"curl -d {shlex.quote(over_rest)} {endpoint.rest}/v1/models/{model}:predict",
        "python": f"{shlex.quote(sys.executable)} -c {shlex.quote(python)}",
    }


def _await(
    started: list[subprocess.Popen],
    stopped: Callable[[], bool],
    settings: ServerSettings,
    models: dict[str, int],
    log: Path,
) -> None:
    """Waits until every model has answered a request, and the page is there."""
    deadline = time.monotonic() + START_LIMIT
    waiting = dict(models)
    while waiting and not stopped():
        _check(started, log)
        model = next(iter(waiting))
        with Client(settings.target, model, timeout=5, retries=0) as client:
            try:
                _ask_once(client)
                del waiting[model]
                continue
            except ServingError as error:
                if time.monotonic() > deadline:
                    raise ServeFailed(
                        f"{model} did not answer in {START_LIMIT} s: {error} The log is {log}."
                    ) from error
        time.sleep(0.1)
    while len(started) > 1 and not stopped():  # the page's own process
        _check(started, log)
        with contextlib.suppress(OSError), socket.create_connection((settings.reach, settings.rest_port + 1), 1):
            return
        time.sleep(0.1)


def _ask_once(client: Client) -> None:
    """Asks for one prediction of a blank image; of a model without images, for its metadata."""
    signature = client.metadata().get("predict_pixels")
    images = signature.inputs.get("images") if signature else None
    if images and images.shape and images.dtype == np.uint8 and math.prod(images.shape[1:]) > 0:
        client.predict(np.zeros((1, *images.shape[1:]), np.uint8))


def _check(started: list[subprocess.Popen], log: Path) -> None:
    for process in started:
        if process.poll() is not None:
            lines = log.read_text(errors="replace").strip().splitlines()
            last = lines[-1] if lines else "it said nothing"
            if process.returncode in (-signal.SIGKILL, -signal.SIGTERM):  # from outside: what it said says nothing
                name = signal.Signals(-process.returncode).name
                raise ServeFailed(f"The server was ended by a signal, {name}. The log is {log}.")
            raise ServeFailed(f"The server ended with {process.returncode}: {last} The log is {log}.")


def _stop(process: subprocess.Popen) -> None:
    """Lets a process finish what it answers, and ends it by force if that takes too long."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Yields a function that tells whether a stop signal has come."""
    seen: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda received, _: seen.append(received)) for number in numbers]
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
