"""The page in front of a server that has none: `python -m serving.server.page.remote GRPC SERVING HOST PORT`.

GRPC is the server's `host:port`, SERVING the folder of its models, HOST and PORT where the page is to be.
"""

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from aiohttp import web

from serving.client import Client, ServingError
from serving.server.endpoints import rest_api
from serving.server.page import routes
from serving.server.page.activations import Activations
from serving.server.protocol.errors import StatusError
from serving.signatures import DECODE

MAX_PICTURE_BYTES = 2**27  # as the embedded server has it


class Remote:
    """Answers of a server that is asked over gRPC; kernels and maps of the same version's own files."""

    def __init__(self, target: str, serving: Path) -> None:
        self._target, self._serving = target, serving
        self._clients: dict[str, Client] = {}
        self._cache = routes.ActivationCache()

    def list(self) -> list[dict[str, Any]]:
        found = []
        for base in sorted(path for path in self._serving.glob("*") if path.is_dir()):
            try:
                answering = [v.version for v in self._client(base.name).status() if v.state == "AVAILABLE"]
            except ServingError:
                continue
            for version in answering[:1]:
                found += routes.describe(base.name, version, base / str(version))
        return found

    async def decode(self, name: str, file: bytes) -> np.ndarray:
        inputs = {"image_bytes": np.array([file], dtype=object)}
        return (await self._asked(lambda: self._client(name).call(DECODE, inputs, ["images"])))["images"][0]

    async def predict(self, name: str, image: np.ndarray) -> tuple[int, Path, dict[str, np.ndarray]]:
        answer = await self._asked(lambda: self._client(name).predict(image[None]))
        version = answer.version or 0
        return version, self._serving / name / str(version), {"scores": answer.scores}

    async def _asked(self, call: Callable[[], Any]) -> Any:
        try:
            return await asyncio.to_thread(call)
        except ServingError as error:
            raise StatusError(error.code, error.message) from error

    def activations(self, path: Path) -> Activations | None:
        return self._cache.of(path)

    def _client(self, name: str) -> Client:
        if name not in self._clients:
            self._clients[name] = Client.stable(self._target, name, retries=0)
        return self._clients[name]


def main(target: str, serving: str, host: str, port: str) -> None:
    """Serves the page until it is stopped."""
    app = web.Application(client_max_size=MAX_PICTURE_BYTES, middlewares=[rest_api.failures_as_json])
    routes.add(app, Remote(target, Path(serving)))
    web.run_app(app, host=host, port=int(port), print=None, access_log=None)


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit("usage: python -m serving.server.page.remote GRPC SERVING HOST PORT")
    main(*sys.argv[1:])
