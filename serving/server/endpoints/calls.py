"""The calls of the protocol, for gRPC and REST alike: finds the version, checks the request, runs it, counts it."""

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from tensorflow_serving.apis import get_model_status_pb2, model_management_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving.server.endpoints.metrics import Metrics
from serving.server.models.batch_dispatcher import BatchDispatcher
from serving.server.models.manager import Manager
from serving.server.models.versions import State
from serving.server.protocol import example_requests, requests, session_requests
from serving.server.protocol.errors import StatusError, invalid_argument
from serving.server.protocol.requests import Limits, PreparedRequest, Servable
from serving.server.protocol.tensors import claimed_bytes
from serving.server.threads import beside_the_loop

Reply = TypeVar("Reply")


@dataclasses.dataclass
class Calls:
    """What a server answers with."""

    manager: Manager
    dispatcher: BatchDispatcher
    metrics: Metrics
    limits: Limits

    def __post_init__(self) -> None:
        self._rest_limits = dataclasses.replace(self.limits, as_content=True)  # its JSON is made of arrays

    async def predict(self, request: Any, entrypoint: str = "GRPC") -> Any:
        """Answers a PredictRequest.

        Raises:
          StatusError: as the real server would.
        """
        return await self._run("Predict", entrypoint, request, requests.prepare_predict, request.inputs.values())

    async def classify(self, request: Any, entrypoint: str = "GRPC") -> Any:
        """Answers a ClassificationRequest; see `predict`."""
        return await self._run("Classify", entrypoint, request, example_requests.prepare_classify)

    async def regress(self, request: Any, entrypoint: str = "GRPC") -> Any:
        """Answers a RegressionRequest; see `predict`."""
        return await self._run("Regress", entrypoint, request, example_requests.prepare_regress)

    async def session_run(self, request: Any) -> Any:
        """Answers a SessionRunRequest; see `predict`."""
        fed = (each.tensor for each in request.feed)
        return await self._run("SessionRun", "GRPC", request, session_requests.prepare_session_run, fed)

    async def multi_inference(self, request: Any) -> Any:
        """Answers a MultiInferenceRequest; see `predict`."""
        calls = {"classify": self.classify, "regress": self.regress}
        parts = [calls[kind](part) for kind, part in example_requests.split_multi(request)]
        return example_requests.join_multi(await asyncio.gather(*parts))

    async def metadata(self, request: Any) -> Any:
        """Answers a GetModelMetadataRequest.

        Raises:
          StatusError: as the real server would.
        """
        _require_spec(request)
        with self.manager.use(request.model_spec) as version:
            return requests.metadata(request, version.servable)

    async def status(self, request: Any) -> Any:
        """Answers a GetModelStatusRequest; see `metadata`."""
        _require_spec(request)
        response = get_model_status_pb2.GetModelStatusResponse()
        for version in self.manager.status(request.model_spec):
            entry = response.model_version_status.add(version=version.number, state=int(version.state))
            error = version.error if version.state in (State.END, State.LOADING) else None
            entry.status.error_code = error.grpc_code.value[0] if error else 0
            entry.status.error_message = error.message if error else ""
        return response

    async def reload(self, request: Any) -> Any:
        """Answers a ReloadConfigRequest, when its new models are loaded."""
        response = model_management_pb2.ReloadConfigResponse()
        config = model_server_config_pb2.ModelServerConfig()
        config.CopyFrom(request.config)
        if config.WhichOneof("config") != "model_config_list":
            raise invalid_argument(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. "
                "Only ModelConfigList is currently supported"
            )
        await self.manager.configure_soon(config)
        return response

    async def _run(
        self,
        api: str,
        entrypoint: str,
        request: Any,
        prepare: Callable[[Any, Servable, Limits], PreparedRequest],
        tensors: Iterable[Any] = (),
    ) -> Any:
        limits = self.limits if entrypoint == "GRPC" else self._rest_limits

        async def answer() -> Any:
            _require_spec(request)
            with self.manager.use(request.model_spec) as version:
                self.dispatcher.require_room()
                size = max(request.ByteSize(), sum(map(claimed_bytes, tensors)))
                prepared = await beside_the_loop(size, prepare, request, version.servable, limits)
                reply = await self.dispatcher.run(version, prepared)
            if prepared.examples:
                self.metrics.examples(version.model, prepared.examples)
            return reply

        return await self._counted(api, entrypoint, request.model_spec.name, answer())

    async def _counted(self, api: str, entrypoint: str, model: str, answer: Awaitable[Reply]) -> Reply:
        started, status = time.perf_counter(), "INTERNAL"
        try:
            reply = await answer
            status = "OK"
            return reply
        except StatusError as error:
            status = error.code
            raise
        except asyncio.CancelledError:
            status = "CANCELLED"
            raise
        finally:
            self.metrics.request(model, api, entrypoint, status, time.perf_counter() - started)


def _require_spec(request: Any) -> None:
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
