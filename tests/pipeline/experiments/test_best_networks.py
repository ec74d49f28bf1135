"""What the best networks are made of, and that each goes the whole way of a network."""

import dataclasses

import keras
import numpy as np
import pytest

from conveyor import modules
from pipeline.experiments import load
from pipeline.experiments.built_in import cifar10_best
from pipeline.experiments.built_in.alternating_flip import AlternatingFlip
from pipeline.experiments.built_in.muon import Muon, orthogonal
from pipeline.experiments.network import BUILT_IN, copy_code
from serving import servability
from trainer import devices, export, loop, networks
from trainer.examples import Split


@pytest.mark.parametrize("shape", [(20, 20), (90, 16), (16, 90)])
def test_a_matrix_keeps_its_singular_vectors_and_its_values_come_near_one(shape):
    matrix = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    result = keras.ops.convert_to_numpy(orthogonal(keras.ops.convert_to_tensor(matrix), iterations=5))
    between = left.T @ result @ right.T
    large = values > values.max() / 10  # smaller ones need more iterations
    assert np.all((np.diag(between)[large] > 0.6) & (np.diag(between)[large] < 1.25))
    np.testing.assert_allclose(between - np.diag(np.diag(between)), 0, atol=1e-3)


def muon_model(steps):
    inputs = keras.Input((6, 6, 2))
    outputs = keras.layers.Conv2D(8, 3, use_bias=True)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(outputs)))
    model.compile(Muon(0.1, steps, momentum=0.5, bias_rate=0.2, head_rate=0.3), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def test_filters_are_brought_to_one_norm_and_moved_by_the_rate():
    model = muon_model(steps=10)
    variables = model.trainable_variables
    before = [keras.ops.convert_to_numpy(v).copy() for v in variables]
    gradients = [np.random.default_rng(1).normal(size=v.shape).astype(np.float32) for v in variables]
    model.optimizer.apply([keras.ops.convert_to_tensor(gradient) for gradient in gradients])
    after = [keras.ops.convert_to_numpy(v).copy() for v in variables]

    normed = before[0] * 8**0.5 / np.linalg.norm(before[0])
    step = (normed - after[0]).reshape(-1, 8)
    values = np.linalg.svd(step, compute_uv=False)
    assert np.all((values > 0.03) & (values < 0.13))  # the rate is 0.1
    assert np.sum(step * gradients[0].reshape(-1, 8)) > 0
    rates = {1: 0.2, 2: 0.3}
    for number in (1, 2, 3):  # bias, matrix, bias: Nesterov's first step, with a momentum of 0.85
        moved = -1.85 * rates[before[number].ndim] * gradients[number]
        np.testing.assert_allclose(after[number] - before[number], moved, rtol=1e-4, atol=1e-5)


def test_at_the_end_of_its_steps_nothing_moves_any_more():
    model = muon_model(steps=2)
    gradients = [keras.ops.ones(v.shape) for v in model.trainable_variables]
    for _ in range(3):
        before = [keras.ops.convert_to_numpy(v).copy() for v in model.trainable_variables]
        model.optimizer.apply(gradients)
    kernel, *_ = [keras.ops.convert_to_numpy(v).copy() for v in model.trainable_variables]
    np.testing.assert_allclose(kernel, before[0] * 8**0.5 / np.linalg.norm(before[0]), rtol=1e-5)


def test_each_image_is_mirrored_in_every_second_epoch():
    layer = AlternatingFlip(epoch=40)
    images = np.random.default_rng(0).integers(0, 256, (40, 4, 6, 3)).astype(np.float32)
    epochs = []
    for _ in range(4):
        batches = [np.asarray(layer(images[start : start + 10], training=True)) for start in range(0, 40, 10)]
        epochs.append(np.concatenate(batches))
    mirrored, as_is = ((np.stack(epochs) == form).all(axis=(2, 3, 4)) for form in (images[:, :, ::-1], images))
    assert np.array_equal(mirrored, ~as_is)
    assert np.array_equal(mirrored[0], mirrored[2])
    assert np.array_equal(mirrored[0], as_is[1])
    assert 10 < mirrored[0].sum() < 30
    np.testing.assert_array_equal(np.asarray(layer(images, training=False)), images)


def test_whitened_patches_are_uncorrelated_with_a_variance_of_one():
    random = np.random.default_rng(0)
    images = random.normal(size=(200, 8, 8, 3)).astype(np.float32)
    images += images.mean(axis=(1, 2, 3), keepdims=True) * 5 + 0.5 * images[..., ::-1]  # correlated
    kernel = cifar10_best.whitening_kernel(images)
    assert kernel.shape == (2, 2, 3, 24)
    np.testing.assert_allclose(kernel[..., :12], -kernel[..., 12:])
    outputs = np.asarray(keras.ops.conv(images, kernel[..., :12])).reshape(-1, 12)
    second_moments = outputs.T @ outputs / len(outputs)
    np.testing.assert_allclose(second_moments, np.eye(12), atol=0.05)


def test_the_first_filters_pass_their_channels_on():
    kernel = np.asarray(cifar10_best.passing_on((3, 3, 4, 6)))
    images = np.random.default_rng(0).normal(size=(2, 5, 5, 4)).astype(np.float32)
    outputs = np.asarray(keras.ops.conv(images, kernel, padding="same"))
    np.testing.assert_allclose(outputs[..., :4], images, rtol=1e-5)
    assert 0 < np.abs(kernel[..., 4:]).max() <= 1 / 6


@pytest.mark.parametrize("name", ["mnist_best", "cifar10_best"])
def test_the_modules_beside_a_network_travel_with_it(name, tmp_path):
    network = load(name).network
    copy_code(network, tmp_path)
    assert (tmp_path / "muon.py").read_text() == (BUILT_IN / "muon.py").read_text()
    assert (tmp_path / "alternating_flip.py").exists() == (name == "cifar10_best")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("name", ["mnist_best", "cifar10_best"])
def test_a_best_network_is_trained_restored_and_served(name, precision, tmp_path):
    experiment = load(name)
    training = dataclasses.replace(
        experiment.training, batch_size=20, steps=4, log_every=2, checkpoint_every=2, eval_every=4
    )
    job = dataclasses.replace(experiment.training_job(), training=training)
    random = np.random.default_rng(0)
    split = Split(random.integers(0, 256, (60, *job.shape), np.uint8), random.integers(0, 10, 60))
    chosen = devices.choose(precision)

    with modules.importable(BUILT_IN):
        trained = loop.train(job, chosen, split, None, tmp_path / "checkpoints", tmp_path / "logs", print).model
        restored, step = loop.restore(job, tmp_path / "checkpoints")
        network = export.save(trained, job, tmp_path / "model", tmp_path)
        networks.check_rebuilt(network, job, split.images[:8])
        scores = loop.predictor(network, job.shape)(split.images[:8])
        np.testing.assert_allclose(loop.predictor(restored, job.shape)(split.images[:8]), scores, atol=1e-5)
    assert step == 4
    differences = servability.check(tmp_path / "model", split.images[:8], scores)
    assert max(differences.values()) < 1e-4
