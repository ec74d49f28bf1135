"""The client's way over gRPC: PredictionService and ModelService."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError

from serving.client import messages
from serving.client.errors import CODES, ServingError, tls_errors
from serving.client.models import GRPC_SCHEMES, ModelSpec, Signature, TensorInfo, Tls, VersionStatus, is_local
from serving.client.tensors import DTYPES, to_array, to_message

MAX_MESSAGE = 2**30  # bytes
_SERVICES = "/tensorflow.serving."
PREDICT = f"{_SERVICES}PredictionService/Predict"
_NO_GRPC = "http1.x server"  # what gRPC says of a port that speaks HTTP
_STATES = {10: "START", 20: "LOADING", 30: "AVAILABLE", 40: "UNLOADING", 50: "END"}


class GrpcTransport:
    """gRPC; see `Transport`."""

    def __init__(self, target: str, tls: Tls | None) -> None:
        here = is_local(target)
        _check_target(target, encrypted=tls is not None)
        self._target = target
        options = [
            ("grpc.max_receive_message_length", MAX_MESSAGE),
            ("grpc.max_send_message_length", MAX_MESSAGE),
            ("grpc.use_local_subchannel_pool", 1),  # a connection of its own: each reaches one of a server's processes
        ]
        if here:
            options.append(("grpc.enable_http_proxy", 0))
        if tls is None:
            self._channel = grpc.insecure_channel(target, options)
        else:
            paths = (tls.root_certificates, tls.key, tls.certificate)
            with tls_errors():
                read = [_pem(Path(path)) if path else None for path in paths]
            self._channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(*read), options)
        self._predict = self._channel.unary_unary(PREDICT)
        self._metadata = self._channel.unary_unary(f"{_SERVICES}PredictionService/GetModelMetadata")
        self._status = self._channel.unary_unary(f"{_SERVICES}ModelService/GetModelStatus")

    def predict(
        self, spec: ModelSpec, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str], timeout: float
    ) -> tuple[dict[str, np.ndarray], int | None]:
        _check_size(inputs)
        request = predict_request(spec, signature, inputs, outputs)
        reply = self._call(self._predict, request, messages.new("PredictResponse"), timeout)
        try:
            arrays = {name: to_array(tensor) for name, tensor in reply.outputs.items()}
        except ValueError as error:
            raise _unreadable(error) from error
        return arrays, reply.model_spec.version.value

    def status(self, spec: ModelSpec, timeout: float) -> list[VersionStatus]:
        request = messages.new("GetModelStatusRequest", model_spec=_spec(spec))
        reply = self._call(self._status, request, messages.new("GetModelStatusResponse"), timeout)
        return [
            VersionStatus(
                entry.version,
                _STATES.get(entry.state, str(entry.state)),
                CODES.get(entry.status.error_code, str(entry.status.error_code)),
                _text(entry.status.error_message),
            )
            for entry in reply.model_version_status
        ]

    def metadata(self, spec: ModelSpec, timeout: float) -> dict[str, Signature]:
        request = messages.new("GetModelMetadataRequest", model_spec=_spec(spec), metadata_field=["signature_def"])
        reply = self._call(self._metadata, request, messages.new("GetModelMetadataResponse"), timeout)
        signatures = messages.new("SignatureDefMap")
        try:
            signatures.ParseFromString(reply.metadata["signature_def"].value)
        except DecodeError as error:
            raise _unreadable(error) from error
        return {
            name: Signature(_infos(signature.inputs), _infos(signature.outputs), _text(signature.method_name))
            for name, signature in signatures.signature_def.items()
        }

    def close(self) -> None:
        self._channel.close()

    def _call(self, method: Any, request: Any, reply: Any, timeout: float) -> Any:
        """Sends a request, and returns the reply, read into an empty message of its type."""
        try:
            reply.ParseFromString(method(request.SerializeToString(), timeout=timeout))
        except grpc.RpcError as error:
            text = error.details() or ""
            if error.code() == grpc.StatusCode.UNAVAILABLE and _NO_GRPC in text:
                text = f"{self._target} does not speak gRPC ({text}); a REST port is asked as http://{self._target}"
                raise ServingError("FAILED_PRECONDITION", text) from error  # another try would be in vain
            raise ServingError(error.code().name, text) from error
        except DecodeError as error:
            raise _unreadable(error) from error
        return reply


def predict_request(
    spec: ModelSpec, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] = ()
) -> Any:
    """Returns a PredictRequest.

    Raises:
      TypeError: an input of a type that TensorFlow Serving does not take.
    """
    request = messages.new("PredictRequest", model_spec=_spec(spec, signature), output_filter=list(outputs))
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(to_message(value))
    return request


def _pem(path: Path) -> bytes:
    content = path.read_bytes()
    if b"-----BEGIN " not in content:  # of which gRPC only logs that it found nothing
        raise ServingError("INVALID_ARGUMENT", f"{path} is no PEM file")
    return content


def _check_size(inputs: Mapping[str, np.ndarray]) -> None:
    """Refuses inputs that no message can hold, before they are copied into one.

    Raises:
      ServingError: RESOURCE_EXHAUSTED.
    """
    size = sum(map(_size, inputs.values()))
    if size > MAX_MESSAGE:
        raise ServingError(
            "RESOURCE_EXHAUSTED",
            f"the inputs of one request take {size / 1e9:.1f} GB, and a message holds {MAX_MESSAGE / 1e9:.1f} GB at "
            "most (a server may take less): ask in several requests",
        )


def _size(array: np.ndarray) -> int:
    """Returns how many bytes the values of an array take in a message, at least."""
    if array.dtype.kind == "O":
        return sum(len(value) for value in array.ravel().tolist() if isinstance(value, (bytes, str)))
    if array.dtype.kind in "SU":  # whose values all have room for the longest
        return int(np.char.str_len(array).sum())
    return array.nbytes


def _check_target(target: str, encrypted: bool) -> None:
    """Refuses a target that gRPC would take for another one: without a port it takes 443, which is right for TLS.

    Raises:
      ServingError: INVALID_ARGUMENT.
    """
    if target.startswith(GRPC_SCHEMES):
        return
    if "://" in target:
        raise ServingError("INVALID_ARGUMENT", f"{target}: gRPC is asked as host:port, REST as http://host:port")
    host, colon, port = target.rpartition(":")
    if encrypted and (not colon or target.endswith("]")):
        return
    if not host or not (port.isascii() and port.isdecimal() and 0 < int(port) < 2**16):
        raise ServingError(
            "INVALID_ARGUMENT", f"{target!r} names no host and port, as localhost:8500 does, or http://localhost:8501"
        )
    if ":" in host and not host.endswith("]"):
        raise ServingError("INVALID_ARGUMENT", f"an IPv6 address stands in brackets, as in [{host}]:{port}")


def _spec(spec: ModelSpec, signature: str = "") -> Any:
    message = messages.new("ModelSpec", name=spec.model, signature_name=signature)
    if spec.version is not None:
        message.version.value = spec.version
    if spec.label is not None:
        message.version_label = spec.label
    return message


def _infos(infos: Mapping[str, Any]) -> dict[str, TensorInfo]:
    return {name: _info(info) for name, info in infos.items()}


def _info(info: Any) -> TensorInfo:
    shape = info.tensor_shape
    sizes = None if shape.unknown_rank else tuple(dim.size for dim in shape.dim)
    return TensorInfo(DTYPES.get(info.dtype, np.dtype(object)), sizes)


def _text(content: bytes) -> str:
    return content.decode("utf-8", "replace")


def _unreadable(error: Exception) -> ServingError:
    return ServingError("DATA_LOSS", f"the server's answer cannot be read: {error}")
