"""The server's gRPC side: PredictionService, ModelService and the standard health service."""

import logging
from collections.abc import Awaitable
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from serving.server.core import Core
from serving.server.errors import StatusError

log = logging.getLogger(__name__)


class _PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, core: Core) -> None:
        self._core = core

    async def Predict(self, request: Any, context: Any) -> Any:
        return await _told(context, self._core.predict(request))

    async def Classify(self, request: Any, context: Any) -> Any:
        return await _told(context, self._core.classify(request))

    async def Regress(self, request: Any, context: Any) -> Any:
        return await _told(context, self._core.regress(request))

    async def MultiInference(self, request: Any, context: Any) -> Any:
        return await _told(context, self._core.multi_inference(request))

    async def GetModelMetadata(self, request: Any, context: Any) -> Any:
        return await _told(context, _later(self._core.metadata, request))


class _ModelService(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, core: Core) -> None:
        self._core = core

    async def GetModelStatus(self, request: Any, context: Any) -> Any:
        return await _told(context, _later(self._core.status, request))

    async def HandleReloadConfigRequest(self, request: Any, context: Any) -> Any:
        return await _told(context, self._core.reload(request))


async def _later(function: Any, request: Any) -> Any:
    return function(request)


async def _told(context: Any, answer: Awaitable[Any]) -> Any:
    """Returns an answer, or ends the call with its failure's status."""
    try:
        return await answer
    except StatusError as error:
        await context.abort(error.grpc_code, error.message)
    except Exception as error:
        log.exception("a request failed in the server itself")
        await context.abort(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")


def make(
    core: Core, *, options: list[tuple[str, Any]], max_message_bytes: int, with_health: bool
) -> tuple[grpc.aio.Server, Any]:
    """Returns a server without ports, and the health servicer, if there is one.

    Args:
      core: what it answers with.
      options: gRPC channel arguments.
      max_message_bytes: longer messages are answered with RESOURCE_EXHAUSTED.
      with_health: whether to serve `grpc.health.v1.Health`.
    """
    limits = [("grpc.max_receive_message_length", max_message_bytes), ("grpc.max_send_message_length", -1)]
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), *limits, *options])
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(_PredictionService(core), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(_ModelService(core), server)
    if not with_health:
        return server, None
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    return server, servicer


async def report_health(servicer: Any, serving: bool) -> None:
    """Sets what the health service says of the server as a whole."""
    state = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
    await servicer.set("", state)


def credentials(config: Any) -> grpc.ServerCredentials:
    """Returns TLS credentials of an SSLConfig, whose fields hold the PEM texts themselves.

    Raises:
      StatusError: INVALID_ARGUMENT, where key or certificate is missing, or the authority to verify clients with.
    """
    if not config.server_key or not config.server_cert:
        raise StatusError("INVALID_ARGUMENT", "SSLConfig needs server_key and server_cert, the PEM texts themselves.")
    if config.client_verify and not config.custom_ca:
        raise StatusError("INVALID_ARGUMENT", "SSLConfig asks for client_verify and gives no custom_ca to verify with.")
    return grpc.ssl_server_credentials(
        [(config.server_key.encode(), config.server_cert.encode())],
        root_certificates=config.custom_ca.encode() or None,
        require_client_auth=config.client_verify,
    )
