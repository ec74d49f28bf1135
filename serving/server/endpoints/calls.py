"""The calls of the protocol, for gRPC and REST alike: finds the version, checks the request, runs it, counts it."""

import asyncio
import dataclasses
import time
from collections.abc import Callable
from typing import Any, Protocol

from tensorflow_serving.apis import get_model_status_pb2, model_management_pb2, model_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving.server.endpoints.metrics import Metrics
from serving.server.models.batch_dispatcher import BatchDispatcher
from serving.server.models.replica import Replica
from serving.server.models.versions import State, Version
from serving.server.protocol import example_requests, requests, session_requests
from serving.server.protocol.errors import StatusError, invalid_argument
from serving.server.protocol.requests import Limits, PreparedRequest, Servable
from serving.server.protocol.tensors import TooLarge, size_of
from serving.server.threads import LARGE, beside_the_loop


class Control(Protocol):
    """What is asked of the server as a whole, which may be several processes."""

    async def status(self, spec: model_pb2.ModelSpec) -> list[Version]:
        """Returns what is known of a model's versions, the newest first; see `Manager.status`."""

    async def configure(self, config: model_server_config_pb2.ModelServerConfig) -> None:
        """Takes a ModelServerConfig, and waits until its new models are loaded; see `Manager.configure`."""

    async def metrics(self) -> str:
        """Returns the counts of all processes, in Prometheus' text format."""


@dataclasses.dataclass
class Calls:
    """What a server answers with.

    Attributes:
      replica: what this process has loaded.
      dispatcher: what runs it.
      metrics: where this process counts.
      control: of the whole server.
      limits: of what is taken.
    """

    replica: Replica
    dispatcher: BatchDispatcher
    metrics: Metrics
    control: Control
    limits: Limits

    def __post_init__(self) -> None:
        # What a request claims to be larger is prepared again, beside the event loop.
        self._small = dataclasses.replace(self.limits, tensor_bytes=LARGE)

    async def predict(self, request: Any, size: int) -> bytes:
        """Answers a PredictRequest.

        Args:
          request: the request.
          size: its bytes.

        Returns:
          The reply, serialized.

        Raises:
          StatusError: as the real server would.
        """
        return await self.run("Predict", "GRPC", _spec(request), request, size, requests.prepare_predict)

    async def classify(self, request: Any, size: int) -> Any:
        """Answers a ClassificationRequest; see `predict`."""
        return await self.run("Classify", "GRPC", _spec(request), request, size, example_requests.prepare_classify)

    async def regress(self, request: Any, size: int) -> Any:
        """Answers a RegressionRequest; see `predict`."""
        return await self.run("Regress", "GRPC", _spec(request), request, size, example_requests.prepare_regress)

    async def session_run(self, request: Any, size: int) -> Any:
        """Answers a SessionRunRequest; see `predict`."""
        return await self.run("SessionRun", "GRPC", _spec(request), request, size, session_requests.prepare_session_run)

    async def multi_inference(self, request: Any, size: int) -> Any:
        """Answers a MultiInferenceRequest; see `predict`."""
        calls = {"classify": self.classify, "regress": self.regress}
        # Each task takes the input anew: there are no more of them than signatures, which are not asked for twice.
        for task in request.tasks:
            with self.replica.use(task.model_spec) as version:
                example_requests.require_signature(task.model_spec, version.servable)
        parts = [calls[kind](part, size) for kind, part in example_requests.split_multi(request)]
        return example_requests.join_multi(await asyncio.gather(*parts))

    async def metadata(self, request: Any, _size: int = 0) -> Any:
        """Answers a GetModelMetadataRequest.

        Raises:
          StatusError: as the real server would.
        """
        with self.replica.use(_required(_spec(request))) as version:
            return requests.metadata(request, version.servable)

    async def status(self, request: Any, _size: int = 0) -> Any:
        """Answers a GetModelStatusRequest; see `metadata`."""
        response = get_model_status_pb2.GetModelStatusResponse()
        for version in await self.control.status(_required(_spec(request))):
            entry = response.model_version_status.add(version=version.number, state=int(version.state))
            error = version.error if version.state in (State.END, State.LOADING) else None
            entry.status.error_code = error.grpc_code.value[0] if error else 0
            entry.status.error_message = error.message if error else ""
        return response

    async def reload(self, request: Any, _size: int = 0) -> Any:
        """Answers a ReloadConfigRequest, when its new models are loaded."""
        response = model_management_pb2.ReloadConfigResponse()
        config = model_server_config_pb2.ModelServerConfig()
        config.CopyFrom(request.config)
        if config.WhichOneof("config") != "model_config_list":
            raise invalid_argument(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. "
                "Only ModelConfigList is currently supported"
            )
        await self.control.configure(config)
        return response

    async def run(
        self,
        api: str,
        entrypoint: str,
        spec: model_pb2.ModelSpec | None,
        request: Any,
        size: int,
        prepare: Callable[[Any, Servable, Limits], PreparedRequest],
    ) -> Any:
        """Finds the version that a request asks for, checks the request against it, runs it, and counts it.

        Args:
          api: `Predict` and the like.
          entrypoint: `GRPC` or `REST`.
          spec: which version it asks for.
          request: the request, in whatever form `prepare` takes it.
          size: its bytes.
          prepare: checks it.

        Returns:
          What the prepared request makes of the outputs.

        Raises:
          StatusError: as the real server would.
        """
        started, status = time.perf_counter(), "INTERNAL"
        try:
            with self.replica.use(_required(spec)) as version:
                self.dispatcher.require_room()
                prepared = await self._prepared(prepare, request, size, version.servable)
                outputs = await self.dispatcher.run(version, prepared, size)
            reply = await beside_the_loop(sum(map(size_of, outputs)), prepared.reply, outputs)
            if prepared.examples:
                self.metrics.examples(version.model, prepared.examples)
            status = "OK"
            return reply
        except StatusError as error:
            status = error.code
            raise
        except asyncio.CancelledError:
            status = "CANCELLED"
            raise
        finally:
            name = spec.name if spec else ""
            self.metrics.request(name, api, entrypoint, status, time.perf_counter() - started)

    async def _prepared(
        self, prepare: Callable[[Any, Servable, Limits], PreparedRequest], request: Any, size: int, servable: Servable
    ) -> PreparedRequest:
        if size <= LARGE:
            try:
                return prepare(request, servable, self._small)
            except TooLarge:
                pass
        return await asyncio.to_thread(prepare, request, servable, self.limits)


def _spec(request: Any) -> model_pb2.ModelSpec | None:
    return request.model_spec if request.HasField("model_spec") else None


def _required(spec: model_pb2.ModelSpec | None) -> model_pb2.ModelSpec:
    if spec is None:
        raise invalid_argument("Missing ModelSpec")
    return spec
