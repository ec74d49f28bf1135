import numpy as np
import pytest
import tensorflow as tf

from serving.server.page.activations import Activations
from tests.serving import models


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


def test_a_model_without_pixels_has_nothing_to_show(half_plus_two, shapes):
    for base in (half_plus_two, shapes):
        with pytest.raises(ValueError, match="has no signature predict_pixels"):
            Activations(base / "1")
