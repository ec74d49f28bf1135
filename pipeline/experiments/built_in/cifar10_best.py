"""CIFAR-10 as one would train it today: whitened patches, six convolutions, flips and shifts, Muon, a falling rate.

Expected: 93.4 % on the 10,000 test images; 94.0 % with mirror images, which conveyor evaluate --robustness measures.
Takes:    twenty-four minutes on two cores with AVX512.
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
    batch_size: int,
    images: np.ndarray | None = None,
    widths: tuple[int, ...] = (64, 256, 256),
    shift: int = 2,
    epoch: int = 50_000,
    learning_rate: float = 0.12,
    momentum: float = 0.8,
    weight_decay: float = 2e-6,
    label_smoothing: float = 0.2,
) -> "keras.Model":
    """Returns a network of seven convolutions, the first of which is fixed.

    Source: after Keller Jordan's airbench94_muon, https://github.com/KellerJordan/cifar10-airbench, with SiLU in place
    of GELU, half as large batches, Keras's momentum for vectors, and a whitening bias that is trained to the end.

    Args:
      shape: height, width and channels of an image, whose pixels are 0 to 255.
      classes: how many there are.
      steps: of the training, over which all rates fall to zero.
      batch_size: of the training.
      images: training images, uint8 [N, height, width, channels], whose patches the first convolution whitens.
      widths: filters of the three blocks.
      shift: how many pixels an image is moved at most.
      epoch: how many training images there are; each is mirrored in every second epoch. 0 to mirror none.
      learning_rate: the first, of the convolutions; see `muon.Muon`.
      momentum: of the convolutions.
      weight_decay: of biases and the last layer, for each image of a batch.
      label_smoothing: share of a label that is given to all classes alike.
    """
    import keras  # here, so that settings are shown without TensorFlow
    from alternating_flip import AlternatingFlip  # type: ignore[import-not-found]  # beside this file
    from keras import layers
    from muon import Muon  # type: ignore[import-not-found]  # beside this file

    from trainer.layers import FusedBatchNormalization

    def convolution(inputs: Any, filters: int) -> Any:
        return layers.Conv2D(filters, 3, padding="same", use_bias=False, kernel_initializer=passing_on)(inputs)

    def activated(inputs: Any) -> Any:
        normalization = FusedBatchNormalization(momentum=0.6, epsilon=1e-7)
        outputs = normalization(inputs)
        normalization.gamma.trainable = False  # the next convolution has a norm of its own
        return layers.Activation("silu")(outputs)

    def block(inputs: Any, filters: int) -> Any:
        outputs = activated(layers.MaxPooling2D(2)(convolution(inputs, filters)))
        return activated(convolution(outputs, filters))

    inputs = keras.Input(shape)
    outputs = AlternatingFlip(epoch)(inputs) if epoch else inputs
    factor = shift / shape[0]
    outputs = layers.RandomTranslation(factor, factor, interpolation="nearest", fill_mode="reflect")(outputs)
    standard, whitening = layers.Normalization(), layers.Conv2D(8 * shape[2], 2, name="whitening")
    outputs = layers.Activation("silu")(whitening(standard(outputs)))
    if images is not None:  # else the weights come from elsewhere
        standard.adapt(images)
        kernel = whitening_kernel(np.asarray(standard(images.astype(np.float32))))
        whitening.set_weights([kernel, np.zeros(kernel.shape[-1], np.float32)])
    whitening.kernel.trainable = False
    for filters in widths:
        outputs = block(outputs, filters)
    outputs = layers.GlobalMaxPooling2D()(outputs)
    head = layers.Dense(classes, use_bias=False, kernel_initializer=keras.initializers.RandomNormal(stddev=1.0))
    model = keras.Model(inputs, layers.Rescaling(1 / widths[-1])(head(outputs)))
    optimizer = Muon(
        learning_rate,
        steps,
        momentum,
        bias_rate=0.053 * batch_size,
        head_rate=0.67 * batch_size,
        weight_decay=weight_decay * batch_size,
    )
    model.compile(optimizer, keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing))
    return model


def passing_on(shape: tuple[int, ...], dtype: str | None = None) -> Any:
    """Returns filters [height, width, channels, filters] of which the first pass the channels on as they are.

    The others are uniform, as in PyTorch.
    """
    import keras

    limit = (shape[0] * shape[1] * shape[2]) ** -0.5
    kernel = keras.random.uniform(shape, -limit, limit, dtype=dtype)
    identity = np.zeros(shape, np.float32)
    identity[shape[0] // 2, shape[1] // 2] = np.eye(shape[2], shape[3])
    return keras.ops.where(np.arange(shape[3]) < shape[2], identity, kernel)


def whitening_kernel(images: np.ndarray) -> np.ndarray:
    """Returns the principal components of 2 x 2 patches, each divided by its deviation, and their negatives.

    Args:
      images: float32 [N, height, width, channels].

    Returns:
      float32 [2, 2, channels, 8 * channels].
    """
    sliding = np.lib.stride_tricks.sliding_window_view
    patches = sliding(sliding(images, 2, axis=1), 2, axis=2)
    patches = patches.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 4 * images.shape[-1])
    values, vectors = np.linalg.eigh(patches.T @ patches / len(patches))
    kernel = (vectors / np.sqrt(values + 5e-4)).reshape(2, 2, images.shape[-1], -1)
    return np.concatenate([kernel, -kernel], axis=-1).astype(np.float32)


EXPERIMENT = dataclasses.replace(
    cifar10_tutorial.EXPERIMENT,
    name="cifar10_best",
    network=Network(build),
    training=Training(batch_size=1_000, steps=480, log_every=20, checkpoint_every=40, eval_every=100),
    gate=Gate(min_accuracy=0.92),
    serving=Serving(model_name="cifar10_best"),
)
