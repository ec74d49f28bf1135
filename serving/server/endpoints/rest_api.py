"""The server's HTTP side: the REST API of TensorFlow Serving, Prometheus metrics, and the page.

Source: https://www.tensorflow.org/tfx/serving/api_rest
"""

import asyncio
import dataclasses
import logging
import re
import urllib.parse
from collections.abc import Awaitable, Callable
from typing import Any

import google.protobuf
from aiohttp import web
from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from serving.server.endpoints.calls import Calls
from serving.server.protocol import json_replies, json_requests, requests
from serving.server.protocol.errors import StatusError, invalid_argument
from serving.server.protocol.requests import Servable

log = logging.getLogger(__name__)

METRICS_PATH = "/monitoring/prometheus/metrics"
HTTP_CODES = {
    "CANCELLED": 499, "UNKNOWN": 500, "INVALID_ARGUMENT": 400, "DEADLINE_EXCEEDED": 504, "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409, "PERMISSION_DENIED": 403, "RESOURCE_EXHAUSTED": 429, "FAILED_PRECONDITION": 400,
    "ABORTED": 409, "OUT_OF_RANGE": 400, "UNIMPLEMENTED": 501, "INTERNAL": 500, "UNAVAILABLE": 503, "DATA_LOSS": 500,
    "UNAUTHENTICATED": 401,
}  # fmt: skip

_MODEL = r"(?i:/v1/models)/(?P<model>[^/:]+)(?:/(?i:versions)/(?P<version>[0-9]+)|/(?i:labels)/(?P<label>[^/:]+))?"
_ASK = re.compile(_MODEL + r":(?P<method>(?i:classify|regress|predict))")
_LOOK = re.compile(_MODEL + r"(?P<metadata>/(?i:metadata))?")
_LARGE = 2**16  # bytes of a body that is parsed beside the event loop
_DEFAULTS = (
    {"always_print_fields_with_no_presence": True}
    if int(google.protobuf.__version__.split(".")[0]) >= 5
    else {"including_default_value_fields": True}
)


@dataclasses.dataclass(frozen=True)
class Api:
    """The REST API in front of the calls.

    Attributes:
      timeout: seconds until a request is answered with DEADLINE_EXCEEDED.
      metrics_path: where metrics are; None for nowhere.
    """

    calls: Calls
    timeout: float
    metrics_path: str | None = METRICS_PATH

    def app(self, max_body_bytes: int) -> web.Application:
        """Returns the application; a longer body is answered with 413."""
        app = web.Application(client_max_size=max_body_bytes, middlewares=[failures_as_json])
        if self.metrics_path:
            app.router.add_get(self.metrics_path, self._metrics)
        app.router.add_route("*", "/{path:(?i:v1)/.*}", self._v1)
        return app

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(text=self.calls.metrics.text(), headers={"Content-Type": "text/plain"})

    async def _v1(self, request: web.Request) -> web.Response:
        path = request.rel_url.raw_path
        if request.method == "POST" and (match := _ASK.fullmatch(path)):
            answer = self._ask(match, await request.read())
        elif request.method == "GET" and (match := _LOOK.fullmatch(path)):
            answer = self._look(match)
        elif request.method == "GET" and path.lower().rstrip("/") == "/v1/models":
            raise invalid_argument("Missing model name in request.")
        else:
            raise invalid_argument(f"Malformed request: {request.method} {path}")
        try:
            body = await asyncio.wait_for(answer, self.timeout)
        except asyncio.TimeoutError as error:
            raise StatusError("DEADLINE_EXCEEDED", f"Timed out after {1000 * self.timeout:.0f} ms") from error
        return web.Response(body=body, content_type="application/json")

    async def _ask(self, match: re.Match, body: bytes) -> bytes:
        document = await _beside_the_loop(len(body), json_requests.parse, body)
        method = match["method"].lower()
        signature = json_requests.signature_name(document)
        if method == "predict":
            with self.calls.manager.use(_filled(requests.new_spec(), match)) as version:
                inputs = _inputs(version.servable, signature)
            request, rows = await _beside_the_loop(len(body), json_requests.predict_request, document, inputs)
            _filled(request.model_spec, match).signature_name = signature
            response = await self.calls.predict(request, "REST")
            return json_replies.predict_reply(response, rows)
        if method == "classify":
            request = json_requests.classification_request(document)
            _filled(request.model_spec, match).signature_name = signature
            return json_replies.classification_reply(await self.calls.classify(request, "REST"))
        request = json_requests.regression_request(document)
        _filled(request.model_spec, match).signature_name = signature
        return json_replies.regression_reply(await self.calls.regress(request, "REST"))

    async def _look(self, match: re.Match) -> bytes:
        if not match["metadata"]:
            asked = get_model_status_pb2.GetModelStatusRequest()
            _filled(asked.model_spec, match)
            return _json(await self.calls.status(asked)).encode()
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=[requests.SIGNATURE_DEF])
        _filled(request.model_spec, match)
        response = await self.calls.metadata(request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata[requests.SIGNATURE_DEF].Unpack(signatures)
        spec = _json(response.model_spec)
        return f'{{\n"model_spec":{spec},\n"metadata": {{"signature_def": {_json(signatures)}}}\n}}\n'.encode()


@web.middleware
async def failures_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> Any:
    """Turns failures into JSON."""
    try:
        return await handler(request)
    except StatusError as error:
        return web.json_response({"error": error.message}, status=HTTP_CODES[error.code])
    except web.HTTPRequestEntityTooLarge as error:
        return web.json_response({"error": f"The request's body is too large: {error.text}"}, status=error.status)
    except ConnectionError:  # the client has gone in the middle of its request
        return web.Response(status=HTTP_CODES["CANCELLED"])
    except (web.HTTPException, asyncio.CancelledError):
        raise
    except Exception as error:
        log.exception("a request failed in the server itself")
        return web.json_response({"error": f"{type(error).__name__}: {error}"}, status=500)


def _inputs(servable: Servable, name: str) -> dict[str, Any]:
    """Returns the TensorInfo of each input of a signature."""
    name = name or requests.DEFAULT_SIGNATURE
    signature = servable.signatures.get(name)
    if signature is None:
        raise invalid_argument(f'Serving signature name: "{name}" not found in signature def')
    if not signature.inputs:
        raise invalid_argument(f"Failed to get input map for signature: {name}")
    return dict(signature.inputs)


async def _beside_the_loop(size: int, function: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.to_thread(function, *arguments) if size > _LARGE else function(*arguments)


def _filled(spec: Any, match: re.Match) -> Any:
    """Returns a ModelSpec with the path's name, version and label."""
    spec.name = urllib.parse.unquote(match["model"])
    if match["version"] is not None:
        digits = match["version"].lstrip("0") or "0"
        if len(digits) > len(str(2**63)) or int(digits) >= 2**63:
            raise invalid_argument(f"Failed to convert version: {match['version']} to numeric.")
        spec.version.value = int(digits)
    if match["label"] is not None:
        spec.version_label = urllib.parse.unquote(match["label"])
    return spec


def _json(message: Any) -> str:
    return json_format.MessageToJson(message, preserving_proto_field_name=True, indent=1, **_DEFAULTS)
