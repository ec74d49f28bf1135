"""The client's way over the REST API."""

import base64
import contextlib
import http.client
import json
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from serving.client.deadline import Deadline
from serving.client.errors import ServingError, tls_errors
from serving.client.models import ModelSpec, Signature, TensorInfo, Tls, VersionStatus, is_local

_STATUS_CODES = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 409: "ALREADY_EXISTS",
    413: "RESOURCE_EXHAUSTED", 429: "RESOURCE_EXHAUSTED", 499: "CANCELLED", 500: "INTERNAL", 501: "UNIMPLEMENTED",
    503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip
_DTYPES = {
    "DT_FLOAT": np.float32, "DT_DOUBLE": np.float64, "DT_INT32": np.int32, "DT_UINT8": np.uint8, "DT_INT16": np.int16,
    "DT_INT8": np.int8, "DT_STRING": object, "DT_INT64": np.int64, "DT_BOOL": np.bool_, "DT_UINT16": np.uint16,
    "DT_HALF": np.float16, "DT_UINT32": np.uint32, "DT_UINT64": np.uint64,
}  # fmt: skip


class RestTransport:
    """The REST API; see `Transport`."""

    def __init__(self, target: str, tls: Tls | None) -> None:
        if tls and not target.lower().startswith("https://"):
            raise ServingError("INVALID_ARGUMENT", f"{target} is not encrypted, and TLS is asked for: https://...")
        self._target = target.rstrip("/")
        self._proxies: dict[str, str] | None = {} if is_local(target) else None
        self._context = None
        if self._target.startswith("https://"):
            roots = str(tls.root_certificates) if tls and tls.root_certificates else None
            with tls_errors():
                self._context = ssl.create_default_context(cafile=roots)
                if tls and tls.certificate:
                    self._context.load_cert_chain(tls.certificate, tls.key)

    def predict(
        self, spec: ModelSpec, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str], timeout: float
    ) -> tuple[dict[str, np.ndarray], int | None]:
        started = time.monotonic()
        columns = {name: _listed(value) for name, value in inputs.items()}
        body = json.dumps({"signature_name": signature, "inputs": columns}).encode()
        timeout -= time.monotonic() - started
        if timeout <= 0:
            raise ServingError(
                "DEADLINE_EXCEEDED", f"{len(body) / 1e6:.0f} MB of JSON took all of the time; ask over gRPC"
            )
        with _understood(reply := self._call(f"{_path(spec)}:predict", body, timeout)):
            outcome = reply["outputs"]
            if not isinstance(outcome, dict) or "b64" in outcome:  # of one output the server leaves the name out
                left = max(0.001, started + timeout - time.monotonic())
                outcome = {next(iter(self.metadata(spec, left)[signature].outputs)): outcome}
            arrays = {name: _unlisted(value) for name, value in outcome.items()}
        return {name: value for name, value in arrays.items() if not outputs or name in outputs}, None

    def status(self, spec: ModelSpec, timeout: float) -> list[VersionStatus]:
        with _understood(reply := self._call(_path(spec), None, timeout)):
            return [
                VersionStatus(
                    int(entry["version"]),
                    entry["state"],
                    entry["status"]["error_code"],
                    entry["status"]["error_message"],
                )
                for entry in reply["model_version_status"]
            ]

    def metadata(self, spec: ModelSpec, timeout: float) -> dict[str, Signature]:
        with _understood(reply := self._call(f"{_path(spec)}/metadata", None, timeout)):
            return {
                name: Signature(_tensor_infos(found["inputs"]), _tensor_infos(found["outputs"]), found["method_name"])
                for name, found in reply["metadata"]["signature_def"]["signature_def"].items()
            }

    def close(self) -> None:
        """Nothing is open between calls."""

    def _call(self, path: str, body: bytes | None, timeout: float) -> Any:
        headers = {"Content-Type": "application/json"}
        try:
            request = urllib.request.Request(self._target + path, body, headers)
            with Deadline(timeout) as deadline:
                opener = deadline.opener(proxies=self._proxies, context=self._context)
                return self._answer(opener, request, timeout, deadline)
        except http.client.InvalidURL as error:
            raise ServingError("INVALID_ARGUMENT", f"{self._target}: {error}") from error

    def _answer(
        self,
        opener: urllib.request.OpenerDirector,
        request: urllib.request.Request,
        timeout: float,
        deadline: Deadline,
    ) -> Any:
        late = ServingError("DEADLINE_EXCEEDED", f"{self._target} did not answer in {timeout:.1f} s")
        try:
            with opener.open(request, timeout=timeout) as response:
                return json.loads(response.read())
        except urllib.error.HTTPError as error:
            text = _error_text(error)
            if deadline.passed:
                raise late from error
            raise ServingError(_STATUS_CODES.get(error.code, "UNKNOWN"), text) from error
        except TimeoutError as error:
            raise late from error
        except http.client.InvalidURL:
            raise
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            if deadline.passed or isinstance(getattr(error, "reason", None), TimeoutError):
                raise late from error
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> ServingError:
        if isinstance(error, http.client.BadStatusLine) and not isinstance(error, ConnectionError):
            text = f"{self._target} does not speak HTTP; a gRPC server is asked as host:port"
            return ServingError("UNAVAILABLE", text)
        if isinstance(error, (ValueError, RecursionError)):
            return ServingError("DATA_LOSS", f"{self._target} answered what is not JSON")
        return ServingError("UNAVAILABLE", f"{self._target}: {error}")


@contextlib.contextmanager
def _understood(reply: Any) -> Iterator[None]:
    """Turns a reply that is not as the API has it into a `ServingError`."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        text = f"the server's answer cannot be read ({type(error).__name__}): {str(reply)[:100]}"
        raise ServingError("DATA_LOSS", text) from error


def _tensor_infos(infos: dict[str, Any]) -> dict[str, TensorInfo]:
    def of(info: dict[str, Any]) -> TensorInfo:
        shape = info["tensor_shape"]
        dims = None if shape.get("unknown_rank") else tuple(int(dim["size"]) for dim in shape["dim"])
        return TensorInfo(np.dtype(_DTYPES.get(info["dtype"], object)), dims)

    return {name: of(info) for name, info in infos.items()}


def _path(spec: ModelSpec) -> str:
    path = f"/v1/models/{urllib.parse.quote(spec.model, safe='')}"
    if spec.version is not None:
        return f"{path}/versions/{spec.version}"
    return path if spec.label is None else f"{path}/labels/{urllib.parse.quote(spec.label, safe='')}"


def _listed(value: Any) -> Any:
    """Returns an array as JSON's lists; bytes in base64."""
    if isinstance(value, np.ndarray):
        return _listed(value.tolist()) if value.dtype.kind in "OSU" else value.tolist()
    if isinstance(value, list):
        return [_listed(item) for item in value] if value and isinstance(value[0], (list, bytes)) else value
    return {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _unlisted(value: Any) -> np.ndarray:
    """Returns JSON's lists as an array: floats as float32, text as object."""
    array = np.array(value)
    if array.dtype.kind in "UO":
        return np.array(value, dtype=object)
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def _error_text(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read())["error"])
    except (ValueError, LookupError, TypeError, OSError, http.client.HTTPException, RecursionError):
        return str(error.reason)
