import dataclasses
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from serving import servability
from tests.trainer import own_networks
from trainer import __main__ as process
from trainer import export, loop, networks
from trainer.devices import Devices
from trainer.examples import Split
from trainer.networks import NetworkError

CPU = Devices(tf.distribute.get_strategy(), "float32", False, "CPU, float32")
KINDS = ["dense_only", "fitted", "normalised", "augmented", "subclassed", "nested", "pretrained"]


@pytest.fixture(scope="session")
def code(tmp_path_factory) -> Path:
    """A folder with the networks and the weights that one of them starts from."""
    folder = tmp_path_factory.mktemp("code")
    shutil.copy(own_networks.__file__, folder)
    keras.utils.set_random_seed(1)
    body = keras.applications.MobileNet((32, 32, 3), alpha=0.25, include_top=False, weights=None, pooling="avg")
    body.save_weights(folder / "weights.weights.h5")
    return folder


@pytest.fixture
def job(short_job, code):
    def make(name, callbacks="", **parameters):
        source = dataclasses.replace(
            short_job.network, folder=str(code), module="own_networks", build=name, callbacks=callbacks,
            parameters=parameters,
        )  # fmt: skip
        return dataclasses.replace(short_job, network=source)

    return make


def train(job, split, folder, say=lambda _: None, **options):
    return loop.train(job, CPU, split, split, folder / "checkpoints", folder / "logs", say, **options)


class Killed(Exception):
    """Stands for the end of the process."""


def kill_at(step):
    def say(line):
        if line.startswith(f"step {step},"):
            raise Killed

    return say


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_network_goes_all_the_way(kind, job, digits, tmp_path):
    """Trained, killed and continued, exported, loaded as the server does, and started from again."""
    tf.config.experimental.enable_op_determinism()
    made = job(kind)
    split = Split(digits.images[:200], digits.labels[:200])
    whole = train(made, split, tmp_path / "whole")
    with pytest.raises(Killed):
        train(made, split, tmp_path / "killed", kill_at(8))
    continued = train(made, split, tmp_path / "killed")
    assert continued.resumed_from == 4
    for a, b in zip(whole.model.get_weights(), continued.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert continued.history == whole.history
    network = export.save(whole.model, made, tmp_path / "model", tmp_path)
    scores = loop.predictor(network, made.shape)(split.images[:20])
    np.testing.assert_allclose(scores, loop.predictor(whole.model, made.shape)(split.images[:20]), atol=1e-5)
    servability.check(tmp_path / "model", split.images[:20], scores)
    warm = networks.build(made, "float32")
    export.set_weights(warm, export.read_weights(tmp_path / "model"))
    np.testing.assert_allclose(loop.predictor(warm, made.shape)(split.images[:20]), scores, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_network_is_the_same_for_the_same_seed(kind, job):
    first, again = (networks.build(job(kind), "float32").get_weights() for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))


def test_moving_averages_are_trained_and_exported(job, digits, tmp_path):
    made = job("normalised")
    result = train(made, digits, tmp_path)
    layer = next(each for each in result.model.layers if isinstance(each, keras.layers.BatchNormalization))
    assert np.abs(layer.moving_mean.numpy()).max() > 0
    network = export.save(result.model, made, tmp_path / "model", tmp_path)
    exported = next(each for each in network.layers if isinstance(each, keras.layers.BatchNormalization))
    np.testing.assert_array_equal(exported.moving_mean, layer.moving_mean)


def test_averaged_weights_are_what_a_training_ends_with(job, digits, tmp_path):
    made = job("normalised")
    result = train(made, digits, tmp_path)
    optimizer = result.model.optimizer
    for weight, average in zip(
        result.model.trainable_variables, optimizer._model_variables_moving_average, strict=True
    ):
        np.testing.assert_array_equal(weight, average)
    accuracy, loss = loop.accuracy_and_loss(loop.predictor(result.model, made.shape)(digits.images), digits.labels)
    assert (result.history[-1]["eval_accuracy"], result.history[-1]["eval_loss"]) == (accuracy, loss)


def test_a_network_that_is_given_facts_and_parameters_gets_them(job):
    optimizer = networks.build(job("augmented"), "float32").optimizer
    assert float(optimizer.learning_rate) == pytest.approx(1.0 / (12 * 16))
    widths = [networks.build(job("normalised", width=width), "float32").layers[2].filters for width in (4, 16)]
    assert widths == [4, 16]


def test_layers_can_be_fitted_to_training_images(job, digits, tmp_path):
    made = job("fitted")
    result = train(made, digits, tmp_path)
    mean, *_ = result.model.layers[0].get_weights()
    np.testing.assert_allclose(mean, digits.images[:].mean(axis=(0, 1, 2)), rtol=1e-4)  # fewer than 2,000: all of them
    network = export.save(result.model, made, tmp_path / "model", tmp_path)
    np.testing.assert_array_equal(network.layers[0].get_weights()[0], mean)


def test_one_step_is_what_keras_own_fit_makes_of_it(job, digits, tmp_path):
    """The loss with label smoothing, the regulariser, the schedule, the averages and the optimiser."""
    numbers, one_hot = digits.labels[:16], np.eye(10, dtype=np.float32)[digits.labels[:16]]
    for kind, targets in (("normalised", one_hot), ("nested", one_hot), ("scaled", numbers), ("derived_loss", numbers)):
        made = job(kind)
        training = dataclasses.replace(made.training, steps=1)
        made = dataclasses.replace(made, training=training)
        split = Split(digits.images[:16], digits.labels[:16])
        ours = train(made, split, tmp_path / kind).model
        theirs = networks.build(made, "float32")
        order = loop.ShuffledOrder(16, 16, 2, made.training.seed)[0]
        theirs.fit(
            digits.images[:16][order].astype(np.float32), targets[order], batch_size=16, shuffle=False, verbose=0
        )
        for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_callbacks_hear_of_epochs_and_may_end_the_training(job, digits, tmp_path, capsys):
    made = job("dense_only", callbacks="stop_early")
    made = dataclasses.replace(made, training=dataclasses.replace(made.training, steps=100, eval_every=6))
    result = train(made, digits, tmp_path)
    assert (result.steps, result.history[-1]["step"]) == (12, 12)
    logs = ["accuracy", "loss", "val_accuracy", "val_loss"]
    heard = ["train begin", "epoch 0 begin", f"epoch 0 end {logs}", "epoch 1 begin", f"epoch 1 end {logs}", "train end"]
    assert capsys.readouterr().out.splitlines() == heard
    again = train(made, digits, tmp_path)  # there is nothing to continue
    assert (again.steps, again.resumed_from) == (12, 12)
    assert capsys.readouterr().out == ""
    for a, b in zip(result.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_training_that_a_callback_ends_is_measured_on_held_out_images(job, digits, tmp_path):
    made = job("dense_only", callbacks="stop_at_once")
    made = dataclasses.replace(made, training=dataclasses.replace(made.training, steps=100, eval_every=50))
    result = train(made, digits, tmp_path)
    last = result.history[-1]
    assert (last["step"], last["ended"]) == (result.steps, 1)
    accuracy, _ = loop.accuracy_and_loss(loop.predictor(result.model, made.shape)(digits.images), digits.labels)
    assert last["eval_accuracy"] == pytest.approx(accuracy)


def test_layers_that_xla_cannot_compile_are_trained_without_it(job, digits, tmp_path):
    lines = []
    compiling = dataclasses.replace(CPU, xla=True)
    made, folders = job("augmented"), (tmp_path / "checkpoints", tmp_path / "logs")
    result = loop.train(made, compiling, digits, None, *folders, lines.append)
    assert result.steps == made.training.steps
    (line,) = [line for line in lines if "XLA" in line]
    assert line.startswith("XLA compiles no step of this network: it has random_")
    lines.clear()
    loop.train(job("dense_only"), compiling, digits, None, tmp_path / "c", tmp_path / "l", lines.append)
    assert not [line for line in lines if "XLA" in line]


def test_what_xla_refuses_only_when_it_compiles_is_trained_without_it(job, digits, tmp_path):
    lines, made = [], job("in_python")
    folders = [tmp_path / name for name in ("c", "l", "c2", "l2")]
    compiling = dataclasses.replace(CPU, xla=True)
    result = loop.train(made, compiling, digits, None, *folders[:2], lines.append)
    (line,) = [line for line in lines if "XLA" in line]
    assert line.startswith("XLA compiles no step of this network: Detected unsupported operations")
    plain = loop.train(made, dataclasses.replace(compiling, xla=False), digits, None, *folders[2:], lines.append)
    for a, b in zip(result.model.get_weights(), plain.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)  # no batch was left out, and none seen twice


def test_weights_that_a_callback_restores_at_the_end_are_exported_and_kept(job, digits, tmp_path):
    made = job("dense_only", callbacks="best_weights")
    made = dataclasses.replace(made, training=dataclasses.replace(made.training, steps=24))
    result = train(made, digits, tmp_path)
    losses = [entry["eval_loss"] for entry in result.history[1:] if "eval_loss" in entry and entry["step"] % 8 == 0]
    _, loss = loop.accuracy_and_loss(loop.predictor(result.model, made.shape)(digits.images), digits.labels)
    assert loss == pytest.approx(min(losses))
    again = train(made, digits, tmp_path)
    for a, b in zip(result.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("with_softmax", "returns probabilities, and must return logits: leave the softmax"),
        ("with_sigmoid", "ends in a sigmoid, and must return logits"),
        ("with_sigmoid_within", "ends in a sigmoid, and must return logits"),
        ("with_loss_of_probabilities", "sparse_categorical_crossentropy, which expects probabilities, and returns log"),
        ("with_too_few_outputs", r"returns \(2, 9\) for 2 images; it must return logits, one a class: \(2, 10\)"),
        ("no_model", r"no_model in own_networks\.py must return a keras\.Model; it returned ndarray"),
        ("raising", r"cannot be built: ValueError: .*padding.* \(own_networks\.py, line \d+\)"),
        ("with_train_step", "has a train_step of its own, which is not called"),
        (
            "with_a_strided_pointwise_convolution",
            r"1 x 1 convolutions with strides and fewer than 16 channels \(conv",
        ),
        ("nowhere", "cannot be built: AttributeError: .*nowhere"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_sentence(kind, message, job):
    with pytest.raises(NetworkError, match=message):
        networks.build(job(kind), "float32")
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize("kind", ["with_a_gate", "with_a_gate_of_its_own"])
def test_a_sigmoid_that_is_not_the_end_is_no_matter(kind, job):
    networks.build(job(kind), "float32")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("answers_at_random", "untracked"),
        ("calls_python", "its graph calls Python"),
        ("drawn_anew", "answers otherwise when it is built again with the same weights"),
    ],
)
def test_a_network_that_cannot_be_served_is_refused_after_one_step(kind, reason, job, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "PROVEN_FROM", 1)
    lines = []

    def prove(model):
        return process._prove(made, digits.images[:8], tmp_path, model)

    made = job(kind)
    with pytest.raises(servability.NotServable, match=f"cannot be served: .*({reason})"):
        train(made, digits, tmp_path, lines.append, prove=prove)
    assert [line.split(",")[0] for line in lines] == ["step 0"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "logs"]


def test_a_missing_file_is_said_to_be_one_that_the_network_may_need(job):
    with pytest.raises(NetworkError, match=r"FileNotFoundError|No such file|not found"):
        networks.build(job("pretrained", weights="other.weights.h5"), "float32")


def test_first_kernels_are_the_first_convolutions_or_none(job):
    assert networks.first_kernels(networks.build(job("dense_only"), "float32")) is None
    assert networks.first_kernels(networks.build(job("nested"), "float32")).shape == (3, 3, 1, 4)
    assert networks.first_kernels(networks.build(job("subclassed"), "float32")).shape[:3] == (3, 3, 1)
