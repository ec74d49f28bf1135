import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.layers import FusedBatchNormalization


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_fused_is_what_keras_computes(policy):
    images = tf.constant(np.random.default_rng(1).normal(3, 2, (8, 5, 6, 7)).astype(np.float32))
    layers = [
        kind(momentum=0.8, dtype=keras.DTypePolicy(policy))
        for kind in (keras.layers.BatchNormalization, FusedBatchNormalization)
    ]
    tolerance = 1e-5 if policy == "float32" else 2e-2
    results = []
    for layer in layers:
        layer.build(images.shape)
        layer.gamma.assign(np.linspace(0.5, 2, 7))
        layer.beta.assign(np.linspace(-1, 1, 7))
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = tf.cast(layer(images, training=True), tf.float32)
            loss = tf.reduce_sum(outputs**3)
        slopes = tape.gradient(loss, [images, layer.gamma.value, layer.beta.value])
        served = tf.cast(layer(images, training=False), tf.float32)
        results.append([outputs, served, layer.moving_mean.numpy(), layer.moving_variance.numpy(), *slopes])
    for theirs, ours in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=50 * tolerance, atol=50 * tolerance)
    np.testing.assert_allclose(results[1][2], results[0][2], rtol=tolerance)
    np.testing.assert_allclose(results[1][3], results[0][3], rtol=tolerance)


def test_a_frozen_layer_normalises_as_when_it_serves():
    layer = FusedBatchNormalization()
    layer.build((None, 4, 4, 2))
    layer.trainable = False
    images = np.random.default_rng(1).normal(3, 2, (8, 4, 4, 2)).astype(np.float32)
    np.testing.assert_array_equal(layer(images, training=True), layer(images, training=False))
    assert (layer.moving_mean.numpy() == 0).all()


@pytest.mark.parametrize(("shape", "options"), [((None, 4), {}), ((None, 4, 4, 2), {"scale": False})])
def test_what_it_cannot_normalise_is_refused(shape, options):
    with pytest.raises(ValueError, match=r"takes \[N, height, width, channels\]"):
        FusedBatchNormalization(**options).build(shape)
