import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.experiments import load
from pipeline.experiments.built_in import small_resnet
from pipeline.experiments.network import Network
from serving.server.page.activations import Activations
from tests.serving import models
from trainer import export, networks


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "mnist",
            [
                ("convolution 5×5, 32 filters", (28, 28, 32)),
                ("max pooling 2×2", (14, 14, 32)),
                ("convolution 5×5, 64 filters", (14, 14, 64)),
                ("max pooling 2×2", (7, 7, 64)),
            ],
        ),
        (
            "cifar10",
            [
                ("convolution 5×5, 64 filters", (32, 32, 64)),
                ("max pooling 3×3", (16, 16, 64)),
                ("convolution 5×5, 64 filters", (16, 16, 64)),
                ("max pooling 3×3", (8, 8, 64)),
                *[("convolution 3×3, 128 filters", (8, 8, 128))] * 3,
            ],
        ),
    ],
)
def test_layers_and_their_maps_are_those_of_the_network(tmp_path, name, expected):
    explainer = Activations(models.network(tmp_path / "m" / "1", name))
    size = 28 if name == "mnist" else 32
    image = np.random.default_rng(0).integers(0, 256, (size, size, 1 if name == "mnist" else 3), np.uint8)
    maps = explainer.maps(image)
    assert [(layer.name, one.shape) for layer, one in zip(explainer.layers, maps, strict=True)] == expected
    assert explainer.kernels.shape == (5, 5, image.shape[-1], expected[0][1][-1])
    # The first map by hand: the convolution with the kernels, the bias of 0.1, ReLU.
    scale = 255 if name == "mnist" else 1
    by_hand = tf.nn.conv2d(image[np.newaxis].astype(np.float32) / scale, explainer.kernels, 1, "SAME") + 0.1
    assert np.allclose(maps[0], tf.nn.relu(by_hand)[0], atol=1e-3 * 255 / scale)
    assert np.allclose(maps[1], tf.nn.max_pool2d(maps[0][np.newaxis], int(expected[1][0][-1]), 2, "SAME")[0])
    explainer.close()


def test_maps_of_a_normalised_network_are_what_its_blocks_return(tmp_path):
    """After batch normalisation, which is a product and a sum in the graph, and after the activation."""
    job = dataclasses.replace(load("cifar10").training_job(), network=Network(small_resnet.build).source)
    network = networks.build(job, "float32")
    export.save(network, job, tmp_path / "m", tmp_path)
    explainer = Activations(tmp_path / "m")
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    maps = explainer.maps(image)
    assert explainer.layers[0].name == "convolution 3×3, 16 filters"
    ours = keras.Model(network.input, next(layer.output for layer in network.layers if "re_lu" in layer.name))
    np.testing.assert_allclose(maps[0], ours(image[np.newaxis].astype(np.float32), training=False)[0], atol=1e-5)
    explainer.close()


def test_a_model_without_pixels_has_nothing_to_show(half_plus_two, shapes):
    for base in (half_plus_two, shapes):
        with pytest.raises(ValueError, match="has no signature predict_pixels"):
            Activations(base / "1")
