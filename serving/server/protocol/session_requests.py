"""SessionRun: asks for tensors of a model's graph by their names.

What may be fed are the inputs of signatures, and what may be fetched or run lies between those and the outputs: nobody
can read weights, or run what saves or initialises the model. An intermediate tensor is a name of the graph, which a
model of TensorFlow 2 hides within functions.

Source: https://github.com/tensorflow/serving/blob/master/tensorflow_serving/apis/session_service.proto
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from tensorflow_serving.apis import session_service_pb2

from serving.server.protocol import tensors
from serving.server.protocol.errors import invalid_argument
from serving.server.protocol.requests import Limits, Loaded, PreparedRequest, Servable, effective_spec


@dataclasses.dataclass(frozen=True)
class PreparedSessionRun(PreparedRequest):
    """A checked SessionRunRequest.

    Attributes:
      feeds: values by the name of their tensor.
      fetches: names of the tensors that are wanted.
      targets: names of operations to run.
    """

    feeds: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    fetches: Sequence[str] = ()
    targets: Sequence[str] = ()

    def run(self, loaded: Loaded, _alone: bool = False) -> list[np.ndarray]:
        """Runs it on a loaded version; it is never batched."""
        return loaded.run_tensors(self.feeds, self.fetches, self.targets)


def prepare_session_run(
    request: session_service_pb2.SessionRunRequest, servable: Servable, limits: Limits
) -> PreparedSessionRun:
    """Checks a SessionRunRequest.

    Raises:
      StatusError: INVALID_ARGUMENT for tensors that cannot be read, are fed or asked for twice, and where none is asked
        for.
    """
    if not request.fetch and not request.target:
        raise invalid_argument("Must specify at least one target to fetch or execute.")
    feeds = {_tensor(fed.name): tensors.to_array(fed.tensor, limits.tensor_bytes) for fed in request.feed}
    fetches = [_tensor(name) for name in request.fetch]
    if len(feeds) < len(request.feed):
        raise invalid_argument("A tensor is fed more than once.")
    if len(set(fetches)) < len(fetches):
        raise invalid_argument("A tensor is fetched more than once.")

    def reply(values: Sequence[np.ndarray]) -> session_service_pb2.SessionRunResponse:
        response = session_service_pb2.SessionRunResponse(model_spec=effective_spec(servable, ""))
        for name, value in zip(request.fetch, values, strict=True):
            tensors.fill(response.tensor.add(name=name).tensor, value, limits.as_content)
        return response

    return PreparedSessionRun(
        "", list(feeds.values()), (), reply, "SessionRun", feeds=feeds, fetches=fetches, targets=list(request.target)
    )


def _tensor(name: str) -> str:
    """Returns a tensor's name with the number of its output, which may be left out where it is 0."""
    return name if ":" in name else f"{name}:0"
