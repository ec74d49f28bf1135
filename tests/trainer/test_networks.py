import dataclasses

import keras
import numpy as np
import pytest

from trainer import networks

# (layer, its output's shape, how many weights it has), as the tutorial draws them.
MNIST = [
    ("Conv2D", (28, 28, 32), 5 * 5 * 1 * 32 + 32),
    ("MaxPooling2D", (14, 14, 32), 0),
    ("Conv2D", (14, 14, 64), 5 * 5 * 32 * 64 + 64),
    ("MaxPooling2D", (7, 7, 64), 0),
    ("Flatten", (3136,), 0),
    ("Dense", (1024,), 3136 * 1024 + 1024),
    ("Dense", (10,), 1024 * 10 + 10),
]
CIFAR10 = [
    ("Conv2D", (32, 32, 64), 5 * 5 * 3 * 64 + 64),
    ("MaxPooling2D", (16, 16, 64), 0),
    ("Conv2D", (16, 16, 64), 5 * 5 * 64 * 64 + 64),
    ("MaxPooling2D", (8, 8, 64), 0),
    ("Conv2D", (8, 8, 128), 3 * 3 * 64 * 128 + 128),
    ("Conv2D", (8, 8, 128), 3 * 3 * 128 * 128 + 128),
    ("Conv2D", (8, 8, 128), 3 * 3 * 128 * 128 + 128),
    ("Flatten", (8192,), 0),
    ("Dense", (384,), 8192 * 384 + 384),
    ("Dropout", (384,), 0),
    ("Dense", (10,), 384 * 10 + 10),
]


@pytest.mark.parametrize(("name", "layers"), [("mnist_job", MNIST), ("cifar10_job", CIFAR10)])
def test_layers_are_the_tutorials(request, name, layers):
    model = networks.build(request.getfixturevalue(name), "float32")
    body = [layer for layer in model.layers if type(layer).__name__ not in ("InputLayer", "Rescaling", "Activation")]
    built = [(type(layer).__name__, layer.output.shape[1:], layer.count_params()) for layer in body]
    assert built == layers
    pools = [layer for layer in body if type(layer).__name__ == "MaxPooling2D"]
    window = (2, 2) if name == "mnist_job" else (3, 3)
    assert {(pool.pool_size, pool.strides, pool.padding) for pool in pools} == {(window, (2, 2), "same")}
    assert {layer.padding for layer in body if type(layer).__name__ == "Conv2D"} == {"same"}
    activations = [layer.activation.__name__ for layer in body if hasattr(layer, "activation")]
    assert activations == ["relu"] * (len(activations) - 1) + ["linear"]


def test_initialisers_and_scaling_are_the_tutorials(mnist_job, cifar10_job):
    for job, scale in ((mnist_job, 1 / 255), (cifar10_job, 1.0)):
        model = networks.build(job, "float32")
        assert next(layer.scale for layer in model.layers if isinstance(layer, keras.layers.Rescaling)) == scale
        for layer in model.layers:
            if layer.get_weights():
                kernel, bias = layer.get_weights()
                assert (bias == np.float32(0.1)).all()
                assert np.abs(kernel).max() <= 0.1 + 1e-6  # truncated at two standard deviations
                assert kernel.std() == pytest.approx(0.05 * 0.8796, rel=0.1)  # the truncated normal's own
    assert next(layer.rate for layer in networks.build(cifar10_job, "float32").layers if "dropout" in layer.name) == 0.2


def test_seed_decides_the_weights(mnist_job):
    def weights(seed):
        training = dataclasses.replace(mnist_job.training, seed=seed)
        return networks.build(dataclasses.replace(mnist_job, training=training), "float32").get_weights()

    first, same, other = weights(1), weights(1), weights(2)
    assert all((a == b).all() for a, b in zip(first, same, strict=True))
    assert any((a != b).any() for a, b in zip(first, other, strict=True))


def test_layers_of_one_shape_start_differently(cifar10_job):
    model = networks.build(cifar10_job, "float32")
    fourth, fifth = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)][3:]
    assert (fourth.get_weights()[0] != fifth.get_weights()[0]).any()


def test_bfloat16_computes_in_it_and_keeps_float32_variables(mnist_job):
    model = networks.build(mnist_job, "mixed_bfloat16")
    conv = next(layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D))
    assert conv.compute_dtype == "bfloat16"
    assert {variable.dtype for variable in model.variables} == {"float32"}
    assert keras.config.dtype_policy().name == "float32"


def test_optimisers_are_tensorflow_1s(mnist_job, cifar10_job):
    adam = networks.build(mnist_job, "float32").optimizer
    assert (type(adam), float(adam.learning_rate), adam.epsilon) == (keras.optimizers.Adam, pytest.approx(1e-4), 1e-8)
    rmsprop = networks.build(cifar10_job, "float32").optimizer
    assert (float(rmsprop.learning_rate), rmsprop.rho, rmsprop.epsilon) == (pytest.approx(1e-3), 0.9, 1e-10)
    variable = keras.Variable(np.array([1.0], np.float32))
    rmsprop.build([variable])
    rmsprop.apply([np.array([2.0], np.float32)], [variable])
    mean_square = 0.9 * 1.0 + 0.1 * 2.0**2  # TensorFlow 1 starts from 1, not from 0
    assert float(variable.value[0]) == pytest.approx(1 - 1e-3 * 2 / np.sqrt(mean_square), abs=1e-7)
