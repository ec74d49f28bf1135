"""The page at `/`: a person draws a digit or drops a picture, and sees what the network makes of it.

The page asks for its models (`GET /page/models`), and sends the pixels of a drawing (`POST /page/models/NAME`) or a
picture file as it is (`POST /page/models/NAME/picture`): the model itself makes pixels of a file, as it does for every
other client. All that the page shows comes from here. It works on the embedded server, which answers itself (`Local`),
and before a real one, which is asked over gRPC (`Remote`).
"""

import asyncio
import base64
import contextlib
import dataclasses
import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from aiohttp import web
from tensorflow_serving.apis import predict_pb2

from conveyor.pictures import KINDS, PictureError, as_png_or_jpeg, reason
from serving.model_store import read_dataset
from serving.model_store.labels import STABLE
from serving.server.endpoints.calls import Calls
from serving.server.models.replica import LoadedVersion
from serving.server.page.activations import SIGNATURE, Activations
from serving.server.protocol import requests, tensors
from serving.server.protocol.errors import StatusError, invalid_argument
from serving.signatures import DECODE

FILES = Path(__file__).parent / "static"
# Nothing is fetched from elsewhere, and no other site may frame the page.
CONVERTED_AT_ONCE = 2  # pictures, each of which takes hundreds of MB at most
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class ActivationCache:
    """The activations of models that somebody has looked at: one version of each, loaded when first asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[Path, Activations | None] = {}

    def of(self, path: Path) -> Activations | None:
        """Returns a version's activations; None where it has no pixels or no convolutions to show."""
        with self._lock:
            if path not in self._made:
                for other in [other for other in self._made if other.parent == path.parent]:
                    self._free(other)
                try:
                    self._made[path] = Activations(path)
                except Exception:  # a picture less, and nothing else, is lost
                    self._made[path] = None
            return self._made[path]

    def forget(self, version: LoadedVersion) -> None:
        """Frees a version's activations."""
        with self._lock:
            self._free(version.path)

    def _free(self, path: Path) -> None:
        activations = self._made.pop(path, None)
        if activations:
            activations.close()


class Models(Protocol):
    """Where the page's answers come from."""

    def list(self) -> list[dict[str, Any]]:
        """Returns the models that take pixels: `name`, `version` and the fields of a `ModelDataset`."""

    async def decode(self, name: str, file: bytes) -> np.ndarray:
        """Returns what a model's network sees of a picture file: uint8 [height, width, channels]."""

    async def predict(self, name: str, image: np.ndarray) -> tuple[int, Path, dict[str, np.ndarray]]:
        """Returns the version that answered, its folder, and its outputs for uint8 [height, width, channels]."""

    def activations(self, path: Path) -> Activations | None:
        """Returns a version's activations; blocks while they are loaded."""


class Local:
    """Answers of the embedded server itself."""

    def __init__(self, calls: Calls, cache: ActivationCache) -> None:
        self._calls, self._cache = calls, cache

    def list(self) -> list[dict[str, Any]]:
        found = []
        for name in self._calls.replica.names():
            with contextlib.suppress(StatusError), self._used(name) as version:
                found += describe(name, version.number, version.path)
        return found

    async def decode(self, name: str, file: bytes) -> np.ndarray:
        with self._used(name) as version:
            outputs = await self._ask(version, DECODE, "image_bytes", np.array([file], dtype=object))
        return outputs["images"][0]

    async def predict(self, name: str, image: np.ndarray) -> tuple[int, Path, dict[str, np.ndarray]]:
        with self._used(name) as version:
            return version.number, version.path, await self._ask(version, SIGNATURE, "images", image[None])

    async def _ask(self, version: LoadedVersion, signature: str, key: str, value: np.ndarray) -> dict[str, np.ndarray]:
        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.version.value = version.model, version.number
        request.model_spec.signature_name = signature
        request.inputs[key].CopyFrom(tensors.to_proto(value, as_content=True))
        prepare, size = requests.prepare_predict, request.ByteSize()
        reply = await self._calls.run("Predict", "REST", request.model_spec, request, size, prepare)
        response = predict_pb2.PredictResponse.FromString(reply)
        return {key: tensors.to_array(value, 2**30) for key, value in response.outputs.items()}

    @contextlib.contextmanager
    def _used(self, name: str) -> Iterator[LoadedVersion]:
        """Yields the stable version, so that a canary is not asked; the highest where there is no such label."""
        spec = requests.new_spec()
        spec.name, spec.version_label = name, STABLE
        with contextlib.ExitStack() as stack:
            try:
                version = stack.enter_context(self._calls.replica.use(spec))
            except StatusError as error:
                if error.code != "INVALID_ARGUMENT":
                    raise
                spec.ClearField("version_label")
                version = stack.enter_context(self._calls.replica.use(spec))
            yield version

    def activations(self, path: Path) -> Activations | None:
        return self._cache.of(path)


def describe(name: str, number: int, path: Path) -> list[dict[str, Any]]:
    """Returns a version's description for the page; nothing where it does not say its shape and classes."""
    dataset = read_dataset(path)
    if dataset is None:
        return []
    return [{"name": name, "version": number, **dataclasses.asdict(dataset)}]


def add(app: web.Application, models: Models) -> None:
    """Adds the page's routes to an application."""

    async def listed(request: web.Request) -> web.Response:
        return web.json_response(await asyncio.to_thread(models.list), headers=HEADERS)

    async def drawn(request: web.Request) -> web.Response:
        described = await _described(models, request.match_info["name"])
        return await answered(described, _image(await request.read(), described["shape"]))

    converting = asyncio.Semaphore(CONVERTED_AT_ONCE)

    async def opened(request: web.Request) -> web.Response:
        described = await _described(models, request.match_info["name"])
        if not described["resize"]:
            text = f"Version {described['version']} of {described['name']} is older than the signature {DECODE}."
            raise StatusError("FAILED_PRECONDITION", f"{text} Draw instead, or train it again.")
        try:
            async with converting:
                file = await asyncio.to_thread(as_png_or_jpeg, await request.read())
            image = await models.decode(described["name"], file)
        except PictureError as error:
            raise invalid_argument(f"expected {KINDS}, found {error}") from error
        except StatusError as error:
            raise StatusError(error.code, reason(error.message)) from error
        return await answered(described, image)

    async def answered(described: dict[str, Any], image: np.ndarray) -> web.Response:
        name = described["name"]
        started = time.perf_counter()
        number, path, outputs = await models.predict(name, image)
        reply = {
            "version": number,
            "milliseconds": 1e3 * (time.perf_counter() - started),
            "classes": described["classes"],
            "scores": outputs["scores"][0].astype(float).tolist(),
            "seen": base64.b64encode(image.tobytes()).decode(),
        }
        reply |= await asyncio.to_thread(_explained, models, path, image)
        return web.json_response(reply, headers=HEADERS)

    app.router.add_get("/page/models", listed)
    app.router.add_post("/page/models/{name}", drawn)
    app.router.add_post("/page/models/{name}/picture", opened)
    app.router.add_get("/", _file("index.html", "text/html"))
    app.router.add_get("/page/app.js", _file("app.js", "text/javascript"))
    app.router.add_get("/page/style.css", _file("style.css", "text/css"))


async def _described(models: Models, name: str) -> dict[str, Any]:
    for model in await asyncio.to_thread(models.list):
        if model["name"] == name:
            return model
    raise StatusError("NOT_FOUND", f"No model {name} with a shape and classes is served.")


def _explained(models: Models, path: Path, image: np.ndarray) -> dict[str, Any]:
    activations = models.activations(path)
    if activations is None:
        return {"kernels": None, "layers": []}
    try:
        maps = activations.maps(image)
    except RuntimeError:  # the version was unloaded meanwhile
        return {"kernels": None, "layers": []}
    layers = [
        {"name": layer.name} | _bytes(values.transpose(2, 0, 1))
        for layer, values in zip(activations.layers, maps, strict=True)
    ]
    kernels = None if activations.kernels is None else _bytes(activations.kernels.transpose(3, 0, 1, 2))
    return {"kernels": kernels, "layers": layers}


def _bytes(values: np.ndarray) -> dict[str, Any]:
    """Returns values as a shape and base64 bytes, the least as 0 and the greatest as 255."""
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) * (255 / (high - low) if high > low else 0)
    return {"shape": values.shape, "values": base64.b64encode(scaled.astype(np.uint8).tobytes()).decode()}


def _image(body: bytes, shape: list[int]) -> np.ndarray:
    if len(body) != math.prod(shape):
        raise invalid_argument(f"{len(body)} bytes are not a picture of {shape}, which has {math.prod(shape)}.")
    return np.frombuffer(body, np.uint8).reshape(shape)


def _file(name: str, kind: str) -> Callable[[web.Request], Any]:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=(FILES / name).read_bytes(), content_type=kind, charset="utf-8", headers=HEADERS)

    return handler
