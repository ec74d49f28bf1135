"""What makes two exports the same model: the signatures and what they compute, the weights, and the assets.

The files of two exports of one model differ: in a random number, and in names that count what the process made before.
So the computation is digested without names, each operation as its kind, its attributes and the digests of its inputs.
"""

import functools
import graphlib
import hashlib
import operator
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from conveyor.files import tree_digest

SAVED_MODEL, FINGERPRINT = "saved_model.pb", "fingerprint.pb"
_FUNCTIONS = operator.attrgetter("library.function")  # of a GraphDef
_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"  # how the exporting program held the weights
_NO_COMPUTATION = ("shared_name", "container", "config_proto", "executor_type")


def model_identity(folder: Path) -> str:
    """Returns 64 hexadecimal digits that are the same for every export of the same model.

    Args:
      folder: a SavedModel. One that the trainer did not write, or that cannot be read, is what its files are.
    """
    if not (folder / FINGERPRINT).exists():
        return tree_digest(folder)
    import tensorflow as tf  # seconds, which a look at labels need not wait for
    from tensorflow.core.protobuf import saved_model_pb2

    digest = hashlib.sha256()
    try:
        saved = saved_model_pb2.SavedModel()
        saved.ParseFromString((folder / SAVED_MODEL).read_bytes())
        for graph in saved.meta_graphs:
            digest.update(_Computation(graph).digest().encode())
        weights = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
        for name in sorted(weights.get_variable_to_shape_map()):
            if name != _OBJECT_GRAPH:
                value = weights.get_tensor(name)
                digest.update(f"{name} {value.dtype} {value.shape}\n".encode() + value.tobytes())
    except (OSError, ValueError, LookupError, DecodeError, tf.errors.OpError):
        return tree_digest(folder)
    digest.update(tree_digest(folder / "assets").encode())
    return digest.hexdigest()


class _Computation:
    """The signatures of a MetaGraphDef, and what they compute."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._functions = {function.signature.name: function for function in _FUNCTIONS(graph.graph_def)}

    def digest(self) -> str:
        """Returns the digest of all signatures.

        Raises:
          ValueError: the graph has a cycle, as TensorFlow 1 made of loops.
        """
        nodes = self._graph.graph_def.node
        variables = [node.name for node in nodes if node.op == "VarHandleOp"]
        values = {name: f"variable {number}" for number, name in enumerate(variables)}
        values |= {node.name: f"input {node.name}" for node in nodes if node.op == "Placeholder"}
        self._evaluate(nodes, values)
        return _hash(
            f"{name} {self._signature(signature, values)}"
            for name, signature in sorted(self._graph.signature_def.items())
        )

    def _signature(self, signature: Any, values: dict[str, str]) -> str:
        sides = []
        for tensors in (signature.inputs, signature.outputs):
            for key, info in sorted(tensors.items()):
                shape = info.tensor_shape.SerializeToString(deterministic=True).hex()
                sides.append(f"{key} {info.dtype} {shape} {_value(info.name, values)}")
        return _hash([signature.method_name, *sides])

    def _evaluate(self, nodes: Iterable[Any], values: dict[str, str]) -> None:
        """Adds the digest of each node to those of arguments and variables, by name."""
        unknown = {node.name: node for node in nodes if node.name not in values}
        before = {name: {_name(text) for text in node.input} & unknown.keys() for name, node in unknown.items()}
        for name in graphlib.TopologicalSorter(before).static_order():
            node = unknown[name]
            attributes = [f"{key} {self._attribute(node.attr[key])}" for key in sorted(node.attr) if _computes(key)]
            data = [_value(text, values) for text in node.input if not text.startswith("^")]
            order = sorted(_value(text, values) for text in node.input if text.startswith("^"))
            values[name] = _hash([node.op, *attributes, *data, "after", *order])

    def _attribute(self, attribute: Any) -> str:
        functions = [attribute.func] if attribute.HasField("func") else attribute.list.func
        if functions:
            return _hash(self._function(function.name) for function in functions)
        return attribute.SerializeToString(deterministic=True).hex()

    @functools.cache  # noqa: B019 (as long as the object, which is short)
    def _function(self, name: str) -> str:
        function = self._functions[name]
        values = {argument.name: f"argument {i}" for i, argument in enumerate(function.signature.input_arg)}
        self._evaluate(function.node_def, values)
        returned = [_value(function.ret[output.name], values) for output in function.signature.output_arg]
        done = sorted(_value(text, values) for text in function.control_ret.values())
        return _hash([*returned, "after", *done])


def _computes(attribute: str) -> bool:
    return not attribute.startswith("_") and attribute not in _NO_COMPUTATION


def _name(reference: str) -> str:
    """Returns the node of `name`, `name:0`, `name:output:0` or `^name`."""
    return reference.removeprefix("^").partition(":")[0]


def _value(reference: str, values: dict[str, str]) -> str:
    return f"{values.get(_name(reference), '')}:{reference.partition(':')[2] or '0'}"


def _hash(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
