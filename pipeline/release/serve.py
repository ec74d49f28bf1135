"""`conveyor serve`: starts a server of the pushed models, waits until it answers, and says how to ask it."""

import base64
import contextlib
import dataclasses
import errno
import io
import ipaddress
import json
import os
import shlex
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import PIL.Image

from conveyor.errors import ConfigError, storage_errors
from conveyor.words import host_and_port
from pipeline.home.folders import Home
from pipeline.release import backends, server_files
from pipeline.release.backends import Backend
from pipeline.release.rollout import Followed, Rollout
from pipeline.release.server_files import Served
from pipeline.release.server_folder import ServerFolder, ServerRecord
from pipeline.release.server_processes import ServerProcesses, stop_signals
from serving.model_store.labels import CANARY, STABLE


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
    def is_open(self) -> bool:
        """Whether it listens on an address that is not this machine's alone."""
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:  # a name
            return self.host != "localhost"

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
      versions: all that each is served in, rising.
      canaries: the version of each that is tried beside the stable one.
      problems: what is not as its user would think, in sentences.
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
    problems: tuple[str, ...]
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
      is_open: whether it listens on an address that is not this machine's alone.
    """

    backend: Backend
    folder: ServerFolder
    models: dict[str, int]
    served: dict[str, Served]
    record: ServerRecord
    is_open: bool

    def doubts(self, home: Home) -> tuple[str, ...]:
        """Returns what is not as its user would think, in sentences: who can ask, versions, and labels."""
        found = []
        if self.is_open:
            found.append(
                f"Other machines can ask {self.backend.name}, as far as they reach this one: there are neither "
                "passwords nor encryption."
            )
        for name, versions in self.versions(home).items():
            model = home.models.model(name)
            if (gone := model.dangling_labels().get(STABLE)) is not None:
                found.append(f"The stable version {gone} of {name} is not there any more; version {model.stable()} is.")
            found += [
                f"Version {number} of {name} is not the model that was pushed: files in {model.path(number)} were "
                "changed or damaged."
                for number in versions
                if not model.is_intact(number)
            ]
            answers = max(versions, default=None)
            if STABLE not in self.served[name].labels and answers not in (None, model.stable()):
                found.append(
                    f"Version {model.stable()} of {name} is stable, and requests without a version get {answers}: with "
                    f"--versions {self.record.choice} no label is served but those that --label gives."
                )
        return tuple(found)

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
    is_open = settings.is_open or backend.name == "tensorflow_model_server"  # which listens on every address
    return Prepared(backend, ServerFolder.of(home, settings.port), models, served, record, is_open)


def _ports(settings: ServerSettings, backend: Backend) -> dict[str, int]:
    """Returns the ports that are listened on, by the option that says which."""
    ports = {"--port": settings.port, "--rest-port": settings.rest_port}
    return (
        ports
        if backend.is_embedded
        else ports | {"the page's port, the one after --rest-port,": settings.rest_port + 1}
    )


def is_writable(home: Home) -> bool:
    """Whether a server's files can be in the home; of one that is not there yet, `written` finds out."""
    return not home.root.is_dir() or os.access(home.root, os.W_OK)


@contextlib.contextmanager
def writable(home: Home) -> Iterator[Home]:
    """Yields the home; where it cannot be written to, one whose server's files are in a folder that goes at the end.

    It stays, with the log, where an error ends the block.

    Models are often mounted read-only where they are served. Labels that move are followed all the same.
    """
    if is_writable(home):
        yield home
        return
    scratch = Path(tempfile.mkdtemp(prefix="conveyor-serve-"))
    yield dataclasses.replace(home, scratch=scratch)
    shutil.rmtree(scratch, ignore_errors=True)


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
    home: Home,
    settings: ServerSettings,
    say: Callable[[Endpoint], None],
    follow: Callable[[Followed], None],
    slow: Callable[[str], None],
) -> None:
    """Serves until SIGTERM, SIGINT or SIGHUP.

    Args:
      home: whose models are served.
      settings: what the command line says.
      say: called once, when every model has answered, or has failed to be loaded.
      follow: called each time that the server has followed a model's labels, or cannot.
      slow: called with a sentence where a model takes long to be loaded.

    Raises:
      ConfigError: see `prepare` and `written`; or a port is taken, or the host is not this machine's.
      ServeFailed: the server ended by itself, did not answer in time, or could load nothing.
    """
    backend = backends.choose(settings.backend)
    check_address(settings, backend)
    log = home.log(f"serve-{settings.port}")
    with stop_signals() as stopped, contextlib.ExitStack() as stack:  # in this order: a second signal changes nothing
        prepared = stack.enter_context(written(home, settings, backend))
        with storage_errors(f"The log {log} cannot be written"):
            if log.exists():
                log.replace(home.log(f"serve-{settings.port}-before"))
            output = stack.enter_context(log.open("wb"))
        server = stack.enter_context(ServerProcesses(commands(home, settings, prepared), output, log))
        loaded, problems = server.loaded(
            settings.target, prepared.models, lambda model: prepared.versions(home)[model], stopped, slow
        )
        if not backend.is_embedded:
            server.wait_for_page(settings.reach, settings.rest_port + 1, stopped)
        if stopped():
            return
        page = settings.rest_port + (0 if backend.is_embedded else 1)
        rest = f"http://{host_and_port(settings.reach, settings.rest_port)}"
        labels = {name: prepared.served[name].labels for name in loaded}
        say(
            Endpoint(
                backend.name,
                backend.why,
                settings.target,
                rest,
                f"http://{host_and_port(settings.reach, page)}/",
                {n: labels[n][STABLE] if labels[n].get(STABLE) in there else max(there) for n, there in loaded.items()},
                loaded,
                {n: labels[n][CANARY] for n, there in loaded.items() if labels[n].get(CANARY) in there},
                (*prepared.doubts(home), *problems),
                str(prepared.folder.path),
                str(log),
            )
        )
        following = Rollout(
            home, prepared.folder.path, settings.target, prepared.record.followed, prepared.served, follow
        )
        while not stopped():
            server.check()
            following.step()
            time.sleep(0.2)


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
