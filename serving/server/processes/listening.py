"""A process that answers: its replica, the calls on it, and the ports."""

import argparse
import contextlib
import dataclasses
import gc
import logging
from pathlib import Path
from typing import Any

from aiohttp import web

from conveyor.words import host_and_port
from serving.server.endpoints import grpc_api, rest_api
from serving.server.endpoints.calls import Calls, Control
from serving.server.endpoints.metrics import Metrics
from serving.server.models.batch_dispatcher import BatchDispatcher
from serving.server.models.loader import Loader
from serving.server.models.replica import Replica
from serving.server.page import routes
from serving.server.protocol import config_files
from serving.server.protocol.errors import StatusError, invalid_argument
from serving.server.protocol.requests import Limits

log = logging.getLogger(__name__)
LARGEST_MESSAGES = 8  # whose tensors may be in memory at once; each of several processes has its share
GRACE = 10  # seconds that running requests are given when the server is stopped


@dataclasses.dataclass
class Listener:
    """What listens in a process, once it is told to.

    Attributes:
      given: the flags.
      number: of this process, from 0.
      replica: what it has loaded.
      metrics: what it counts.
    """

    given: argparse.Namespace
    number: int = 0

    def __post_init__(self) -> None:
        given = self.given
        self.limits = Limits(
            given.max_message_bytes,
            given.enable_serialization_as_tensor_content,
            given.enable_signature_method_name_check,
        )
        self.metrics = Metrics()
        self._cache = routes.ActivationCache()
        self.replica = Replica(Loader.of(given, self.limits), unloaded=self._cache.forget)

    async def listen(self, control: Control, stack: contextlib.AsyncExitStack) -> None:
        """Answers from now on, until the stack is left.

        Args:
          control: of the whole server.
          stack: closes what is opened.

        Raises:
          StatusError: an address cannot be listened on, or a file of the flags is wrong.
        """
        given = self.given
        dispatcher = BatchDispatcher(
            self.replica,
            threads=max(1, given.rest_api_num_threads),
            limit=given.max_concurrent_requests,
            most_bytes=max(2, LARGEST_MESSAGES // given.num_processes) * given.max_message_bytes,
            observe=self.metrics.runtime,
        )
        stack.push_async_callback(dispatcher.close)
        calls = Calls(self.replica, dispatcher, self.metrics, control, self.limits)
        health = await self._listen_grpc(calls, stack)
        if given.rest_api_port:
            await self._listen_http(calls, stack)
        if health:  # whoever asks is told first that it stops
            stack.push_async_callback(grpc_api.report_health, health, False)

    async def _listen_grpc(self, calls: Calls, stack: contextlib.AsyncExitStack) -> Any:
        given = self.given
        server, health = grpc_api.make(
            calls,
            options=_channel_arguments(given.grpc_channel_arguments),
            max_message_bytes=given.max_message_bytes,
            with_health=given.enable_grpc_healthcheck_service,
            share_ports=given.num_processes > 1,
        )
        tls = None
        if given.ssl_config_file:
            tls = grpc_api.credentials(config_files.read(Path(given.ssl_config_file), "SSLConfig"))
            if given.rest_api_port:
                log.warning("--ssl_config_file is for gRPC alone, as in the real server: REST is not encrypted.")
        addresses = [host_and_port(given.bind_address, given.port)] if given.port else []
        if given.grpc_socket_path and not self.number:  # one process alone can listen on a UNIX socket
            addresses.append(f"unix:{given.grpc_socket_path}")
        for address in addresses:
            try:
                bound = server.add_secure_port(address, tls) if tls else server.add_insecure_port(address)
            except RuntimeError as error:
                bound = 0
                log.error("%s", error)
            if not bound:
                why = "is the port another server's, or the address another machine's?"
                if address.startswith("unix:"):
                    why = "is its folder there, and may files be made in it?"
                raise StatusError("UNAVAILABLE", f"{address} cannot be listened on: {why}")
        await server.start()
        stack.push_async_callback(server.stop, GRACE)
        if health:
            await grpc_api.report_health(health, True)
        # What is loaded lives as long as the server: collecting it over and over would stop every request for a while.
        gc.collect()
        gc.freeze()
        log.info("Running gRPC ModelServer at %s ...", ", ".join(addresses))
        return health

    async def _listen_http(self, calls: Calls, stack: contextlib.AsyncExitStack) -> None:
        given, metrics_path = self.given, None
        if given.monitoring_config_file:
            prometheus = config_files.read(Path(given.monitoring_config_file), "MonitoringConfig").prometheus_config
            metrics_path = (prometheus.path or rest_api.METRICS_PATH) if prometheus.enable else None
        timeout = given.rest_api_timeout_in_ms / 1000 if given.rest_api_timeout_in_ms > 0 else None
        api = rest_api.Api(calls, timeout, metrics_path, given.rest_api_enable_cors_support)
        app = api.app(given.max_message_bytes)
        if given.enable_page:
            routes.add(app, routes.Local(calls, self._cache))
        # What is compressed is decompressed in `rest_api`, which stops at a limit.
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=GRACE, auto_decompress=False)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        address = host_and_port(given.bind_address, given.rest_api_port)
        try:
            shared = given.num_processes > 1
            await web.TCPSite(runner, given.bind_address, given.rest_api_port, reuse_port=shared).start()
        except OSError as error:
            raise StatusError("UNAVAILABLE", f"{address} cannot be listened on: {error.strerror}") from error
        log.info("Exporting HTTP/REST API at:%s ...", address)


def _channel_arguments(text: str) -> list[tuple[str, Any]]:
    pairs = []
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise invalid_argument(f"--grpc_channel_arguments: {part!r} is not a key=value pair.")
        pairs.append((key, int(value) if value.lstrip("-").isdigit() else value))
    return pairs
