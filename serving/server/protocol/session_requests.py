"""SessionRun: asks for tensors of a model's graph by their names.

What may be fed are the inputs of signatures, and what may be fetched are their outputs, by the names that
GetModelMetadata gives: nobody can read weights, or run what saves or initialises the model.

Source: https://github.com/tensorflow/serving/blob/master/tensorflow_serving/apis/session_service.proto
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from tensorflow_serving.apis import session_service_pb2

from serving.server.protocol import tensors
from serving.server.protocol.errors import StatusError, invalid_argument
from serving.server.protocol.requests import Limits, Loaded, PreparedRequest, Servable, effective_spec


@dataclasses.dataclass(frozen=True)
class PreparedSessionRun(PreparedRequest):
    """A checked SessionRunRequest.

    Attributes:
      feeds: values by the name of their tensor.
      fetches: names of the tensors that are wanted.
    """

    feeds: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    fetches: Sequence[str] = ()

    def run(self, loaded: Loaded) -> list[np.ndarray]:
        """Runs it on a loaded version; it is never batched."""
        return loaded.run_tensors(self.feeds, self.fetches)


def prepare_session_run(
    request: session_service_pb2.SessionRunRequest, servable: Servable, limits: Limits
) -> PreparedSessionRun:
    """Checks a SessionRunRequest: names and types, before any value is read.

    Raises:
      StatusError: NOT_FOUND for tensors that are no inputs or outputs of signatures, and for operations to run;
        INVALID_ARGUMENT for tensors that cannot be read, have another type, or are fed or asked for twice, and where
        none is asked for.
    """
    types: dict[str, int] = {}
    outputs: set[str] = set()
    for plan in servable.plans.values():
        types |= zip(plan.feeds, plan.inputs.values(), strict=True)
        outputs |= set(plan.fetches.values())
    fetches, feeds = list(map(_tensor, request.fetch)), [_tensor(fed.name) for fed in request.feed]
    if not fetches:
        raise invalid_argument("Must specify at least one tensor to fetch.")
    for name, wrong, known in (("fed", feeds, types.keys()), ("fetched", fetches, outputs)):
        if unknown := next((tensor for tensor in wrong if tensor not in known), None):
            what = "FeedInputs: unable to find feed output" if name == "fed" else "FetchOutputs node not found:"
            raise StatusError("NOT_FOUND", f"{what} {unknown}")
        if len(set(wrong)) < len(wrong):
            raise invalid_argument(f"A tensor is {name} more than once.")
    if request.target:
        raise StatusError("NOT_FOUND", f"TargetNodes node {request.target[0]}: not found")
    for name, fed in zip(feeds, request.feed, strict=True):
        if fed.tensor.dtype != types[name]:
            wanted, given = tensors.type_name(types[name]), tensors.type_name(fed.tensor.dtype)
            raise invalid_argument(f"{name} expects {wanted} but {given} is provided")
    values = [tensors.to_array(fed.tensor, limits.tensor_bytes) for fed in request.feed]

    def reply(found: Sequence[np.ndarray]) -> session_service_pb2.SessionRunResponse:
        response = session_service_pb2.SessionRunResponse(model_spec=effective_spec(servable, ""))
        for name, value in zip(request.fetch, found, strict=True):
            response.tensor.add(name=name).tensor.ParseFromString(tensors.serialized(value, limits.as_content))
        return response

    named = dict(zip(feeds, values, strict=True))
    return PreparedSessionRun("", values, (), reply, "SessionRun", feeds=named, fetches=fetches)


def _tensor(name: str) -> str:
    """Returns a tensor's name with the number of its output, which may be left out where it is 0."""
    return name if ":" in name else f"{name}:0"
