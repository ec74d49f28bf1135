"""The embedded server as a program: `conveyor_model_server`, with the flags of `tensorflow_model_server`."""

import argparse
import asyncio
import contextlib
import gc
import importlib.metadata
import logging
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what goes wrong is raised, and said by us
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
warnings.filterwarnings("ignore", module="google")  # of Python versions, on import

import tensorflow as tf
import uvloop
from aiohttp import web
from tensorflow_serving.config import model_server_config_pb2

from serving.server import flags
from serving.server.endpoints import grpc_api, rest_api
from serving.server.endpoints.calls import Calls
from serving.server.endpoints.metrics import Metrics
from serving.server.models.batch_dispatcher import BatchDispatcher
from serving.server.models.loader import Loader
from serving.server.models.manager import Manager
from serving.server.page import routes
from serving.server.protocol import config_files
from serving.server.protocol.errors import StatusError, invalid_argument
from serving.server.protocol.requests import Limits

log = logging.getLogger("conveyor_model_server")
LARGEST_MESSAGES = 8  # whose tensors may be in memory at once
GRACE = 10  # seconds that running requests are given when the server is stopped


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves until SIGTERM or SIGINT; ends with 1 if it cannot start."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if any(argument in ("--version", "--version=true") for argument in arguments):
        print(f"TensorFlow ModelServer: conveyor {_release()} (compatible, tested subset)")
        print(f"TensorFlow Library: {tf.__version__}")
        return
    given = flags.parse(arguments)
    logging.basicConfig(format="%(asctime)s %(levelname).1s %(message)s", level=logging.INFO)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # the v1 loader is deprecated, and what is wanted here
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # it logs what is no HTTP with a traceback
    for name, why in given.ignored.items():
        log.warning("--%s is accepted and not done: %s.", name, why)
    try:
        uvloop.run(serve(given))
    except StatusError as error:
        sys.exit(f"Failed to start server. Error: {error.code}: {error.message}")


async def serve(given: argparse.Namespace) -> None:
    """Loads what the flags name, listens, and serves until a signal.

    Raises:
      StatusError: a configuration, a model or an address is wrong.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        calls, cache = _calls(given, stack)
        config = model_config(given)
        await _loaded(calls.manager, config, stop)
        if stop.is_set():
            return
        health = await _listen_grpc(calls, given, stack)
        if given.rest_api_port:
            await _listen_http(calls, cache, given, stack)
        if given.model_config_file and given.model_config_file_poll_wait_seconds > 0:
            watcher = asyncio.create_task(_watch(calls.manager, given))
            stack.callback(watcher.cancel)
        await stop.wait()
        log.info("Stopping: running requests have %d s.", GRACE)
        if health:
            await grpc_api.report_health(health, False)


def model_config(given: argparse.Namespace) -> Any:
    """Returns the ModelServerConfig that the flags name.

    Raises:
      StatusError: its file cannot be read.
    """
    if given.model_config_file:
        return config_files.read(Path(given.model_config_file), "ModelServerConfig")
    config = model_server_config_pb2.ModelServerConfig()
    base = str(Path(given.model_base_path).absolute())
    config.model_config_list.config.add(name=given.model_name, base_path=base, model_platform="tensorflow")
    return config


def _calls(given: argparse.Namespace, stack: contextlib.AsyncExitStack) -> tuple[Calls, routes.ActivationCache]:
    limits = Limits(
        given.max_message_bytes,
        given.enable_serialization_as_tensor_content,
        given.enable_signature_method_name_check,
    )
    metrics = Metrics()
    cache = routes.ActivationCache()
    manager = Manager(
        Loader.of(given, limits),
        poll_seconds=given.file_system_poll_wait_seconds,
        max_retries=given.max_num_load_retries,
        retry_seconds=given.load_retry_interval_micros / 1e6,
        early_labels=given.allow_version_labels_for_unavailable_models,
        any_labels=given.force_allow_any_version_labels_for_unavailable_models,
        unloaded=cache.forget,
    )
    stack.push_async_callback(asyncio.to_thread, manager.close)
    dispatcher = BatchDispatcher(
        manager,
        threads=max(1, given.rest_api_num_threads),
        limit=given.max_concurrent_requests,
        most_bytes=LARGEST_MESSAGES * given.max_message_bytes,
        observe=metrics.runtime,
    )
    stack.push_async_callback(dispatcher.close)
    return Calls(manager, dispatcher, metrics, limits), cache


async def _loaded(manager: Manager, config: Any, stop: asyncio.Event) -> None:
    """Waits until the models are loaded; a signal ends the waiting."""
    loading = asyncio.create_task(manager.configure_soon(config))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if loading.done():
        loading.result()
        return
    await asyncio.to_thread(manager.close)
    with contextlib.suppress(StatusError):
        await loading


async def _listen_grpc(calls: Calls, given: argparse.Namespace, stack: contextlib.AsyncExitStack) -> Any:
    server, health = grpc_api.make(
        calls,
        options=_channel_arguments(given.grpc_channel_arguments),
        max_message_bytes=given.max_message_bytes,
        with_health=given.enable_grpc_healthcheck_service,
    )
    tls = None
    if given.ssl_config_file:
        tls = grpc_api.credentials(config_files.read(Path(given.ssl_config_file), "SSLConfig"))
        if given.rest_api_port:
            log.warning("--ssl_config_file is for gRPC alone, as in the real server: REST is not encrypted.")
    addresses = [f"unix:{given.grpc_socket_path}"] if given.grpc_socket_path else []
    addresses += [f"{given.bind_address}:{given.port}"] if given.port else []
    for address in addresses:
        try:
            bound = server.add_secure_port(address, tls) if tls else server.add_insecure_port(address)
        except RuntimeError as error:
            bound = 0
            log.error("%s", error)
        if not bound and not address.startswith("unix:"):
            raise StatusError("UNAVAILABLE", f"{address} cannot be listened on: is another server using the port?")
    await server.start()
    stack.push_async_callback(server.stop, GRACE)
    if health:
        await grpc_api.report_health(health, True)
    # What is loaded lives as long as the server: collecting it over and over would stop every request for a while.
    gc.collect()
    gc.freeze()
    log.info("Running gRPC ModelServer at %s ...", ", ".join(addresses))
    return health


async def _listen_http(
    calls: Calls, cache: routes.ActivationCache, given: argparse.Namespace, stack: contextlib.AsyncExitStack
) -> None:
    metrics_path = None
    if given.monitoring_config_file:
        prometheus = config_files.read(Path(given.monitoring_config_file), "MonitoringConfig").prometheus_config
        metrics_path = (prometheus.path or rest_api.METRICS_PATH) if prometheus.enable else None
    api = rest_api.Api(calls, given.rest_api_timeout_in_ms / 1000, metrics_path, given.rest_api_enable_cors_support)
    app = api.app(given.max_message_bytes)
    if given.enable_page:
        routes.add(app, routes.Local(calls, cache))
    # What is compressed is decompressed in `rest_api`, which stops at a limit.
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=GRACE, auto_decompress=False)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    try:
        await web.TCPSite(runner, given.bind_address, given.rest_api_port).start()
    except OSError as error:
        raise StatusError(
            "UNAVAILABLE", f"{given.bind_address}:{given.rest_api_port} cannot be listened on: {error.strerror}"
        ) from error
    log.info("Exporting HTTP/REST API at:%s:%d ...", given.bind_address, given.rest_api_port)


async def _watch(manager: Manager, given: argparse.Namespace) -> None:
    """Reads the model configuration again and again, and takes it where it differs; a wrong one changes nothing.

    What came over gRPC meanwhile differs too: the file is what counts.
    """
    while True:
        await asyncio.sleep(given.model_config_file_poll_wait_seconds)
        try:
            config = await asyncio.to_thread(model_config, given)
            if config != manager.config:
                await manager.configure_soon(config)
                log.info("The model configuration has changed, and is served.")
        except StatusError as error:
            log.error("%s: %s. What was served is served on.", given.model_config_file, error.message)


def _channel_arguments(text: str) -> list[tuple[str, Any]]:
    pairs = []
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise invalid_argument(f"--grpc_channel_arguments: {part!r} is not a key=value pair.")
        pairs.append((key, int(value) if value.lstrip("-").isdigit() else value))
    return pairs


def _release() -> str:
    try:
        return importlib.metadata.version("conveyor-tfx")
    except importlib.metadata.PackageNotFoundError:  # run from its folder
        return "(not installed)"


if __name__ == "__main__":
    main()
