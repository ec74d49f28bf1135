"""MNIST as one would train it today: a small residual network, moved and turned digits, a one-cycle rate.

Expected: to be measured.
Command:  conveyor run mnist_best
"""

import dataclasses
from typing import TYPE_CHECKING, Any

from pipeline.experiments.built_in import mnist_tutorial
from pipeline.experiments.config import Gate, Network, Serving, Training

if TYPE_CHECKING:
    import keras


def build(
    shape: tuple[int, int, int],
    classes: int,
    *,
    steps: int,
    width: int = 24,
    shift: float = 0.1,
    rotation: float = 0.03,
    learning_rate: float = 4e-3,
    label_smoothing: float = 0.1,
    weight_decay: float = 1e-4,
    ema_momentum: float = 0.99,
) -> "keras.Model":
    """Returns a residual network of seven convolutions.

    Args:
      shape: height, width and channels of an image, whose pixels are 0 to 255.
      classes: how many there are.
      steps: of the training: the rate rises for a quarter of them, and falls to zero.
      width: filters of the first convolution.
      shift: how far a digit is moved at most, as a share of the image.
      rotation: how far it is turned at most, as a share of a full turn.
      learning_rate: the largest.
      label_smoothing: share of a label that is given to all classes alike.
      weight_decay: of AdamW.
      ema_momentum: of the average of the weights over the last steps, which is what a training ends with.
    """
    import keras  # here, so that settings are shown without TensorFlow
    from keras import layers

    from trainer.layers import FusedBatchNormalization

    def convolution(inputs: Any, filters: int, size: int = 3) -> Any:
        outputs = layers.Conv2D(filters, size, padding="same", use_bias=False)(inputs)
        return layers.ReLU()(FusedBatchNormalization(momentum=0.9)(outputs))

    def residual(inputs: Any, filters: int) -> Any:
        return layers.Add()([inputs, convolution(convolution(inputs, filters), filters)])

    inputs = keras.Input(shape)
    outputs = layers.Rescaling(1 / 255)(inputs)
    outputs = layers.RandomTranslation(shift, shift, fill_mode="constant")(outputs)
    outputs = layers.RandomRotation(rotation, fill_mode="constant")(outputs)
    outputs = layers.MaxPooling2D(2)(convolution(outputs, width, size=5))
    outputs = residual(convolution(outputs, 2 * width), 2 * width)
    outputs = layers.MaxPooling2D(2)(outputs)
    outputs = residual(convolution(outputs, 4 * width), 4 * width)
    outputs = layers.GlobalMaxPooling2D()(outputs)
    model = keras.Model(inputs, layers.Dense(classes)(outputs))
    rise = steps // 4
    rate = keras.optimizers.schedules.CosineDecay(
        learning_rate / 10, decay_steps=steps - rise, warmup_target=learning_rate, warmup_steps=rise
    )
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=weight_decay, use_ema=True, ema_momentum=ema_momentum),
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing),
    )
    return model


EXPERIMENT = dataclasses.replace(
    mnist_tutorial.EXPERIMENT,
    name="mnist_best",
    network=Network(build),
    training=Training(batch_size=128, steps=1_800),
    gate=Gate(min_accuracy=0.99),
    serving=Serving(model_name="mnist_best"),
)
