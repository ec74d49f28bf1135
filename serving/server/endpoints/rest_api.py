"""The server's HTTP side: the REST API of TensorFlow Serving, Prometheus metrics, and the page.

Source: https://www.tensorflow.org/tfx/serving/api_rest
"""

import asyncio
import dataclasses
import logging
import re
import urllib.parse
import zlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import google.protobuf
import numpy as np
from aiohttp import web
from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from serving.server.endpoints.calls import Calls
from serving.server.protocol import example_requests, json_replies, json_requests, requests
from serving.server.protocol.errors import StatusError, invalid_argument
from serving.server.protocol.requests import Limits, PreparedRequest, Servable
from serving.server.protocol.tensors import TooLarge
from serving.server.threads import beside_the_loop

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
_PIECE = 2**18  # bytes that are decompressed at once
WINDOWS = {"gzip": 31, "deflate": 15}  # zlib's window bits, by the encoding
_DEFAULTS = (
    {"always_print_fields_with_no_presence": True}
    if int(google.protobuf.__version__.split(".")[0]) >= 5
    else {"including_default_value_fields": True}
)


@dataclasses.dataclass(frozen=True)
class Api:
    """The REST API in front of the calls.

    Attributes:
      timeout: seconds until a request is answered with DEADLINE_EXCEEDED; None for never.
      metrics_path: where metrics are; None for nowhere.
      other_sites: whether a browser may let pages of other sites ask, by CORS headers.
    """

    calls: Calls
    timeout: float | None
    metrics_path: str | None = METRICS_PATH
    other_sites: bool = False

    def app(self, max_body_bytes: int) -> web.Application:
        """Returns the application; a longer body is answered with 413."""
        app = web.Application(client_max_size=max_body_bytes, middlewares=[failures_as_json])
        if self.other_sites:
            app.on_response_prepare.append(_allow_other_sites)
        if self.metrics_path:
            app.router.add_get(self.metrics_path, self._metrics)
        app.router.add_route("*", "/{path:(?i:v1)/.*}", self._v1)
        return app

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(text=await self.calls.control.metrics(), headers={"Content-Type": "text/plain"})

    async def _v1(self, request: web.Request) -> web.Response:
        path = request.rel_url.raw_path
        if request.method == "OPTIONS" and self.other_sites:
            return web.Response()  # what a browser asks before it posts JSON
        if request.method == "POST" and (match := _ASK.fullmatch(path)):
            answer = self._ask(match, await _body(request))
        elif request.method == "GET" and (match := _LOOK.fullmatch(path)):
            answer = self._look(match)
        elif request.method == "GET" and path.lower().rstrip("/") == "/v1/models":
            raise invalid_argument("Missing model name in request.")
        else:
            raise invalid_argument(f"Malformed request: {request.method} {path}")
        try:
            body = await asyncio.wait_for(answer, self.timeout)
        except asyncio.TimeoutError as error:
            raise StatusError("DEADLINE_EXCEEDED", f"Timed out after {1000 * (self.timeout or 0):.0f} ms") from error
        return web.Response(body=body, content_type="application/json")

    async def _ask(self, match: re.Match, body: bytes) -> bytes:
        method = match["method"].lower()
        parse, prepare = _METHODS[method]
        spec = _filled(requests.new_spec(), match)
        request = await beside_the_loop(len(body), parse, body, spec)
        return await self.calls.run(method.capitalize(), "REST", spec, request, len(body), prepare)

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


async def _allow_other_sites(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Access-Control-Allow-Origin"] = "*"
    response.headers["Access-Control-Allow-Methods"] = "GET, POST, OPTIONS"
    response.headers["Access-Control-Allow-Headers"] = "Content-Type, Content-Encoding"


def _parsed_predict(body: bytes, spec: Any) -> dict[str, Any]:
    document = json_requests.parse(body)
    spec.signature_name = json_requests.signature_name(document)
    return document


def _prepared_predict(document: dict[str, Any], servable: Servable, limits: Limits) -> PreparedRequest:
    named = json_requests.signature_name(document)
    name = named or requests.DEFAULT_SIGNATURE
    try:
        arrays, rows = json_requests.predict_inputs(document, _inputs(servable, name))
    except StatusError as error:
        others = sorted(servable.plans.keys() - {name})
        if named or not others:
            raise
        hint = f"It was checked against {name}. Others can be named in 'signature_name': {', '.join(others)}."
        raise StatusError(error.code, f"{error.message}\n{hint}") from error
    for key, array in arrays.items():
        if array.nbytes > limits.tensor_bytes:
            raise TooLarge(
                "INVALID_ARGUMENT",
                f"{key} takes {array.nbytes} bytes; this server takes {limits.tensor_bytes} at most.",
            )
    requests.check_method(servable, name, limits)
    plan = servable.plans[name]

    def reply(values: Sequence[np.ndarray]) -> bytes:
        return json_replies.predict_reply(dict(zip(plan.outputs, values, strict=True)), rows)

    return PreparedRequest(name, [arrays[key] for key in plan.inputs], plan.outputs, reply)


def _of_examples(
    read: Callable[[dict[str, Any]], Any],
    prepare: Callable[[Any, Servable, Limits], PreparedRequest],
    write: Callable[[Any], bytes],
) -> tuple[Callable[[bytes, Any], Any], Callable[[Any, Servable, Limits], PreparedRequest]]:
    """Returns how a method that takes tf.Examples reads a body and checks it: as over gRPC, from and to JSON."""

    def parsed(body: bytes, spec: Any) -> Any:
        request = read(_parsed_predict(body, spec))
        request.model_spec.CopyFrom(spec)
        return request

    def prepared(request: Any, servable: Servable, limits: Limits) -> PreparedRequest:
        made = prepare(request, servable, limits)
        return dataclasses.replace(made, reply=lambda values: write(made.reply(values)))

    return parsed, prepared


# Method -> what reads a body, before a version is looked for, and what checks it against the version.
_METHODS: dict[str, tuple[Callable[[bytes, Any], Any], Callable[[Any, Servable, Limits], PreparedRequest]]] = {
    "predict": (_parsed_predict, _prepared_predict),
    "classify": _of_examples(
        json_requests.classification_request, example_requests.prepare_classify, json_replies.classification_reply
    ),
    "regress": _of_examples(
        json_requests.regression_request, example_requests.prepare_regress, json_replies.regression_reply
    ),
}


def _inputs(servable: Servable, name: str) -> dict[str, Any]:
    """Returns the TensorInfo of each input of a signature."""
    signature = servable.signatures.get(name) if name in servable.plans else None
    if signature is None:
        raise invalid_argument(f'Serving signature name: "{name}" not found in signature def')
    if not signature.inputs:
        raise invalid_argument(f"Failed to get input map for signature: {name}")
    return dict(signature.inputs)


async def _body(request: web.Request) -> bytes:
    """Returns a request's body, decompressed.

    Raises:
      web.HTTPRequestEntityTooLarge: it is longer than the server takes, as it comes or decompressed.
      StatusError: INVALID_ARGUMENT, where it cannot be decompressed.
    """
    data = await request.read()
    header = request.headers.get("Content-Encoding", "").lower()
    window = next((window for encoding, window in WINDOWS.items() if encoding in header), None)  # x-gzip too
    if window is None:  # whatever it says: the real server takes it as it comes
        return data
    return await asyncio.to_thread(_decompressed, data, window, request.client_max_size)


def _decompressed(data: bytes, window: int, limit: int) -> bytes:
    """Decompresses a body, once to see that it is not too long, and then to keep it."""
    try:
        size = sum(map(len, _pieces(data, window, limit)))
        body = bytearray(size)
        at = 0
        for piece in _pieces(data, window, limit):
            body[at : at + len(piece)] = piece
            at += len(piece)
        return bytes(body)
    except zlib.error as error:
        raise invalid_argument(f"The body cannot be decompressed: {error}") from error


def _pieces(data: bytes, window: int, limit: int) -> Iterator[bytes]:
    decompressor, size = zlib.decompressobj(window), 0
    while not decompressor.eof:
        piece = decompressor.decompress(data, _PIECE)
        data = decompressor.unconsumed_tail
        if not piece and not data and not decompressor.eof:
            raise zlib.error("it is cut off")
        size += len(piece)
        if size > limit:
            raise web.HTTPRequestEntityTooLarge(max_size=limit, actual_size=size)
        yield piece


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
