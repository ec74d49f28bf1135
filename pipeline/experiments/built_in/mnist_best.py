"""MNIST as one would train it today: seven convolutions, two residual blocks, moved and turned digits, Muon.

Expected: 99.6 % on the 10,000 test images.
Takes:    two and a half minutes on two cores with AVX512.
Command:  conveyor run mnist_best
"""

import dataclasses
from typing import TYPE_CHECKING, Any

from pipeline.experiments.built_in import mnist_tutorial
from pipeline.experiments.config import Choice, Gate, Network, Range, Serving, Training, Tuning

if TYPE_CHECKING:
    import keras


def build(
    shape: tuple[int, int, int],
    classes: int,
    *,
    steps: int,
    batch_size: int,
    width: int = 24,
    shift: float = 0.1,
    rotation: float = 0.03,
    learning_rate: float = 0.1,
    momentum: float = 0.85,
    weight_decay: float = 2e-6,
    label_smoothing: float = 0.1,
) -> "keras.Model":
    """Returns a residual network of seven convolutions.

    Args:
      shape: height, width and channels of an image, whose pixels are 0 to 255.
      classes: how many there are.
      steps: of the training, over which all rates fall to zero.
      batch_size: of the training.
      width: filters of the first convolution.
      shift: how far a digit is moved at most, as a share of the image.
      rotation: how far it is turned at most, as a share of a full turn.
      learning_rate: the first, of the convolutions; see `muon.Muon`.
      momentum: of the convolutions.
      weight_decay: of biases and the last layer, for each image of a batch.
      label_smoothing: share of a label that is given to all classes alike.
    """
    import keras  # here, so that settings are shown without TensorFlow
    from keras import layers
    from muon import Muon  # type: ignore[import-not-found]  # beside this file

    from trainer.layers import FusedBatchNormalization

    def activated(inputs: Any) -> Any:
        normalization = FusedBatchNormalization(momentum=0.8)
        outputs = normalization(inputs)
        normalization.gamma.trainable = False  # the next convolution has a norm of its own
        return layers.ReLU()(outputs)

    def convolution(inputs: Any, filters: int, size: int = 3) -> Any:
        return layers.Conv2D(filters, size, padding="same", use_bias=False)(inputs)

    def residual(inputs: Any, filters: int) -> Any:
        outputs = activated(convolution(inputs, filters))
        return layers.Add()([inputs, activated(convolution(outputs, filters))])

    inputs = keras.Input(shape)
    outputs = layers.Rescaling(1 / 255)(inputs)
    outputs = layers.RandomTranslation(shift, shift, fill_mode="constant")(outputs)
    outputs = layers.RandomRotation(rotation, fill_mode="constant")(outputs)
    outputs = activated(layers.MaxPooling2D(2)(convolution(outputs, width, size=5)))
    outputs = residual(activated(convolution(outputs, 2 * width)), 2 * width)
    outputs = layers.MaxPooling2D(2)(outputs)
    outputs = residual(activated(convolution(outputs, 4 * width)), 4 * width)
    outputs = layers.GlobalMaxPooling2D()(outputs)
    head = layers.Dense(classes, use_bias=False, kernel_initializer=keras.initializers.RandomNormal(stddev=1.0))
    model = keras.Model(inputs, layers.Rescaling(1 / (4 * width))(head(outputs)))
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


EXPERIMENT = dataclasses.replace(
    mnist_tutorial.EXPERIMENT,
    name="mnist_best",
    network=Network(build),
    training=Training(batch_size=256, steps=840),
    gate=Gate(min_accuracy=0.99),
    serving=Serving(model_name="mnist_best"),
    tuning=Tuning({"network.width": Choice((16, 24, 32)), "network.learning_rate": Range(0.03, 0.3, log=True)}),
)
