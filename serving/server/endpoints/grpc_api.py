"""The server's gRPC side: PredictionService, SessionService, ModelService and the standard health service."""

import logging
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
    session_service_pb2,
)

from serving.server.endpoints.calls import Calls
from serving.server.protocol.errors import StatusError
from serving.server.threads import beside_the_loop

log = logging.getLogger(__name__)


# Service -> method -> its request, and the method of `Calls` that answers it.
_METHODS: dict[str, dict[str, tuple[Any, str]]] = {
    "tensorflow.serving.PredictionService": {
        "Predict": (predict_pb2.PredictRequest, "predict"),
        "Classify": (classification_pb2.ClassificationRequest, "classify"),
        "Regress": (regression_pb2.RegressionRequest, "regress"),
        "MultiInference": (inference_pb2.MultiInferenceRequest, "multi_inference"),
        "GetModelMetadata": (get_model_metadata_pb2.GetModelMetadataRequest, "metadata"),
    },
    "tensorflow.serving.SessionService": {
        "SessionRun": (session_service_pb2.SessionRunRequest, "session_run"),
    },
    "tensorflow.serving.ModelService": {
        "GetModelStatus": (get_model_status_pb2.GetModelStatusRequest, "status"),
        "HandleReloadConfigRequest": (model_management_pb2.ReloadConfigRequest, "reload"),
    },
}


def _handler(calls: Calls, request_type: Any, name: str) -> grpc.RpcMethodHandler:
    """Returns a method's handler; it parses by itself, since gRPC would log each message that is none as a bug."""
    answer = getattr(calls, name)

    async def handle(data: bytes, context: Any) -> bytes:
        try:
            request = await beside_the_loop(len(data), request_type.FromString, data)
        except DecodeError:
            await context.abort(grpc.StatusCode.INTERNAL, "The request cannot be parsed.")  # gRPC's own code for it
        try:
            reply = await answer(request, len(data))
            if isinstance(reply, bytes):
                return reply
            return await beside_the_loop(reply.ByteSize(), reply.SerializeToString)
        except StatusError as error:
            await context.abort(error.grpc_code, error.message)
        except Exception as error:
            log.exception("a request failed in the server itself")
            await context.abort(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")
        raise AssertionError("abort raises")

    return grpc.unary_unary_rpc_method_handler(handle)


def make(
    calls: Calls, *, options: list[tuple[str, Any]], max_message_bytes: int, with_health: bool, share_ports: bool
) -> tuple[grpc.aio.Server, Any]:
    """Returns a server without ports, and the health servicer, if there is one.

    Args:
      calls: what it answers with.
      options: gRPC channel arguments.
      max_message_bytes: longer messages are answered with RESOURCE_EXHAUSTED.
      with_health: whether to serve `grpc.health.v1.Health`.
      share_ports: whether other processes listen on the same ports.
    """
    limits = [("grpc.max_receive_message_length", max_message_bytes), ("grpc.max_send_message_length", -1)]
    server = grpc.aio.server(options=[("grpc.so_reuseport", int(share_ports)), *limits, *options])
    for service, methods in _METHODS.items():
        handlers = {method: _handler(calls, request_type, name) for method, (request_type, name) in methods.items()}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
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
