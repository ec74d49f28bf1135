"""CIFAR-10 as in the tutorial: five convolutions on raw pixels, dropout, RMSProp, 10,000 steps of 128 images.

Expected: 64 to 66 % on the 10,000 test images (the tutorial reports 64.2 %).
Takes:    twenty-six minutes on two cores with AVX512.
Command:  conveyor run cifar10
"""

from typing import TYPE_CHECKING, Any

from pipeline.experiments.config import Dataset, Experiment, Gate, NamedSplits, Network, Serving, Training

if TYPE_CHECKING:
    import keras


def build(
    shape: tuple[int, int, int],
    classes: int,
    *,
    input_scale: float = 1.0,
    initial_stddev: float = 0.05,
    initial_bias: float = 0.1,
    dropout: float = 0.2,
    learning_rate: float = 1e-3,
) -> "keras.Model":
    """Returns the tutorial's network for small photographs.

    Args:
      shape: height, width and channels of an image, whose pixels are 0 to 255.
      classes: how many there are.
      input_scale: factor for a pixel: the tutorial takes them as they are.
      initial_stddev: standard deviation of the truncated normal distribution that the weights are drawn from.
      initial_bias: initial value of every bias.
      dropout: share of the hidden layer's units dropped in training; the tutorial keeps 0.8.
      learning_rate: RMSProp's step size.
    """
    import keras  # here, so that settings are shown without TensorFlow
    from keras import layers

    class TutorialRMSprop(keras.optimizers.RMSprop):
        """RMSProp as in TensorFlow 1: the running mean of squared gradients starts at 1, and not at 0 as in Keras."""

        def build(self, variables: list[keras.Variable]) -> None:
            if not self.built:
                super().build(variables)
                for velocity in self._velocities:
                    velocity.assign(keras.ops.ones_like(velocity))

    def initializers() -> dict[str, Any]:
        return {
            "kernel_initializer": keras.initializers.TruncatedNormal(stddev=initial_stddev),
            "bias_initializer": keras.initializers.Constant(initial_bias),
        }

    model = keras.Sequential(
        [
            keras.Input(shape),
            layers.Rescaling(input_scale),
            layers.Conv2D(64, 5, padding="same", activation="relu", **initializers()),
            layers.MaxPooling2D(3, strides=2, padding="same"),
            layers.Conv2D(64, 5, padding="same", activation="relu", **initializers()),
            layers.MaxPooling2D(3, strides=2, padding="same"),
            layers.Conv2D(128, 3, padding="same", activation="relu", **initializers()),
            layers.Conv2D(128, 3, padding="same", activation="relu", **initializers()),
            layers.Conv2D(128, 3, padding="same", activation="relu", **initializers()),
            layers.Flatten(),
            layers.Dense(384, activation="relu", **initializers()),
            layers.Dropout(dropout),
            layers.Dense(classes, **initializers()),
        ]
    )
    model.compile(
        TutorialRMSprop(learning_rate, rho=0.9, epsilon=1e-10),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


EXPERIMENT = Experiment(
    name="cifar10",
    dataset=Dataset(
        name="cifar10",
        format="cifar_binary",
        shape=(32, 32, 3),
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        splits=NamedSplits(train="data_batch_*.bin", test="test_batch.bin"),
    ),
    network=Network(build),
    training=Training(batch_size=128, steps=10_000),
    gate=Gate(min_accuracy=0.60, tolerance=0.02),
    serving=Serving(model_name="cifar10"),
)
