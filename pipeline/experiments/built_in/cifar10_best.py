"""CIFAR-10 as one would train it today: whitened patches, six convolutions, flips and shifts, Muon, a falling rate.

Expected: to be measured.
Command:  conveyor run cifar10_best
"""

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.experiments.built_in import cifar10_tutorial
from pipeline.experiments.config import Gate, Network, Serving, Training

if TYPE_CHECKING:
    import keras


def build(
    shape: tuple[int, int, int],
    classes: int,
    *,
    steps: int,
    images: np.ndarray | None = None,
    widths: tuple[int, ...] = (64, 256, 256),
    shift: int = 2,
    flip: bool = True,
    learning_rate: float = 0.12,
    momentum: float = 0.8,
    bias_rate: float = 53.0,
    head_rate: float = 670.0,
    weight_decay: float = 2e-3,
    label_smoothing: float = 0.2,
) -> "keras.Model":
    """Returns a network of seven convolutions, the first of which is fixed.

    Source: the layers, their initial weights, the rates and the optimizer are those of Keller Jordan's airbench94_muon,
    https://github.com/KellerJordan/cifar10-airbench, with SiLU in place of GELU, and batches of 1,000 in place of 2,000
    images; see also 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, https://arxiv.org/abs/2404.00498.

    Args:
      shape: height, width and channels of an image, whose pixels are 0 to 255.
      classes: how many there are.
      steps: of the training, over which all rates fall to zero.
      images: training images, uint8 [N, height, width, channels], whose patches the first convolution whitens.
      widths: filters of the three blocks.
      shift: how many pixels an image is moved at most.
      flip: whether images are mirrored at random.
      learning_rate: the first, of the convolutions: the spectral norm of a step.
      momentum: Nesterov's, of the convolutions.
      bias_rate: the first learning rate of the biases.
      head_rate: the first learning rate of the last layer.
      weight_decay: of the biases and the last layer, at the first step.
      label_smoothing: share of a label that is given to all classes alike.
    """
    import keras  # here, so that settings are shown without TensorFlow
    from keras import layers

    from trainer.layers import FusedBatchNormalization

    class Muon(keras.optimizers.SGD):
        """Momentum for vectors and matrices; for convolutions, steps whose singular values are all about one.

        Source: Jordan et al., Muon, https://kellerjordan.github.io/posts/muon/.
        """

        def update_step(self, gradient: Any, variable: keras.Variable, learning_rate: Any) -> None:
            share = learning_rate / self.first_rate
            if len(variable.shape) != 4:
                first = head_rate if len(variable.shape) == 2 else bias_rate
                decayed = gradient + weight_decay / first * variable
                super().update_step(decayed, variable, first * share)
                return
            velocity = self.momentums[self._get_variable_index(variable)]
            velocity.assign(momentum * velocity + gradient)
            filters = variable.shape[-1]
            matrix = keras.ops.reshape(gradient + momentum * velocity, (-1, filters))
            step = keras.ops.reshape(orthogonal(matrix), variable.shape)
            norm = keras.ops.sqrt(keras.ops.sum(keras.ops.square(variable)))
            variable.assign(variable * (filters**0.5 / norm) - learning_rate * step)

        first_rate = learning_rate

    def orthogonal(matrix: Any, iterations: int = 3) -> Any:
        """Returns a matrix with the same singular vectors, whose singular values are about one (Newton-Schulz)."""
        wide = matrix.shape[0] <= matrix.shape[1]
        x = matrix if wide else keras.ops.transpose(matrix)
        x = x / (keras.ops.sqrt(keras.ops.sum(keras.ops.square(x))) + 1e-7)
        for _ in range(iterations):
            gram = x @ keras.ops.transpose(x)
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        return x if wide else keras.ops.transpose(x)

    def identity(shape: tuple[int, ...], dtype: str | None = None) -> Any:
        """Returns filters that pass the first channels on as they are; what is left is uniform, as in PyTorch."""
        limit = (shape[0] * shape[1] * shape[2]) ** -0.5
        kernel = keras.random.uniform(shape, -limit, limit, dtype=dtype)
        passing = np.zeros(shape, np.float32)
        passing[shape[0] // 2, shape[1] // 2] = np.eye(shape[2], shape[3])
        return keras.ops.where(np.arange(shape[3]) < shape[2], passing, kernel)

    def convolution(inputs: Any, filters: int) -> Any:
        return layers.Conv2D(filters, 3, padding="same", use_bias=False, kernel_initializer=identity)(inputs)

    def activated(inputs: Any) -> Any:
        normalization = FusedBatchNormalization(momentum=0.6, epsilon=1e-7)
        outputs = normalization(inputs)
        normalization.gamma.trainable = False
        return layers.Activation("silu")(outputs)

    def block(inputs: Any, filters: int) -> Any:
        outputs = activated(layers.MaxPooling2D(2)(convolution(inputs, filters)))
        return activated(convolution(outputs, filters))

    inputs = keras.Input(shape)
    outputs = inputs
    if flip:
        outputs = layers.RandomFlip("horizontal")(outputs)
    factor = shift / shape[0]
    outputs = layers.RandomTranslation(factor, factor, interpolation="nearest", fill_mode="reflect")(outputs)
    standard, whitening = layers.Normalization(), layers.Conv2D(8 * shape[2], 2, name="whitening")
    outputs = layers.Activation("silu")(whitening(standard(outputs)))
    if images is not None:
        standard.adapt(images)
        kernel = whitening_kernel(np.asarray(standard(images.astype(np.float32))))
        whitening.set_weights([kernel, np.zeros(kernel.shape[-1], np.float32)])
    whitening.kernel.trainable = False
    for filters in widths:
        outputs = block(outputs, filters)
    outputs = layers.GlobalMaxPooling2D()(outputs)
    head = layers.Dense(classes, use_bias=False, kernel_initializer=keras.initializers.RandomNormal(stddev=1.0))
    model = keras.Model(inputs, layers.Rescaling(1 / widths[-1])(head(outputs)))
    model.compile(
        Muon(keras.optimizers.schedules.PolynomialDecay(learning_rate, steps, 0.0), momentum=0.85, nesterov=True),
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing),
    )
    return model


def whitening_kernel(images: np.ndarray) -> np.ndarray:
    """Returns the principal components of 2 x 2 patches, each divided by its deviation, and their negatives.

    Args:
      images: float32 [N, height, width, channels].

    Returns:
      float32 [2, 2, channels, 8 * channels].
    """
    patches = np.lib.stride_tricks.sliding_window_view(images, (2, 2), axis=(1, 2))  # type: ignore[call-overload]  # numpy states one axis
    patches = patches.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 4 * images.shape[-1])
    values, vectors = np.linalg.eigh(patches.T @ patches / len(patches))
    kernel = (vectors / np.sqrt(values + 5e-4)).reshape(2, 2, images.shape[-1], -1)
    return np.concatenate([kernel, -kernel], axis=-1).astype(np.float32)


EXPERIMENT = dataclasses.replace(
    cifar10_tutorial.EXPERIMENT,
    name="cifar10_best",
    network=Network(build),
    training=Training(batch_size=1_000, steps=490),
    gate=Gate(min_accuracy=0.92),
    serving=Serving(model_name="cifar10_best"),
)
