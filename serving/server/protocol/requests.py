"""What each call of the protocol does: checks a request against a signature, and makes the reply of the outputs.

Codes and messages are the real server's. Each call has three steps, so that warm-up can run the same code as a request:
`prepare_*` returns a `PreparedRequest`, whoever has it runs it, and its `reply` makes the reply of the outputs.

Source: https://github.com/tensorflow/serving/tree/master/tensorflow_serving/servables/tensorflow
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
from google.protobuf import any_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    model_pb2,
    predict_pb2,
)

from serving.server.protocol import tensors, wire
from serving.server.protocol.errors import StatusError, invalid_argument

DEFAULT_SIGNATURE = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
SIGNATURE_DEF = "signature_def"
_MODEL_SPEC, _OUTPUTS = (
    predict_pb2.PredictResponse.DESCRIPTOR.fields_by_name[name].number for name in ("model_spec", "outputs")
)
METHODS = (
    tf.saved_model.PREDICT_METHOD_NAME,
    tf.saved_model.CLASSIFY_METHOD_NAME,
    tf.saved_model.REGRESS_METHOD_NAME,
)


@dataclasses.dataclass(frozen=True)
class SignaturePlan:
    """What a request to a signature is checked against, in the order that it is run in.

    Attributes:
      inputs: the inputs' names, sorted, and the number of each one's type.
      outputs: the outputs' names, sorted.
      feeds: the inputs' tensors, in that order.
      fetches: each output's tensor.
      has_rows: whether the first dimension of every input and output is open, so that it may be one of rows.
    """

    inputs: dict[str, int]
    outputs: tuple[str, ...]
    feeds: tuple[str, ...]
    fetches: dict[str, str]
    has_rows: bool

    @classmethod
    def of(cls, signature: meta_graph_pb2.SignatureDef) -> "SignaturePlan":
        """Returns a SignatureDef's plan."""
        inputs, outputs = sorted(signature.inputs), sorted(signature.outputs)
        shapes = [info.tensor_shape for info in (*signature.inputs.values(), *signature.outputs.values())]
        return cls(
            {name: signature.inputs[name].dtype for name in inputs},
            tuple(outputs),
            tuple(signature.inputs[name].name for name in inputs),
            {name: signature.outputs[name].name for name in outputs},
            bool(inputs) and all(shape.unknown_rank or (shape.dim and shape.dim[0].size == -1) for shape in shapes),
        )


@dataclasses.dataclass(frozen=True)
class Servable:
    """A loaded version, as far as a request is checked against it.

    Attributes:
      model: the model's name.
      number: the version's number.
      signatures: SignatureDef by name.
      plans: the same for the checks of every request.
    """

    model: str
    number: int
    signatures: Mapping[str, meta_graph_pb2.SignatureDef]
    plans: Mapping[str, SignaturePlan]


class Loaded(Protocol):
    """What a checked request is run on."""

    def run(self, name: str, inputs: Sequence[np.ndarray], outputs: Sequence[str] = ()) -> list[np.ndarray]:
        """Runs a signature."""

    def run_tensors(self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]) -> list[np.ndarray]:
        """Runs tensors of the graph by their names."""


@dataclasses.dataclass(frozen=True)
class PreparedRequest:
    """A checked request.

    Attributes:
      signature: the signature's name.
      inputs: in the order of the signature's inputs sorted by name.
      outputs: names of the outputs that are wanted, sorted.
      reply: makes the reply of them: bytes as they are sent, or a message.
      api: `Predict`, `Classify` or `Regress`.
      examples: how many tf.Examples it carries; 0 for tensors.
    """

    signature: str
    inputs: Sequence[np.ndarray]
    outputs: Sequence[str]
    reply: Callable[[Sequence[np.ndarray]], Any]
    api: str = "Predict"
    examples: int = 0

    def run(self, loaded: Loaded) -> list[np.ndarray]:
        """Runs it on a loaded version."""
        return loaded.run(self.signature, self.inputs, self.outputs)


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the server takes and how it answers.

    Attributes:
      tensor_bytes: the most bytes of a request's tensor.
      as_content: whether replies carry numbers as `tensor_content`.
      checks_methods: whether a signature must have been exported for the call that asks it. TensorFlow 2 exports all
        for Predict.
    """

    tensor_bytes: int = 2**27
    as_content: bool = False
    checks_methods: bool = False


def new_spec() -> model_pb2.ModelSpec:
    """Returns an empty ModelSpec."""
    return model_pb2.ModelSpec()


def effective_spec(servable: Servable, signature: str) -> model_pb2.ModelSpec:
    """Returns the ModelSpec of a reply: what was really asked."""
    return _spec(servable.model, servable.number, signature)


def _spec(model: str, number: int, signature: str) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=model, signature_name=signature)
    spec.version.value = number
    return spec


@functools.lru_cache(maxsize=1024)
def _spec_field(model: str, number: int, signature: str) -> bytes:
    """Returns the field of a PredictResponse that `effective_spec` is in."""
    return wire.field(_MODEL_SPEC, _spec(model, number, signature).SerializeToString())


def prepare_predict(request: predict_pb2.PredictRequest, servable: Servable, limits: Limits) -> PreparedRequest:
    """Checks a PredictRequest; the reply is a serialized PredictResponse.

    Raises:
      StatusError: FAILED_PRECONDITION for an unknown signature; INVALID_ARGUMENT for inputs that are missing, extra or
        of another type, and for outputs that are unknown or asked for twice.
    """
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    plan = servable.plans.get(name)
    if plan is None:
        raise StatusError("FAILED_PRECONDITION", f'Serving signature key "{name}" not found.')
    check_method(servable, name, limits)
    given_inputs = dict(request.inputs)
    _check_names(plan, given_inputs)
    inputs = []
    for index, (key, expected) in enumerate(plan.inputs.items()):
        given = given_inputs[key]
        if given.dtype != expected:
            raise invalid_argument(
                f"Expects arg[{index}] to be {tensors.type_name(expected)} "
                f"but {tensors.type_name(given.dtype)} is provided"
            )
        inputs.append(tensors.to_array(given, limits.tensor_bytes))
    outputs = _filtered(plan, request.output_filter)

    def reply(values: Sequence[np.ndarray]) -> bytes:
        parts = [_spec_field(servable.model, servable.number, name)]
        for key, value in zip(outputs, values, strict=True):
            tensor = wire.field(2, tensors.serialized(value, limits.as_content))
            parts.append(wire.field(_OUTPUTS, wire.field(1, key.encode()) + tensor))  # an entry of a map: key, value
        return b"".join(parts)

    return PreparedRequest(name, inputs, outputs, reply)


def check_method(servable: Servable, name: str, limits: Limits) -> None:
    """Refuses a signature that was not exported to be predicted with, where that is asked for.

    Raises:
      StatusError: INTERNAL.
    """
    if limits.checks_methods and (method := servable.signatures[name].method_name) not in METHODS:
        raise StatusError(
            "INTERNAL",
            f"Expected prediction signature method_name to be one of {{{', '.join(METHODS)}}}. Was: {method}",
        )


def metadata(
    request: get_model_metadata_pb2.GetModelMetadataRequest, servable: Servable
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """Returns the signatures of a version.

    Raises:
      StatusError: INVALID_ARGUMENT for no metadata field, or another than `signature_def`.
    """
    if not request.metadata_field:
        raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
    for field in request.metadata_field:
        if field != SIGNATURE_DEF:
            raise invalid_argument(f"Metadata field {field} is not supported")
    response = get_model_metadata_pb2.GetModelMetadataResponse(model_spec=effective_spec(servable, ""))
    map_of = get_model_metadata_pb2.SignatureDefMap()
    for name, signature in servable.signatures.items():
        map_of.signature_def[name].CopyFrom(signature)
    packed = any_pb2.Any()
    packed.Pack(map_of)
    response.metadata[SIGNATURE_DEF].CopyFrom(packed)
    return response


def _check_names(plan: SignaturePlan, given: Mapping[str, Any]) -> None:
    if given.keys() == plan.inputs.keys():
        return
    sent, required = set(given), set(plan.inputs)
    if len(sent) == len(required):
        missing = min(required - sent)
        raise invalid_argument(
            f"tensor not found in request: {missing}. Inputs expected to be in the set "
            f"{{{','.join(sorted(required))}}}. Sent extra: {{{','.join(sorted(sent - required))}}}. "
            f"Missing but required: {{{','.join(sorted(required - sent))}}}."
        )
    raise invalid_argument(
        f"input size does not match signature: {len(sent)}!={len(required)} len({{{','.join(sorted(sent))}}}) != "
        f"len({{{','.join(sorted(required))}}}). Sent extra: {{{','.join(sorted(sent - required))}}}. "
        f"Missing but required: {{{','.join(sorted(required - sent))}}}."
    )


def _filtered(plan: SignaturePlan, wanted: Sequence[str]) -> Sequence[str]:
    if not wanted:
        return plan.outputs
    for alias in wanted:
        if alias not in plan.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set "
                f"{{{','.join(plan.outputs)}}}."
            )
    if len(set(wanted)) < len(wanted):
        twice = next(alias for index, alias in enumerate(wanted) if alias in wanted[:index])
        raise invalid_argument(f"duplicate output tensor alias: {twice}")
    return sorted(wanted)
