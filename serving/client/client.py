"""A client of TensorFlow Serving and of the embedded server; needs numpy and grpcio, and neither TensorFlow nor TFX.

Example:
  with Client("localhost:8500", model="mnist") as client:
      prediction = client.predict(images)  # uint8 [N, height, width, channels]
      print(prediction.classes[0, prediction.label[0]], prediction.version)
"""

import base64
import dataclasses
import json
import random
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import grpc
import numpy as np

from serving.client import wire

_STATES = {10: "START", 20: "LOADING", 30: "AVAILABLE", 40: "UNLOADING", 50: "END"}
_CODES = {code.value[0]: code.name for code in grpc.StatusCode}
_OF_HTTP = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 409: "ALREADY_EXISTS",
    413: "RESOURCE_EXHAUSTED", 429: "RESOURCE_EXHAUSTED", 499: "CANCELLED", 500: "INTERNAL", 501: "UNIMPLEMENTED",
    503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip
MAX_MESSAGE = 2**30  # bytes


class ServingError(RuntimeError):
    """What a server, or the way to it, refused.

    Attributes:
      code: name of a gRPC status code, such as `NOT_FOUND`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


@dataclasses.dataclass(frozen=True)
class Tls:
    """How to encrypt: paths of PEM files.

    Attributes:
      root_certificates: whom to trust; None for the system's own.
      certificate: the client's, where the server wants one.
      key: its key.
    """

    root_certificates: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The answer to a batch of N images.

    Attributes:
      scores: probabilities, float32 [N, classes].
      classes: their names, in the same order for every image: str [N, classes].
      label: the likeliest class's index, int64 [N].
      version: the version that answered; None over REST, which does not say.
    """

    scores: np.ndarray
    classes: np.ndarray
    label: np.ndarray
    version: int | None


@dataclasses.dataclass(frozen=True)
class VersionStatus:
    """A version's state.

    Attributes:
      state: `START`, `LOADING`, `AVAILABLE`, `UNLOADING` or `END`.
      error_code: `OK`, or why it could not be loaded.
    """

    version: int
    state: str
    error_code: str
    error_message: str


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """What a signature takes or returns: its numpy type and its sizes, -1 where one is open; None where the rank is."""

    dtype: np.dtype
    shape: tuple[int, ...] | None


@dataclasses.dataclass(frozen=True)
class Signature:
    """A signature's inputs and outputs."""

    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]
    method: str


@dataclasses.dataclass(frozen=True)
class Spec:
    """Which model to ask, and which version of it: by number, by label, or the latest."""

    model: str
    version: int | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        if self.version is not None and self.label is not None:
            raise ValueError("ask for a version or for a label, not for both")


class _Transport(Protocol):
    def predict(
        self, spec: Spec, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str], timeout: float
    ) -> tuple[dict[str, np.ndarray], int | None]: ...

    def status(self, spec: Spec, timeout: float) -> list[VersionStatus]: ...

    def metadata(self, spec: Spec, timeout: float) -> dict[str, Signature]: ...

    def close(self) -> None: ...


class Client:
    """Asks one server; safe to share between threads."""

    def __init__(
        self,
        target: str,
        model: str | None = None,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float = 10.0,
        retries: int = 5,
        tls: Tls | None = None,
    ) -> None:
        """Makes a client; connects when first asked.

        Args:
          target: `host:port` or `unix:/path` for gRPC, `http://host:port` or `https://host:port` for REST. A model's
            name may follow, as in `localhost:8500/mnist`.
          model: the model's name; `default`, as the real server has it, where nobody says.
          version: the version to ask for.
          label: or the label.
          timeout: of a call with all its tries, seconds.
          retries: how often a call is tried again that was answered with UNAVAILABLE.
          tls: how to encrypt; None for not at all over gRPC, and for the system's own certificates over https.
        """
        target, named = _split(target)
        self.spec = Spec(model or named or "default", version, label)
        self._timeout, self._retries = timeout, retries
        over_http = target.startswith(("http://", "https://"))
        self._transport: _Transport = _Rest(target, tls) if over_http else _Grpc(target, tls)

    def predict(
        self,
        images: np.ndarray | Sequence[bytes],
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
    ) -> Prediction:
        """Returns the classes of images.

        Args:
          images: uint8 [N, height, width, channels]; floats in [0, 1] of any shape that reshapes to it; or N PNG or
            JPEG files as bytes.
          version: the version to ask for, instead of the client's own.
          label: or the label.
          timeout: seconds, instead of the client's own.

        Raises:
          ServingError: the server refuses, or does not answer in time.
          TypeError: the images are of another type.
        """
        signature, inputs = _signature_of(images)
        reply, answered = self._ask(
            lambda transport, spec, left: transport.predict(spec, signature, inputs, (), left), version, label, timeout
        )
        try:
            names = np.array([[_text(one) for one in row] for row in reply["classes"]], dtype=str)
            return Prediction(reply["scores"], names, reply["label"], answered)
        except KeyError as error:
            raise ServingError("FAILED_PRECONDITION", f"{self.spec.model} does not return {error}") from error

    def call(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str] = (),
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
    ) -> dict[str, np.ndarray]:
        """Returns the outputs of any signature; all of them where none is named.

        Raises:
          ServingError: the server refuses, or does not answer in time.
        """
        arrays = {name: np.asarray(value) for name, value in inputs.items()}
        return self._ask(
            lambda transport, spec, left: transport.predict(spec, signature, arrays, outputs, left),
            version, label, timeout,
        )[0]  # fmt: skip

    def status(self, timeout: float | None = None) -> list[VersionStatus]:
        """Returns the state of every version that the server knows, the newest first.

        Raises:
          ServingError: NOT_FOUND for an unknown model, or the server does not answer.
        """
        return self._ask(lambda transport, spec, left: transport.status(spec, left), None, None, timeout)

    def metadata(self, timeout: float | None = None) -> dict[str, Signature]:
        """Returns the signatures by name.

        Raises:
          ServingError: NOT_FOUND for an unknown model, or the server does not answer.
        """
        return self._ask(lambda transport, spec, left: transport.metadata(spec, left), None, None, timeout)

    def close(self) -> None:
        """Ends the connection."""
        self._transport.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(
        self,
        call: Callable[[_Transport, Spec, float], Any],
        version: int | None,
        label: str | None,
        timeout: float | None,
    ) -> Any:
        """Calls, and again while the server is unavailable: after 0.05 s, 0.1 s, ... each with jitter."""
        spec = self.spec if version is None and label is None else Spec(self.spec.model, version, label)
        deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
        for attempt in range(self._retries + 1):
            try:
                return call(self._transport, spec, max(0.001, deadline - time.monotonic()))
            except ServingError as error:
                pause = 0.05 * 2**attempt * random.uniform(0.5, 1.5)
                last = attempt == self._retries or time.monotonic() + pause > deadline
                if error.code != "UNAVAILABLE" or last:
                    raise
                time.sleep(pause)
            except wire.Malformed as error:
                raise ServingError("DATA_LOSS", f"the server's answer cannot be read: {error}") from error
        raise AssertionError("the last try returns or raises")


class _Grpc:
    """PredictionService and ModelService."""

    def __init__(self, target: str, tls: Tls | None) -> None:
        options = [("grpc.max_receive_message_length", MAX_MESSAGE), ("grpc.max_send_message_length", MAX_MESSAGE)]
        if tls is None:
            self._channel = grpc.insecure_channel(target, options)
        else:
            read = [path.read_bytes() if path else None for path in (tls.root_certificates, tls.key, tls.certificate)]
            self._channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(*read), options)
        service = "/tensorflow.serving."
        self._predict = self._channel.unary_unary(f"{service}PredictionService/Predict")
        self._metadata = self._channel.unary_unary(f"{service}PredictionService/GetModelMetadata")
        self._status = self._channel.unary_unary(f"{service}ModelService/GetModelStatus")

    def predict(
        self, spec: Spec, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str], timeout: float
    ) -> tuple[dict[str, np.ndarray], int | None]:
        pairs = [wire.message({1: name, 2: wire.tensor(value)}) for name, value in inputs.items()]
        request = wire.message({1: spec_message(spec, signature), 2: pairs, 3: list(outputs)})
        reply = wire.fields(self._call(self._predict, request, timeout))
        answered = wire.fields((wire.inner(reply, 2) or [b""])[-1])
        version = wire.integer(wire.fields((wire.inner(answered, 2) or [b""])[-1]), 1)
        return {name: wire.array(value) for name, value in wire.entries(reply, 1).items()}, version

    def status(self, spec: Spec, timeout: float) -> list[VersionStatus]:
        reply = wire.fields(self._call(self._status, wire.message({1: spec_message(spec)}), timeout))
        return [_version_status(wire.fields(entry)) for entry in wire.inner(reply, 1)]

    def metadata(self, spec: Spec, timeout: float) -> dict[str, Signature]:
        request = wire.message({1: spec_message(spec), 2: "signature_def"})
        reply = wire.fields(self._call(self._metadata, request, timeout))
        packed = wire.fields(wire.entries(reply, 2).get("signature_def", b""))
        signatures = wire.entries(wire.fields((wire.inner(packed, 2) or [b""])[-1]), 1)
        return {name: _signature(wire.fields(value)) for name, value in signatures.items()}

    def close(self) -> None:
        self._channel.close()

    def _call(self, method: Any, request: bytes, timeout: float) -> bytes:
        try:
            return method(request, timeout=timeout)
        except grpc.RpcError as error:
            raise ServingError(error.code().name, error.details() or "") from error


class _Rest:
    """The REST API."""

    def __init__(self, target: str, tls: Tls | None) -> None:
        self._target = target.rstrip("/")
        self._context = None
        if self._target.startswith("https://"):
            roots = str(tls.root_certificates) if tls and tls.root_certificates else None
            self._context = ssl.create_default_context(cafile=roots)
            if tls and tls.certificate:
                self._context.load_cert_chain(tls.certificate, tls.key)

    def predict(
        self, spec: Spec, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str], timeout: float
    ) -> tuple[dict[str, np.ndarray], int | None]:
        columns = {name: _listed(value) for name, value in inputs.items()}
        body = json.dumps({"signature_name": signature, "inputs": columns}).encode()
        reply = self._call(f"{_path(spec)}:predict", body, timeout)["outputs"]
        named = reply if isinstance(reply, dict) and "b64" not in reply else {"output": reply}
        arrays = {name: _unlisted(value) for name, value in named.items()}
        return {name: value for name, value in arrays.items() if not outputs or name in outputs}, None

    def status(self, spec: Spec, timeout: float) -> list[VersionStatus]:
        reply = self._call(_path(spec), None, timeout)["model_version_status"]
        return [
            VersionStatus(
                int(entry["version"]), entry["state"], entry["status"]["error_code"], entry["status"]["error_message"]
            )
            for entry in reply
        ]

    def metadata(self, spec: Spec, timeout: float) -> dict[str, Signature]:
        reply = self._call(f"{_path(spec)}/metadata", None, timeout)
        signatures = reply["metadata"]["signature_def"]["signature_def"]
        return {
            name: Signature(_json_infos(one["inputs"]), _json_infos(one["outputs"]), one["method_name"])
            for name, one in signatures.items()
        }

    def close(self) -> None:
        """Nothing is open between calls."""

    def _call(self, path: str, body: bytes | None, timeout: float) -> Any:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._target + path, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=timeout, context=self._context) as response:
                return json.loads(response.read())
        except urllib.error.HTTPError as error:
            raise ServingError(_OF_HTTP.get(error.code, "UNKNOWN"), _error_text(error)) from error
        except TimeoutError as error:
            raise ServingError("DEADLINE_EXCEEDED", f"{self._target} did not answer in {timeout:.1f} s") from error
        except (urllib.error.URLError, ConnectionError) as error:
            late = isinstance(getattr(error, "reason", None), TimeoutError)
            raise ServingError("DEADLINE_EXCEEDED" if late else "UNAVAILABLE", f"{self._target}: {error}") from error
        except ValueError as error:
            raise ServingError("DATA_LOSS", f"{self._target} answered what is not JSON") from error


def _split(target: str) -> tuple[str, str | None]:
    """Returns a target without its model, and the model."""
    scheme, slashes, rest = target.rpartition("://")
    if target.startswith("unix:") or "/" not in rest:
        return target, None
    host, _, model = rest.partition("/")
    return scheme + slashes + host, urllib.parse.unquote(model.strip("/")) or None


def _signature_of(images: np.ndarray | Sequence[bytes]) -> tuple[str, dict[str, np.ndarray]]:
    if isinstance(images, np.ndarray) and images.dtype == np.uint8:
        return "predict_pixels", {"images": images}
    if isinstance(images, np.ndarray) and images.dtype.kind == "f":
        return "predict_images", {"images": images.astype(np.float32)}
    files = list(images)
    if not all(isinstance(one, bytes) for one in files):
        raise TypeError("images are uint8, floats in [0, 1], or the bytes of PNG or JPEG files")
    return "predict_encoded", {"image_bytes": np.array([*files, None], dtype=object)[:-1]}


def spec_message(spec: Spec, signature: str = "") -> bytes:
    """Returns a ModelSpec."""
    values: dict[int, wire.Value] = {1: spec.model}
    if spec.version is not None:
        values[2] = wire.message({1: spec.version})
    if signature:
        values[3] = signature
    if spec.label is not None:
        values[4] = spec.label
    return wire.message(values)


def _version_status(values: dict[int, list[int | bytes]]) -> VersionStatus:
    status = wire.fields((wire.inner(values, 3) or [b""])[-1])
    code = wire.integer(status, 1)
    state = wire.integer(values, 2)
    return VersionStatus(
        wire.integer(values, 1), _STATES.get(state, str(state)), _CODES.get(code, str(code)), wire.text(status, 2)
    )


def _signature(values: dict[int, list[int | bytes]]) -> Signature:
    def infos(number: int) -> dict[str, TensorInfo]:
        return {name: _info(wire.fields(one)) for name, one in wire.entries(values, number).items()}

    return Signature(infos(1), infos(2), wire.text(values, 3))


def _info(values: dict[int, list[int | bytes]]) -> TensorInfo:
    dtype = wire.DTYPES.get(wire.integer(values, 2), np.dtype(object))
    return TensorInfo(dtype, wire.sizes((wire.inner(values, 3) or [b""])[-1]))


_JSON_DTYPES = {
    "DT_FLOAT": np.float32, "DT_DOUBLE": np.float64, "DT_INT32": np.int32, "DT_UINT8": np.uint8, "DT_INT16": np.int16,
    "DT_INT8": np.int8, "DT_STRING": object, "DT_INT64": np.int64, "DT_BOOL": np.bool_, "DT_UINT16": np.uint16,
    "DT_HALF": np.float16, "DT_UINT32": np.uint32, "DT_UINT64": np.uint64,
}  # fmt: skip


def _json_infos(infos: dict[str, Any]) -> dict[str, TensorInfo]:
    def of(info: dict[str, Any]) -> TensorInfo:
        shape = info["tensor_shape"]
        dims = None if shape.get("unknown_rank") else tuple(int(dim["size"]) for dim in shape["dim"])
        return TensorInfo(np.dtype(_JSON_DTYPES.get(info["dtype"], object)), dims)

    return {name: of(info) for name, info in infos.items()}


def _path(spec: Spec) -> str:
    path = f"/v1/models/{urllib.parse.quote(spec.model, safe='')}"
    if spec.version is not None:
        return f"{path}/versions/{spec.version}"
    return path if spec.label is None else f"{path}/labels/{urllib.parse.quote(spec.label, safe='')}"


def _listed(value: Any) -> Any:
    """Returns an array as JSON's lists; bytes in base64."""
    if isinstance(value, np.ndarray):
        return _listed(value.tolist())
    if isinstance(value, list):
        return [_listed(one) for one in value] if value and isinstance(value[0], (list, bytes)) else value
    return {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _unlisted(value: Any) -> np.ndarray:
    """Returns JSON's lists as an array: floats as float32, text as object."""
    array = np.array(value)
    if array.dtype.kind in "UO":
        return np.array(value, dtype=object)
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _error_text(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read())["error"])
    except (ValueError, KeyError, TypeError, OSError):
        return str(error.reason)
