"""What a convolutional network sees: its first kernels, and the activation maps after each convolution and pooling.

The maps are found in the SavedModel's own graph, by its operations, so that any convolutional model can be looked at.
The graph is loaded a second time, with its functions inlined and its variables as constants: a Session cannot fetch
what is inside a function.
"""

import dataclasses
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

SIGNATURE = "predict_pixels"
_AFTER = {"BiasAdd", "Mul", "AddV2", "Add", "FusedBatchNormV3"} | {
    "Relu", "Relu6", "Elu", "Selu", "LeakyRelu", "Tanh", "Sigmoid"
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer to look at.

    Attributes:
      name: such as `convolution 5x5, 32 filters`.
      tensor: its name in the graph.
    """

    name: str
    tensor: str


class Activations:
    """The kernels and activation maps of a version."""

    def __init__(self, path: Path) -> None:
        """Loads a SavedModel.

        Raises:
          ValueError: it has no signature that takes pixels.
        """
        loaded = tf.saved_model.load(str(path))
        if SIGNATURE not in getattr(loaded, "signatures", {}):
            raise ValueError(f"{path} has no signature {SIGNATURE}")
        frozen = convert_variables_to_constants_v2(loaded.signatures[SIGNATURE])
        graph = tf.Graph()
        with graph.as_default():
            tf.import_graph_def(frozen.graph.as_graph_def(), name="")
        self._session = tf.compat.v1.Session(graph=graph)
        self._input = frozen.inputs[0].name
        self.layers = _layers(graph)
        first = next((op for op in graph.get_operations() if op.type == "Conv2D"), None)
        self.kernels: np.ndarray | None = None if first is None else self._session.run(first.inputs[1])

    def maps(self, image: np.ndarray) -> list[np.ndarray]:
        """Returns each layer's activations for an image.

        Args:
          image: uint8 [height, width, channels].

        Returns:
          float32 [height, width, channels] for each of `layers`.
        """
        return [
            item[0] for item in self._session.run([layer.tensor for layer in self.layers], {self._input: image[None]})
        ]

    def close(self) -> None:
        """Frees the model."""
        self._session.close()


def _layers(graph: tf.Graph) -> list[Layer]:
    layers = []
    for operation in graph.get_operations():
        if operation.type == "Conv2D":
            height, width, _, filters = operation.inputs[1].shape.as_list()
            name = f"convolution {height}\N{MULTIPLICATION SIGN}{width}, {filters} filters"
            layers.append(Layer(name, _activated(operation).outputs[0].name))
        elif operation.type in ("MaxPool", "AvgPool"):
            _, height, width, _ = operation.get_attr("ksize")
            kind = "max" if operation.type == "MaxPool" else "average"
            name = f"{kind} pooling {height}\N{MULTIPLICATION SIGN}{width}"
            layers.append(Layer(name, operation.outputs[0].name))
    return layers


def _activated(operation: tf.Operation) -> tf.Operation:
    """Returns the last of the bias, normalization and activation that follow a convolution."""
    while True:
        consumers = operation.outputs[0].consumers()
        if len(consumers) != 1 or consumers[0].type not in _AFTER:
            return operation
        operation = consumers[0]
