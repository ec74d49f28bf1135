"""The verbs that serve and ask: serve, predict, loadtest."""

import contextlib
import dataclasses
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import tqdm

from conveyor.errors import ConfigError, ConveyorError, ExitCode
from conveyor.words import counted
from pipeline.cli.options import HOME, JSON, bundle, is_file, model_name
from pipeline.cli.output import StreamingVerb, Verb, error, reply, reply_now, table, wants_json, warn
from pipeline.home.folders import Home
from pipeline.release import backends
from pipeline.release import predict as predicting
from pipeline.release import serve as serving
from pipeline.release.loadtest import load_test
from pipeline.release.rollout import Followed
from pipeline.release.server_folder import known_servers
from pipeline.release.server_processes import states
from serving.client import Client, ServingError, Tls

USUAL_TARGET = "localhost:8500"
SERVER = bundle(
    "server",
    serving.ServerSettings,
    click.argument("models", nargs=-1, metavar="[MODEL]..."),
    click.option(
        "--backend", type=click.Choice(backends.NAMES), default="auto", show_default=True, help="The server to start."
    ),
    click.option("--port", type=click.IntRange(1, 65535), default=8500, show_default=True, help="Port of gRPC."),
    click.option("--rest-port", type=click.IntRange(1, 65534), default=8501, show_default=True, help="Port of REST."),
    click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all."),
    click.option(
        "--versions", default="stable", show_default=True, help="stable, latest, latest:N, all, or numbers such as 3,4."
    ),
    click.option(
        "--label", "labels", multiple=True, metavar="[MODEL:]NAME=VERSION", help="A label of a version: stable=3."
    ),
    click.option(
        "--processes",
        type=click.IntRange(0, 256),
        default=0,
        show_default=False,
        help="Processes of the embedded server, which share its ports; 0 for one to every 4 processors, or a single "
        "one where there is a GPU. [default: 0]",
    ),
    click.option("--image", default=backends.IMAGE, show_default=True, help="Container image of --backend docker."),
)


@dataclasses.dataclass(frozen=True)
class Connection:
    """The options that say which server to ask, which version, and how."""

    target: str | None
    version: int | None
    label: str | None
    timeout: float
    ca: Path | None
    cert: Path | None
    key: Path | None

    def client(self, target: str, model: str) -> Client:
        """Returns a client of a model."""
        if self.version is not None and self.label is not None:
            raise click.UsageError("Ask for a --version or for a --label, not for both.")
        try:
            tls = Tls(self.ca, self.cert, self.key) if self.ca or self.cert or self.key else None
        except ValueError as error:
            raise click.UsageError(f"--cert and --key: {error}.") from error
        try:
            if self.version is None and self.label is None:
                return Client.stable(target, model, timeout=self.timeout, tls=tls)
            return Client(target, model, version=self.version, label=self.label, timeout=self.timeout, tls=tls)
        except ServingError as error:
            if error.code != "INVALID_ARGUMENT":
                raise
            raise click.UsageError(error.message) from error


TARGET = click.option(
    "--target",
    metavar="ADDRESS",
    help="The server: host:port of gRPC, or http://host:port of REST. [default: the `conveyor serve` that runs, or "
    f"{USUAL_TARGET}]",
)
CONNECTION = bundle(
    "connection",
    Connection,
    TARGET,
    click.option("--version", type=click.IntRange(0, 2**63 - 1), help="The version to ask. [default: the stable one]"),
    click.option("--label", help="Or the label of a version."),
    click.option(
        "--timeout",
        type=click.FloatRange(0, min_open=True),
        default=10,
        show_default=True,
        help="Seconds for a request with retries.",
    ),
    click.option("--ca", type=click.Path(path_type=Path), help="Encrypts; the certificate authority to trust (PEM)."),
    click.option("--cert", type=click.Path(path_type=Path), help="The client's certificate (PEM), for mutual TLS."),
    click.option("--key", type=click.Path(path_type=Path), help="Its key."),
)


@click.command(cls=StreamingVerb)
@SERVER
@click.option("--dry-run", is_flag=True, help="Prints the command, and stops; nothing is written.")
@click.option(
    "--files-only", is_flag=True, help="Writes the server's files, prints the command, and stops: for one of your own."
)
@HOME
@JSON
def serve(server: serving.ServerSettings, dry_run: bool, files_only: bool, home: Home) -> ExitCode:
    """Serve the pushed models over gRPC and REST, with a page to try them.

    \b
    conveyor serve
    conveyor serve mnist --versions latest:2 --label stable=3
    conveyor serve --backend docker --host 0.0.0.0

    It serves the named models, or all of them, until it is interrupted. The server is TensorFlow Serving if it is
    on the PATH, else its container image if docker or podman answers, else the embedded server, which speaks the
    same protocol. Without --versions and --label the server follows the labels: the version that `conveyor
    retrain`, `rollback` or `promote` makes stable is loaded and takes over without a lost request, and a canary is
    served beside it. Each such change is printed when the server has made it. With --json, one object on one line
    says that the server is ready, and one more each change.

    \b
    Exit codes  0  stopped by Ctrl+C or SIGTERM
                1  the server ended by itself, or did not answer
                2  a wrong option, a port that is taken, or nothing to serve
    """
    server = dataclasses.replace(server, models=tuple(model_name(home, name) for name in server.models))
    if dry_run and files_only:
        raise click.UsageError("--dry-run writes nothing, and --files-only writes: choose one.")
    code = ExitCode.SUCCESS
    if dry_run or files_only:
        if files_only:
            with serving.written(home, server) as prepared:
                click.echo(f"The server's files are in {prepared.folder.path}.")
        else:
            prepared = serving.prepare(home, server)
            for doubt in prepared.doubts(home):
                warn(doubt)
            if not serving.is_writable(home):
                warn(f"{home.root} cannot be written: a server's files would be in a temporary folder.")
            try:
                serving.check_address(server, prepared.backend)
            except ConfigError as problem:
                warn(f"As things are now, it would not start: {problem}")
                code = problem.exit_code
        commands = serving.commands(home, server, prepared)
        for command in commands:
            click.echo(shlex.join(command))
        reply({"commands": commands, "files": str(prepared.folder.path)})
        return code
    with serving.writable(home) as place:
        if place != home:
            warn(
                f"{home.root} cannot be written: the server's files and its log are in {place.scratch}. Other commands "
                f"do not see this server: `predict` needs --target {server.target}, `rollback` does not wait for it, "
                "and `gc` elsewhere keeps what has a label, no more."
            )
        serving.serve(place, server, lambda endpoint: _ready(place, endpoint), _followed(reply_now()), warn)
    return code


def _ready(home: Home, endpoint: serving.Endpoint) -> None:
    for problem in endpoint.problems:
        warn(problem)
    snippets = serving.snippets(home, endpoint)
    if wants_json():
        reply_now()(dataclasses.asdict(endpoint) | {"ask": snippets})
        return
    served = ", ".join(f"{name} ({_versions(endpoint, name)})" for name in endpoint.models)
    click.echo(f"Serving {served} with {endpoint.backend}: {endpoint.why}.\n")
    for name, value in (("gRPC", endpoint.grpc), ("REST", endpoint.rest), ("page", endpoint.page)):
        click.echo(f"  {name:<6} {value}")
    click.echo(f"  files  {endpoint.files}\n  log    {endpoint.log}\n")
    for name, snippet in snippets.items():
        click.echo(f"Ask it with {name}:\n\n{snippet}\n")
    click.echo("Ctrl+C stops it.")


def _versions(endpoint: serving.Endpoint, model: str) -> str:
    answers = endpoint.models[model]
    if model in endpoint.canaries:
        return f"version {answers}, canary {endpoint.canaries[model]}"
    others = [str(number) for number in endpoint.versions[model] if number != answers]
    return f"version {answers}" + (f"; also {', '.join(others)}" if others else "")


def _followed(print_json: Callable[[Any], None]) -> Callable[[Followed], None]:
    """Returns what says that a server has followed a model's labels, or cannot."""

    def say(followed: Followed) -> None:
        print_json(dataclasses.asdict(followed))
        if followed.problem:
            warn(f"{time.strftime('%X')}  {followed.problem}")
        elif not wants_json():
            labels = ", ".join(f"version {version} is {label}" for label, version in followed.labels.items())
            click.echo(f"{time.strftime('%X')}  {followed.model}: {labels}.")

    return say


@click.command(cls=Verb)
@click.argument("model")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@CONNECTION
@click.option("--top", type=click.IntRange(1), default=3, show_default=True, help="How many classes to show.")
@click.option("--home", metavar="DIR", help="Folder whose names of experiments are known. [default: as elsewhere]")
@JSON
def predict(model: str, images: tuple[str, ...], connection: Connection, top: int, home: str | None) -> ExitCode:
    """Ask a server for the classes of picture files.

    \b
    conveyor predict mnist seven.png
    conveyor predict cifar10 'pictures/**/*.jpg' --json
    cat seven.png | conveyor predict mnist - --target http://localhost:8501

    An IMAGE is a picture file (PNG, JPEG, GIF, BMP, WebP), a pattern, or - for standard input. MODEL may also be an
    experiment that the home folder knows, or its file. Without --version and --label the stable version is asked, and
    not a canary; where the server has no labels, the highest.

    \b
    Exit codes  0  every file has its answer
                1  a file could not be read, or the server did not answer
                2  a wrong option, or no file of such a name
    """
    files = predicting.files_of(images)
    name, there, target = _known(home, model)
    target = connection.target or target
    with (
        explained(target, name, there),
        connection.client(target, name) as client,
        tqdm.tqdm(total=len(files), unit="image", disable=len(files) <= predicting.BATCH or None) as bar,
    ):
        answers = list(predicting.predict(client, files, top, lambda more: bar.update(more)))
    table("predictions", [_row(answer) for answer in answers], "")
    for answer in answers:
        if answer.error:
            error(f"{answer.file}: {answer.error}")
    reply({"predictions": [answer.to_dict() for answer in answers]})
    return ExitCode.FAILED if any(answer.error for answer in answers) else ExitCode.SUCCESS


def _known(root: str | None, model: str) -> tuple[str, list[str], str]:
    """Returns the model that a name is of in the home folder, the models there, and the server to ask.

    The server may be anywhere: where the home folder is not to be read, the name is the model's.
    """
    try:
        home = Home.at(root)
        name = model_name(home, model)
    except ConveyorError:
        if is_file(model):
            raise
        return model, [], USUAL_TARGET
    there: list[str] = []
    with contextlib.suppress(ConveyorError):
        there = [known.name for known in home.models.models() if known.versions()]
    return name, there, _target(home, name)


def _target(home: Home, model: str) -> str:
    """Returns the address of a running `conveyor serve` of the home, of one that has the model if there is one.

    Where none runs, it is the usual one.
    """
    servers = sorted(known_servers(home), key=lambda s: model not in s.followed and model not in s.pinned)
    return servers[0].target if servers else USUAL_TARGET


def require_address(target: str, model: str) -> None:
    """Refuses an address that no client takes."""
    try:
        Client(target, model).close()
    except ServingError as problem:
        raise click.UsageError(f"--target {target}: {problem.message}.") from problem


@contextlib.contextmanager
def explained(target: str, model: str, there: list[str]) -> Iterator[None]:
    """Says what to do where no server answers, or has no such model; `there` are those that the home has."""
    try:
        yield
    except ServingError as problem:
        if problem.code == "UNAVAILABLE":
            raise ConveyorError(
                f"No server answers at {target} ({problem.message.strip()}). `conveyor serve` starts one; --target "
                "names another."
            ) from problem
        if problem.code == "NOT_FOUND" or "Unrecognized servable version label" in problem.message:
            raise ConveyorError(
                f"The server at {target} has no model {model}, or not that version of it ({problem.message.strip()})."
                f"{_what_is_there(target, model, there)}"
            ) from problem
        raise


def _what_is_there(target: str, model: str, there: list[str]) -> str:
    """Returns a sentence on what can be asked for."""
    with contextlib.suppress(ServingError), Client(target, model, retries=0) as client:
        if served := sorted(states(client, ())[0]):
            return f" It has {'version' if len(served) == 1 else 'versions'} {', '.join(map(str, served))}."
    return f" The home folder has {', '.join(there)}." if there else ""


def _row(answer: predicting.Answer) -> dict[str, Any]:
    classes = ", ".join(f"{name} {100 * score:.1f} %" for name, score in answer.best) or "failed"
    return {"file": answer.file, "classes": classes, "version": answer.version, "latency, ms": answer.milliseconds}


@click.command(cls=Verb)
@click.argument("model")
@click.option("--clients", type=click.IntRange(1, 1024), default=8, show_default=True, help="Connections at once.")
@click.option("--seconds", type=click.FloatRange(0.1), default=10, show_default=True, help="How long.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Images in a request.")
@click.option(
    "--target",
    metavar="ADDRESS",
    help=f"The server: host:port of gRPC. [default: the `conveyor serve` that runs, or {USUAL_TARGET}]",
)
@HOME
@JSON
def loadtest(model: str, clients: int, seconds: float, batch: int, target: str | None, home: Home) -> ExitCode:
    """Measure a server's throughput and latency.

    \b
    conveyor loadtest mnist --clients 32 --seconds 30

    It asks a server for the stable version as fast as it answers, then runs the same batches in a bare Session. The
    server's throughput is shown as a ratio to the Session's: of batches as they are sent, and of batches that hold a
    request of every client, which is the most that batching across requests can reach.

    \b
    Exit codes  0  measured, and every request was answered
                1  a request failed, or the server did not answer
                2  a wrong option, or no such model was pushed
    """
    model = model_name(home, model)
    target = target or _target(home, model)
    require_address(target, model)
    with explained(target, model, []):
        test = load_test(home, target, model, clients, seconds, batch)
    asked = f"{counted(clients, 'client')}, {counted(batch, 'image')} a request, {test.seconds:.1f} s"
    click.echo(f"{model} version {test.version}: {asked}\n")
    lines = [
        ("requests", f"{test.requests:,}"),
        ("throughput", f"{test.throughput:,.0f} requests/s, {test.images:,.0f} images/s"),
        ("latency", f"p50 {test.p50:.1f} ms, p90 {test.p90:.1f} ms, p99 {test.p99:.1f} ms"),
        ("errors", ", ".join(f"{code} {count:,}" for code, count in test.errors.items()) or "none"),
        (f"Session, {batch}", f"{test.session:,.0f} images/s; the server reaches {test.ratio:.2f} of it"),
        (
            f"Session, {batch * clients}",
            f"{test.session_batched:,.0f} images/s; the server reaches {test.ratio_batched:.2f} of it",
        ),
    ]
    for name, value in lines:
        click.echo(f"  {name:<14} {value}")
    reply(test.to_dict())
    return ExitCode.FAILED if test.errors else ExitCode.SUCCESS


VERBS = (serve, predict, loadtest)
