"""Calls that take tf.Examples: Classify, Regress and MultiInference.

Codes and messages are the real server's; see `requests` for the steps of a call.

Source: https://github.com/tensorflow/serving/tree/master/tensorflow_serving/servables/tensorflow
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import classification_pb2, inference_pb2, input_pb2, model_pb2, regression_pb2

from serving.server.protocol.errors import StatusError, invalid_argument
from serving.server.protocol.requests import DEFAULT_SIGNATURE, Limits, PreparedRequest, Servable, effective_spec

CLASSIFY, REGRESS = tf.saved_model.CLASSIFY_METHOD_NAME, tf.saved_model.REGRESS_METHOD_NAME


def prepare_classify(
    request: classification_pb2.ClassificationRequest, servable: Servable, limits: Limits
) -> PreparedRequest:
    """Checks a ClassificationRequest.

    Raises:
      StatusError: INVALID_ARGUMENT or FAILED_PRECONDITION, where the signature is not one of classification.
    """
    name, signature = _example_signature(request.model_spec, servable, limits, CLASSIFY, "classification")
    if not 1 <= len(signature.outputs) <= 2:
        raise invalid_argument(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    outputs = sorted({"classes", "scores"} & set(signature.outputs))
    if not outputs:
        raise StatusError(
            "FAILED_PRECONDITION",
            'Expected classification signature outputs to contain at least one of "classes" or "scores". '
            f"Signature was: {signature}",
        )
    rows = _examples(request.input)

    def reply(values: Sequence[np.ndarray]) -> classification_pb2.ClassificationResponse:
        response = classification_pb2.ClassificationResponse(model_spec=effective_spec(servable, name))
        by_name = dict(zip(outputs, values, strict=True))
        for key, kind, label in (("classes", "OSU", "DT_STRING"), ("scores", "f", "DT_FLOAT")):
            if key in by_name:
                _check_rows(by_name[key], len(rows), key, kind, label)
        columns = {value.shape[1] for value in values}
        if len(columns) > 1:
            raise invalid_argument("Tensors class and score should match in dim_size(1).")
        for row in range(len(rows)):
            classes = response.result.classifications.add().classes
            for column in range(*columns):
                entry = classes.add()
                if "classes" in by_name:
                    entry.label = tf.compat.as_text(by_name["classes"][row, column])
                if "scores" in by_name:
                    entry.score = by_name["scores"][row, column]
        return response

    return PreparedRequest(name, [rows], outputs, reply, "Classify", len(rows))


def prepare_regress(request: regression_pb2.RegressionRequest, servable: Servable, limits: Limits) -> PreparedRequest:
    """Checks a RegressionRequest.

    Raises:
      StatusError: INVALID_ARGUMENT or FAILED_PRECONDITION, where the signature is not one of regression.
    """
    name, signature = _example_signature(request.model_spec, servable, limits, REGRESS, "regression")
    if len(signature.outputs) != 1:
        raise invalid_argument("Expected one output Tensor.")
    if "outputs" not in signature.outputs:
        raise StatusError("FAILED_PRECONDITION", f"No regression outputs found in SignatureDef: {signature}")
    rows = _examples(request.input)

    def reply(values: Sequence[np.ndarray]) -> regression_pb2.RegressionResponse:
        response = regression_pb2.RegressionResponse(model_spec=effective_spec(servable, name))
        value = values[0]
        if value.shape not in ((len(rows),), (len(rows), 1)):
            raise invalid_argument(
                f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {list(value.shape)}"
            )
        if value.dtype != np.float32:
            raise invalid_argument(f"Expected output Tensor of DT_FLOAT.  Got: {value.dtype}")
        for item in value.ravel().tolist():
            response.result.regressions.add().value = item
        return response

    return PreparedRequest(name, [rows], ["outputs"], reply, "Regress", len(rows))


def split_multi(request: inference_pb2.MultiInferenceRequest) -> list[tuple[str, Any]]:
    """Returns the requests of a MultiInferenceRequest's tasks: `classify` or `regress`, and the request of it.

    Raises:
      StatusError: INVALID_ARGUMENT for other methods, another model, or the same signature twice.
    """
    if not request.tasks:
        raise invalid_argument("Inference request should have at least one task.")
    parts: list[tuple[str, Any]] = []
    names, signatures = {task.model_spec.name for task in request.tasks}, set()
    for task in request.tasks:
        if not task.model_spec.name:
            raise invalid_argument("Found ModelSpec with an empty model name.")
        if len(names) > 1:
            raise invalid_argument("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
        signature = task.model_spec.signature_name or DEFAULT_SIGNATURE
        if signature in signatures:
            raise invalid_argument(f"Duplicate evaluation of signature: {signature}")
        signatures.add(signature)
        if task.method_name == CLASSIFY:
            kind, part = "classify", classification_pb2.ClassificationRequest
        elif task.method_name == REGRESS:
            kind, part = "regress", regression_pb2.RegressionRequest
        else:
            raise StatusError("UNIMPLEMENTED", f"Unsupported signature method_name: {task.method_name}")
        parts.append((kind, part(model_spec=task.model_spec, input=request.input)))
    return parts


def join_multi(responses: Sequence[Any]) -> inference_pb2.MultiInferenceResponse:
    """Returns one reply of the tasks' replies."""
    joined = inference_pb2.MultiInferenceResponse()
    for response in responses:
        result = joined.results.add(model_spec=response.model_spec)
        if isinstance(response, classification_pb2.ClassificationResponse):
            result.classification_result.CopyFrom(response.result)
        else:
            result.regression_result.CopyFrom(response.result)
    return joined


def require_signature(spec: model_pb2.ModelSpec, servable: Servable) -> str:
    """Returns the name of the signature that is asked for.

    Raises:
      StatusError: INVALID_ARGUMENT, where there is none of that name.
    """
    name = spec.signature_name or DEFAULT_SIGNATURE
    if name not in servable.plans:
        raise invalid_argument(f"No signature was found with the name: {name}")
    return name


def _example_signature(
    spec: model_pb2.ModelSpec, servable: Servable, limits: Limits, method: str, kind: str
) -> tuple[str, meta_graph_pb2.SignatureDef]:
    name = require_signature(spec, servable)
    signature = servable.signatures[name]
    if limits.checks_methods and signature.method_name != method:
        raise invalid_argument(f"Expected {kind} signature method_name to be {method}. Was: {signature.method_name}")
    if len(signature.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")
    if "inputs" not in signature.inputs:
        raise StatusError("FAILED_PRECONDITION", f"No {kind} inputs found in SignatureDef: {signature}")
    return name, signature


def _examples(given: input_pb2.Input) -> np.ndarray:
    """Returns serialized tf.Examples, each with the context's features: bytes [N]."""
    kind = given.WhichOneof("kind")
    if kind == "example_list":
        rows = [example.SerializeToString() for example in given.example_list.examples]
    elif kind == "example_list_with_context":
        both = given.example_list_with_context
        # Of two features with one name the later wins when they are parsed: the example's own.
        context = both.context.SerializeToString()
        rows = [context + example.SerializeToString() for example in both.examples]
    else:
        rows = []
    if not rows:
        raise invalid_argument("Input is empty.")
    return np.array(rows, dtype=object)


def _check_rows(value: np.ndarray, rows: int, key: str, kind: str, label: str) -> None:
    if value.ndim != 2:
        raise invalid_argument(f"Expected Tensor shape: [batch_size num_classes] but got {list(value.shape)}")
    if value.dtype.kind not in kind:
        raise invalid_argument(f"Expected {key} Tensor of {label}. Got: {value.dtype}")
    if len(value) != rows:
        raise invalid_argument(f"Expected {key} output batch size of {rows}. Got: {len(value)}")
