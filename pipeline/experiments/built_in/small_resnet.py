"""A small residual network that learns most sets of pictures in minutes: what a folder of pictures is trained with."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras


def build(
    shape: tuple[int, int, int],
    classes: int,
    *,
    steps: int,
    width: int = 16,
    dropout: float = 0.2,
    shift: float = 0.1,
    learning_rate: float = 2e-3,
) -> "keras.Model":
    """Returns a network of seven convolutions with batch normalisation, three of its blocks residual.

    Sources: He et al., Deep Residual Learning for Image Recognition, https://arxiv.org/abs/1512.03385; the pooling in
    the shortcuts: He et al., Bag of Tricks for Image Classification, https://arxiv.org/abs/1812.01187.

    Args:
      shape: height, width and channels of an image, whose pixels are 0 to 255.
      classes: how many there are.
      steps: of the training; the learning rate rises for a tenth of them, and then falls to zero.
      width: filters of the first block; the second has twice as many, the third four times.
      dropout: share of the last layer's inputs dropped in training.
      shift: how far a picture is moved in training, at random, as a share of its side.
      learning_rate: the largest.
    """
    import keras  # here, so that settings are shown without TensorFlow
    from keras import layers

    def convolution(inputs: Any, filters: int, size: int = 3, strides: int = 1) -> Any:
        outputs = layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=False)(inputs)
        return layers.BatchNormalization(momentum=0.9)(outputs)  # 0.99, as Keras has it, is slow for short trainings

    def residual_block(inputs: Any, filters: int, strides: int) -> Any:
        outputs = layers.ReLU()(convolution(inputs, filters, strides=strides))
        outputs = convolution(outputs, filters)
        if strides > 1:
            inputs = layers.AveragePooling2D(strides, padding="same")(inputs)
        if inputs.shape != outputs.shape:
            inputs = convolution(inputs, filters, size=1)
        return layers.ReLU()(layers.Add()([inputs, outputs]))

    inputs = keras.Input(shape)
    outputs = layers.Rescaling(1 / 127.5, offset=-1.0)(inputs)
    outputs = layers.RandomTranslation(shift, shift)(outputs)  # in training alone
    outputs = layers.ReLU()(convolution(outputs, width))
    outputs = residual_block(outputs, width, strides=1)
    outputs = residual_block(outputs, 2 * width, strides=2)
    outputs = residual_block(outputs, 4 * width, strides=2)
    outputs = layers.Dropout(dropout)(layers.GlobalAveragePooling2D()(outputs))
    model = keras.Model(inputs, layers.Dense(classes)(outputs))
    rise = steps // 10
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=steps - rise, warmup_target=learning_rate, warmup_steps=rise
    )
    model.compile(keras.optimizers.Adam(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model
