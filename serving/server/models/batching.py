"""Batches across requests with TensorFlow's own scheduler, as TensorFlow Serving's BatchingSession does.

A signature's part of the graph that depends on its inputs becomes the body of a `BatchFunction` op in the same graph
and session; what does not depend on them (variables, tables) is captured from outside. The op joins the inputs of the
calls that wait, runs the body once, and hands each call its rows.

Source: https://github.com/tensorflow/serving/blob/master/tensorflow_serving/batching/README.md
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import graph_pb2
from tensorflow.python.framework import ops
from tensorflow.python.ops import gen_batch_ops

from serving.server.protocol import config_files
from serving.server.protocol.errors import StatusError, invalid_argument


@dataclasses.dataclass(frozen=True)
class BatchingParameters:
    """The real server's batching parameters, with its defaults.

    Attributes:
      max_batch_size: the most rows in a batch.
      batch_timeout_micros: how long a batch waits to fill, microseconds.
      max_enqueued_batches: how many batches may wait; a call beyond them is answered with UNAVAILABLE.
      num_batch_threads: how many batches run at once.
      allowed_batch_sizes: sizes that batches are padded to; the last must be `max_batch_size`. Empty for no padding.
      enable_large_batch_splitting: whether a call of more than `max_batch_size` rows is split, or refused.
      max_execution_batch_size: the most rows that are run at once, where calls are split; 0 for `max_batch_size`.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = len(os.sched_getaffinity(0))
    allowed_batch_sizes: tuple[int, ...] = ()
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int = 0

    @property
    def largest(self) -> int:
        """The most rows that are run at once."""
        return (self.enable_large_batch_splitting and self.max_execution_batch_size) or self.max_batch_size

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes that batches are padded to, as `BatchFunction` takes them: it knows the largest batch from them."""
        if self.allowed_batch_sizes or self.largest == self.max_batch_size:
            return self.allowed_batch_sizes
        return tuple(range(1, self.largest + 1))

    @classmethod
    def read(cls, path: Path) -> "BatchingParameters":
        """Reads a BatchingParameters text proto.

        Raises:
          StatusError: INVALID_ARGUMENT, where the file is not one, or its values contradict each other.
        """
        message = config_files.read(path, "BatchingParameters")
        given = {
            field.name: getattr(message, field.name).value
            for field in message.DESCRIPTOR.fields
            if field.message_type and message.HasField(field.name) and field.name in cls.__dataclass_fields__
        }
        parameters = cls(allowed_batch_sizes=tuple(message.allowed_batch_sizes), **given)
        positive = ("max_batch_size", "num_batch_threads", "max_enqueued_batches", "max_execution_batch_size")
        for name in positive:
            if given.get(name, 1) < 1:
                raise invalid_argument(f"{path}: {name} must be at least 1; it is {given[name]}.")
        sizes, largest = parameters.allowed_batch_sizes, parameters.largest
        if largest > parameters.max_batch_size:
            raise invalid_argument(f"{path}: max_execution_batch_size {largest} is above max_batch_size.")
        if sizes and (list(sizes) != sorted(set(sizes)) or sizes[-1] != largest):
            name = "max_batch_size" if largest == parameters.max_batch_size else "max_execution_batch_size"
            raise invalid_argument(
                f"{path}: allowed_batch_sizes must rise and end with {name}, {largest}; they are {list(sizes)}."
            )
        return parameters


def batched(
    graph: tf.Graph, signature: Any, name: str, parameters: BatchingParameters
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Adds a batched twin of a signature to its graph.

    Args:
      graph: the loaded graph.
      signature: the SignatureDef.
      name: the signature's name, which names the queue.
      parameters: sizes, waiting time and threads.

    Returns:
      New placeholders in the order of the signature's inputs sorted by name, and outputs likewise.

    Raises:
      StatusError: UNIMPLEMENTED, where the signature cannot be batched: an input without a batch dimension, or state
        (such as TensorFlow 1's reference tables) that cannot be captured.
    """
    inputs = [graph.get_tensor_by_name(signature.inputs[key].name) for key in sorted(signature.inputs)]
    outputs = [graph.get_tensor_by_name(signature.outputs[key].name) for key in sorted(signature.outputs)]
    for tensor in [*inputs, *outputs]:
        if tensor.shape.rank == 0 or (tensor.shape.rank and tensor.shape[0] is not None):
            raise StatusError("UNIMPLEMENTED", f"{tensor.name} has no variable first dimension to batch along.")
    inside = _dependents(inputs)
    definition, captured = _body(graph, inside, [tensor.op for tensor in inputs])
    with graph.as_default(), tf.device(None):
        placeholders = [tf.compat.v1.placeholder(tensor.dtype, tensor.shape) for tensor in inputs]

        @tf.function(autograph=False)
        def compute(*rows: tf.Tensor) -> list[tf.Tensor]:
            own = ops.get_default_graph()
            mapped = {tensor.name: row for tensor, row in zip(inputs, rows, strict=True)}
            mapped |= {tensor.name: own.capture(tensor) for tensor in captured}
            return tf.import_graph_def(definition, mapped, [tensor.name for tensor in outputs], name="")

        function = compute.get_concrete_function(*(tf.TensorSpec(t.shape, t.dtype) for t in inputs))
        replies = gen_batch_ops.batch_function(
            in_tensors=placeholders,
            captured_tensors=function.captured_inputs,
            f=function,
            Tout=[tensor.dtype for tensor in outputs],
            num_batch_threads=parameters.num_batch_threads,
            max_batch_size=parameters.max_batch_size,
            batch_timeout_micros=parameters.batch_timeout_micros,
            max_enqueued_batches=parameters.max_enqueued_batches,
            allowed_batch_sizes=list(parameters.sizes),
            enable_large_batch_splitting=parameters.enable_large_batch_splitting,
            shared_name=name,
            batching_queue=name,
        )
    return placeholders, list(replies)


def _dependents(inputs: list[tf.Tensor]) -> set[tf.Operation]:
    """Returns the operations that depend on any input, without the inputs' own."""
    found: set[tf.Operation] = set()
    waiting = [consumer for tensor in inputs for consumer in tensor.consumers()]
    while waiting:
        operation = waiting.pop()
        if operation not in found:
            found.add(operation)
            waiting += [consumer for tensor in operation.outputs for consumer in tensor.consumers()]
    return found


def _body(
    graph: tf.Graph, inside: set[tf.Operation], sources: list[tf.Operation]
) -> tuple[graph_pb2.GraphDef, list[tf.Tensor]]:
    """Returns the graph of some operations and of the constants they use, and the other tensors they take."""
    taken = {tensor for operation in inside for tensor in operation.inputs if tensor.op not in inside}
    constants = {tensor.op for tensor in taken if tensor.op.type == "Const"}
    captured = [tensor for tensor in taken if tensor.op not in constants and tensor.op not in sources]
    references = [tensor.name for tensor in captured if tensor.dtype._is_ref_dtype]
    if references:
        raise StatusError("UNIMPLEMENTED", f"{', '.join(sorted(references))} cannot be captured.")
    names = {operation.name for operation in inside | constants}
    whole = graph.as_graph_def()
    definition = graph_pb2.GraphDef(library=whole.library, versions=whole.versions)
    for node in whole.node:
        if node.name in names:
            kept = definition.node.add()
            kept.CopyFrom(node)
            controls = [name for name in kept.input if name.startswith("^") and name[1:] not in names]
            for name in controls:  # what these wait for was done when the model was loaded
                kept.input.remove(name)
    return definition, captured
