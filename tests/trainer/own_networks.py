"""Networks as users write them: one function for each thing that Keras can do and a trainer might get wrong."""

import dataclasses
import functools

import keras
import numpy as np
import tensorflow as tf
from keras import layers


def dense_only(shape, classes):
    """No convolution, not compiled."""
    return keras.Sequential([keras.Input(shape), layers.Flatten(), layers.Dense(8, "relu"), layers.Dense(classes)])


class Eager(layers.Layer):
    """A layer that does not know that XLA cannot compile it."""

    def call(self, inputs):
        outputs = tf.py_function(lambda values: values * 1.0, [inputs], inputs.dtype)
        outputs.set_shape(inputs.shape)
        return outputs

    def compute_output_shape(self, shape):
        return shape


def in_python(shape, classes):
    """An operation that XLA refuses when it compiles."""
    flat = [keras.Input(shape), layers.Flatten(), layers.Dense(8, "relu"), layers.Dropout(0.5)]
    return keras.Sequential([*flat, Eager(), layers.Dense(classes)])


def normalised(shape, classes, *, width=8, momentum=0.9):
    """Batch normalisation in a residual block, dropout, a schedule, label smoothing, weight decay, averaged weights."""
    inputs = keras.Input(shape)
    outputs = layers.Rescaling(1 / 255)(inputs)
    outputs = layers.Conv2D(width, 3, padding="same", use_bias=False)(outputs)
    outputs = layers.ReLU()(layers.BatchNormalization(momentum=momentum)(outputs))
    branch = layers.BatchNormalization(momentum=momentum)(layers.Conv2D(width, 3, padding="same")(outputs))
    outputs = layers.SpatialDropout2D(0.1)(layers.Add()([outputs, branch]))
    outputs = layers.GlobalAveragePooling2D()(outputs)
    model = keras.Model(inputs, layers.Dense(classes)(layers.Dropout(0.2)(outputs)))
    rate = keras.optimizers.schedules.CosineDecay(0.0, 10, warmup_target=1e-2, warmup_steps=3)
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=5e-4, use_ema=True, ema_momentum=0.9),
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1),
    )
    return model


def augmented(shape, classes, *, steps, batch_size):
    """Augmentation and preprocessing as layers, some random; given what the trainer knows."""
    model = keras.Sequential(
        [
            keras.Input(shape),
            layers.Normalization(mean=128.0, variance=64.0**2),
            layers.RandomFlip("horizontal"),
            layers.RandomTranslation(0.1, 0.1),
            layers.RandomRotation(0.05),
            layers.GaussianNoise(0.1),
            layers.Conv2D(8, 3, strides=2, activation="gelu"),
            layers.LayerNormalization(),
            layers.Flatten(),
            layers.Dense(classes, kernel_regularizer="l2"),
        ]
    )
    model.compile(keras.optimizers.AdamW(1.0 / (steps * batch_size)))
    return model


def scaled(shape, classes, *, clipnorm=0.5):
    """A scaled loss, clipped gradients, a regulariser."""
    dense = layers.Dense(classes, kernel_regularizer="l2")
    model = keras.Sequential([keras.Input(shape), layers.Rescaling(1 / 255), layers.Flatten(), dense])
    model.compile(
        keras.optimizers.SGD(0.1, loss_scale_factor=1024, global_clipnorm=clipnorm or None),
        functools.partial(keras.losses.sparse_categorical_crossentropy, from_logits=True),
    )
    return model


class Smoothed(keras.losses.SparseCategoricalCrossentropy):
    """A loss that a user derived from one of numbers."""


def derived_loss(shape, classes):
    model = dense_only(shape, classes)
    model.compile("sgd", Smoothed(from_logits=True))
    return model


class Late(layers.Layer):
    """Imports a module beside this one when it is called."""

    def call(self, inputs):
        import late_sibling

        return late_sibling.twice(inputs)


def importing_late(shape, classes):
    return keras.Sequential([keras.Input(shape), layers.Flatten(), Late(), layers.Dense(classes)])


@dataclasses.dataclass
class Options:
    """Whose annotations are texts, as of `from __future__ import annotations`."""

    width: "int" = 4


def fitted(shape, classes, *, images=None):
    """Normalises by what it has seen; rebuilt for weights that exist, it sees nothing."""
    normalisation = layers.Normalization()
    if images is None:
        images = np.zeros((1, *shape))
    normalisation.adapt(images)
    return keras.Sequential([keras.Input(shape), normalisation, layers.Flatten(), layers.Dense(classes)])


class Block(layers.Layer):
    """A layer that makes others when it is built, and has randomness of its own."""

    def __init__(self, filters):
        super().__init__()
        self.filters = filters
        self.seeds = keras.random.SeedGenerator()

    def build(self, shape):
        self.depthwise = layers.SeparableConv2D(self.filters, 3, padding="same")
        self.depthwise.build(shape)
        self.gain = self.add_weight(shape=(self.filters,), initializer="ones", name="gain")

    def call(self, inputs, training=False):
        outputs = keras.ops.silu(self.depthwise(inputs)) * self.gain
        return keras.random.dropout(outputs, 0.1, seed=self.seeds) if training else outputs


class Subclassed(keras.Model):
    """A model with a `call` of its own, another model in it, and layers in a list."""

    def __init__(self, classes):
        super().__init__()
        self.scale = layers.Rescaling(1 / 127.5, offset=-1)
        self.blocks = [Block(4), Block(8)]
        self.head = keras.Sequential([layers.GlobalMaxPooling2D(), layers.BatchNormalization(), layers.Dense(classes)])

    def call(self, inputs, training=False):
        outputs = self.scale(inputs)
        for block in self.blocks:
            outputs = block(outputs, training=training)
        return self.head(outputs, training=training)


def subclassed(shape, classes):
    model = Subclassed(classes)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


class OwnLoss(keras.losses.Loss):
    """A loss that a user wrote: of one-hot labels."""

    def call(self, labels, logits):
        return keras.ops.mean(keras.ops.square(labels - keras.ops.softmax(logits)), axis=-1)


def nested(shape, classes):
    """A network in a network, a part of it frozen, and a loss of the user's own."""
    body = keras.Sequential(
        [keras.Input(shape), layers.Conv2D(4, 3), layers.BatchNormalization(), layers.AveragePooling2D(2)], name="body"
    )
    body.layers[0].trainable = False
    model = keras.Sequential([keras.Input(shape), body, layers.Flatten(), layers.Dropout(0.5), layers.Dense(classes)])
    model.compile(keras.optimizers.RMSprop(1e-4), OwnLoss())
    return model


def pretrained(shape, classes, *, weights="weights.weights.h5"):
    """A network of keras.applications with weights from a file beside this one."""
    from pathlib import Path

    body = keras.applications.MobileNet((32, 32, 3), alpha=0.25, include_top=False, weights=None, pooling="avg")
    body.load_weights(Path(__file__).parent / weights)
    body.trainable = False
    inputs = keras.Input(shape)
    outputs = inputs if shape[2] == 3 else layers.Concatenate()([inputs, inputs, inputs])
    outputs = layers.Resizing(32, 32)(layers.Rescaling(1 / 127.5, offset=-1)(outputs))
    return keras.Model(inputs, layers.Dense(classes)(body(outputs, training=False)))


class StopAfter(keras.callbacks.Callback):
    """Ends the training after two epochs, and says what it hears."""

    def on_train_begin(self, logs=None):
        print("train begin")

    def on_epoch_begin(self, epoch, logs=None):
        print(f"epoch {epoch} begin")

    def on_epoch_end(self, epoch, logs=None):
        print(f"epoch {epoch} end {sorted(logs)}")
        self.model.stop_training = epoch == 1

    def on_train_end(self, logs=None):
        print("train end")


def stop_early():
    return [StopAfter()]


class StopAtOnce(keras.callbacks.Callback):
    """Ends the training in the midst of an epoch."""

    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = batch >= 4


def stop_at_once():
    return [StopAtOnce()]


class Counting(keras.callbacks.Callback):
    """Says what `params` are, and whether each beginning has its end."""

    open_epochs = 0

    def on_train_begin(self, logs=None):
        print(self.params["epochs"], self.params["steps"])

    def on_epoch_begin(self, epoch, logs=None):
        self.open_epochs += 1

    def on_epoch_end(self, epoch, logs=None):
        self.open_epochs -= 1

    def on_train_end(self, logs=None):
        print("open", self.open_epochs)


def counting():
    return [Counting()]


def best_weights():
    return [keras.callbacks.EarlyStopping("val_loss", patience=100, restore_best_weights=True)]


# What is refused.


def with_softmax(shape, classes):
    return keras.Sequential([keras.Input(shape), layers.Flatten(), layers.Dense(classes, activation="softmax")])


def with_sigmoid(shape, classes):
    return keras.Sequential([keras.Input(shape), layers.Flatten(), layers.Dense(classes, activation="sigmoid")])


def with_sigmoid_within(shape, classes):
    return keras.Sequential([keras.Input(shape), layers.Flatten(), with_sigmoid((int(np.prod(shape)),), classes)])


def with_a_gate(shape, classes):
    """A sigmoid that is no end: it weighs the logits."""
    inputs = keras.Input(shape)
    flat = layers.Flatten()(inputs)
    logits = layers.Dense(classes)(flat)
    return keras.Model(inputs, logits * layers.Dense(classes, activation="sigmoid")(flat))


class _Gated(keras.Model):
    def __init__(self, classes):
        super().__init__()
        self.flat, self.logits = layers.Flatten(), layers.Dense(classes)
        self.gate = layers.Dense(classes, activation="sigmoid")

    def call(self, inputs):
        flat = self.flat(inputs)
        return self.gate(flat) * self.logits(flat)


def with_a_gate_of_its_own(shape, classes):
    return _Gated(classes)


def with_loss_of_probabilities(shape, classes):
    model = dense_only(shape, classes)
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def with_too_few_outputs(shape, classes):
    return dense_only(shape, classes - 1)


def no_model(shape, classes):
    return np.zeros(classes)


def raising(shape, classes):
    return keras.Sequential([keras.Input(shape), layers.Conv2D(4, 3, padding="some")])


def with_a_strided_pointwise_convolution(shape, classes):
    """oneDNN computes its gradient wrongly."""
    return keras.Sequential(
        [keras.Input(shape), layers.Conv2D(8, 1, strides=2), layers.Flatten(), layers.Dense(classes)]
    )


class OwnTrainStep(keras.Sequential):
    def train_step(self, data):
        raise NotImplementedError


def with_train_step(shape, classes):
    return OwnTrainStep([keras.Input(shape), layers.Flatten(), layers.Dense(classes)])


def drawn_anew(shape, classes):
    """Cannot be exported: each time it is built it is another."""
    noise = np.random.default_rng().normal(size=(np.prod(shape), classes)).astype(np.float32)
    inputs = keras.Input(shape)
    return keras.Model(inputs, keras.ops.matmul(layers.Flatten()(inputs), noise))


class AlwaysRandom(layers.Layer):
    def __init__(self):
        super().__init__()
        self.seeds = keras.random.SeedGenerator()

    def call(self, inputs):
        return inputs + keras.random.normal(keras.ops.shape(inputs), seed=self.seeds)


class InPython(layers.Layer):
    def call(self, inputs):
        if hasattr(inputs, "numpy"):
            return inputs
        return tf.ensure_shape(tf.numpy_function(lambda values: values, [inputs], tf.float32), inputs.shape)


def calls_python(shape, classes):
    """Cannot be served: the server has no Python."""
    return keras.Sequential([keras.Input(shape), layers.Flatten(), InPython(), layers.Dense(classes)])


def answers_at_random(shape, classes):
    """Cannot be served: each of its answers is another."""
    return keras.Sequential([keras.Input(shape), layers.Flatten(), AlwaysRandom(), layers.Dense(classes)])
