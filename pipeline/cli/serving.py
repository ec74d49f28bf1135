"""The verbs of `conveyor` that serve and ask."""

import dataclasses
import json
import sys
from pathlib import Path

import click
import tqdm

from pipeline.cli.options import HOME, JSON, output, table, told_errors
from pipeline.home import outcome as outcomes
from pipeline.home.folders import Home
from pipeline.release import backends
from pipeline.release import predict as predicting
from pipeline.release import serve as serving
from pipeline.release.loadtest import compare
from serving.client import Client, Tls

TARGET = click.option(
    "--target",
    default="localhost:8500",
    show_default=True,
    metavar="ADDRESS",
    help="The server: host:port of gRPC, or http://host:port of REST.",
)


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--backend", type=click.Choice(backends.NAMES), default="auto", show_default=True, help="What serves.")
@click.option("--port", type=click.IntRange(1, 65535), default=8500, show_default=True, help="Port of gRPC.")
@click.option("--rest-port", type=click.IntRange(1, 65534), default=8501, show_default=True, help="Port of REST.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for every one.")
@click.option(
    "--versions", default="stable", show_default=True, help="stable, latest, latest:N, all, or numbers such as 3,4."
)
@click.option(
    "--label", "labels", multiple=True, metavar="[MODEL:]NAME=VERSION", help="A name for a version, such as stable=3."
)
@click.option("--image", default=backends.IMAGE, show_default=True, help="The container image of --backend docker.")
@click.option("--dry-run", is_flag=True, help="Writes the configuration files, prints the command, and stops.")
@HOME
@JSON
def serve(
    models: tuple[str, ...],
    backend: str,
    port: int,
    rest_port: int,
    host: str,
    versions: str,
    labels: tuple[str, ...],
    image: str,
    dry_run: bool,
    home: str,
    as_json: bool,
) -> None:
    """Serves pushed models until it is interrupted; all of them where none is named.

    \b
    conveyor serve
    conveyor serve mnist --versions latest:2 --label stable=3
    conveyor serve --backend docker --host 0.0.0.0

    TensorFlow Serving itself serves where it is on the PATH, else its container image where docker or podman answers,
    else the embedded server, which speaks the same protocol. Without --versions and --label it follows the labels:
    what `conveyor retrain`, `rollback` and `promote` make stable is loaded and takes over without a request lost, and a
    canary is served beside it. With --json, one object on one line says that it is ready.
    """
    settings = serving.Settings(models, backend, versions, labels, host, port, rest_port, image)
    with told_errors():
        where = Home.at(home)
        if dry_run:
            for command in serving.commands(where, settings, serving.prepare(where, settings)):
                click.echo(" ".join(command))
            return
        serving.serve(where, settings, lambda endpoint: _ready(where, endpoint, as_json))


def _ready(home: Home, endpoint: serving.Endpoint, as_json: bool) -> None:
    snippets = serving.snippets(home, endpoint)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(endpoint) | {"ask": snippets}))
        sys.stdout.flush()
        return
    served = ", ".join(f"{name} (version {version})" for name, version in endpoint.models.items())
    click.echo(f"Serving {served} with {endpoint.backend}: {endpoint.why}.\n")
    for name, value in (("gRPC", endpoint.grpc), ("REST", endpoint.rest), ("page", endpoint.page)):
        click.echo(f"  {name:<6} {value}")
    click.echo(f"  files  {endpoint.files}\n  log    {endpoint.log}\n")
    for name, snippet in snippets.items():
        click.echo(f"Ask it with {name}:\n\n{snippet}\n")
    click.echo("Ctrl+C stops it.")


@click.command()
@click.argument("model")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@TARGET
@click.option("--version", type=int, help="The version to ask; the newest where nobody says.")
@click.option("--label", help="Or the label of one.")
@click.option("--top", type=click.IntRange(1), default=3, show_default=True, help="How many classes to show.")
@click.option("--timeout", type=float, default=10, show_default=True, help="Seconds for a request with its retries.")
@click.option("--ca", type=click.Path(path_type=Path), help="Encrypts, and trusts this certificate authority (PEM).")
@click.option("--cert", type=click.Path(path_type=Path), help="The client's certificate (PEM), where one is wanted.")
@click.option("--key", type=click.Path(path_type=Path), help="Its key.")
@JSON
def predict(
    model: str,
    images: tuple[str, ...],
    target: str,
    version: int | None,
    label: str | None,
    top: int,
    timeout: float,
    ca: Path | None,
    cert: Path | None,
    key: Path | None,
    as_json: bool,
) -> None:
    """Asks a server for the classes of PNG and JPEG files; an IMAGE may be a pattern, or - for standard input.

    \b
    conveyor predict mnist seven.png
    conveyor predict cifar10 'pictures/**/*.jpg' --json
    cat seven.png | conveyor predict mnist - --target http://localhost:8501

    Ends with 1 if a file could not be read or the server did not answer.
    """
    if version is not None and label is not None:
        raise click.UsageError("Ask for a --version or for a --label, not for both.")
    with told_errors(), output(as_json) as reply:
        files = predicting.files_of(images)
        tls = Tls(ca, cert, key) if ca or cert else None
        with (
            Client(target, model, version=version, label=label, timeout=timeout, tls=tls) as client,
            tqdm.tqdm(total=len(files), unit="image", disable=len(files) <= predicting.BATCH or None) as bar,
        ):
            answers = list(predicting.predict(client, files, top, lambda more: bar.update(more)))
        if not as_json:
            table("predictions", [_row(answer, top) for answer in answers], "")
        for answer in answers:
            if answer.error:
                click.secho(f"conveyor: {answer.file}: {answer.error}", err=True, fg="red")
        reply([answer.to_dict() for answer in answers])
    sys.exit(outcomes.FAILED if any(answer.error for answer in answers) else 0)


def _row(answer: predicting.Answer, top: int) -> dict[str, str]:
    best = [f"{name} {100 * score:.1f} %" for name, score in answer.best] or ["failed"]
    places = {f"class_{place}": best[place - 1] if place <= len(best) else "" for place in range(1, top + 1)}
    version = "" if answer.version is None else str(answer.version)
    return {"file": answer.file, **places, "version": version, "latency": f"{answer.milliseconds:.1f} ms"}


@click.command()
@click.argument("model")
@click.option("--clients", type=click.IntRange(1, 1024), default=8, show_default=True, help="Connections at once.")
@click.option("--seconds", type=click.FloatRange(0.1), default=10, show_default=True, help="How long.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Images in a request.")
@click.option("--target", default="localhost:8500", show_default=True, help="The server: host:port of gRPC.")
@HOME
@JSON
def loadtest(model: str, clients: int, seconds: float, batch: int, target: str, home: str, as_json: bool) -> None:
    """Asks a server as fast as it answers, then runs the same batches in a bare Session.

    \b
    conveyor loadtest mnist --clients 32 --seconds 30

    The server's throughput is shown as a ratio to the Session's: of batches as they are sent, and of batches that hold
    a request of every client, which is the most that batching across requests can reach. Ends with 1 if a request
    failed.
    """
    with told_errors(), output(as_json) as reply:
        seen = compare(Home.at(home), target, model, clients, seconds, batch)
        click.echo(
            f"{model} version {seen.version}: {clients} clients, {batch} images a request, {seen.seconds:.1f} s\n"
        )
        lines = [
            ("requests", f"{seen.requests:,}"),
            ("throughput", f"{seen.throughput:,.0f} requests/s, {seen.images:,.0f} images/s"),
            ("latency", f"p50 {seen.p50:.1f} ms, p90 {seen.p90:.1f} ms, p99 {seen.p99:.1f} ms"),
            ("errors", ", ".join(f"{code} {count:,}" for code, count in seen.errors.items()) or "none"),
            (f"Session, {batch}", f"{seen.raw:,.0f} images/s; the server reaches {seen.ratio:.2f} of it"),
            (
                f"Session, {batch * clients}",
                f"{seen.raw_batched:,.0f} images/s; the server reaches {seen.ratio_batched:.2f} of it",
            ),
        ]
        for name, value in lines:
            click.echo(f"  {name:<14} {value}")
        reply(seen.to_dict())
    sys.exit(outcomes.FAILED if seen.errors else 0)


VERBS = (serve, predict, loadtest)
