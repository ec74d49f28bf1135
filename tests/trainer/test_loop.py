import dataclasses
import functools
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from components.image_example_gen.readers import open_readers
from conveyor.settings import to_json
from tests.trainer import own_networks
from tests.trainer.conftest import with_parameters
from trainer import loop, steps
from trainer.devices import Devices
from trainer.loop import TrainingDiverged, accuracy_and_loss, train

ROOT = Path(__file__).parents[2]
CPU = Devices(tf.distribute.get_strategy(), "float32", False, "CPU, float32")


TWO_DEVICES = """
import pathlib, sys
import numpy as np
import tensorflow as tf
from trainer.devices import Devices
from trainer.examples import Split
from trainer.loop import train
from conveyor.settings import from_json
from trainer.settings import TrainingJob

folder = pathlib.Path(sys.argv[1])
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
devices = Devices(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), "float32", sys.argv[2] == "xla", "two")
data = np.load(folder / "digits.npz")
job = from_json(TrainingJob, (folder / "job.json").read_text())
split = Split(data["images"], data["labels"])
trained = train(job, devices, split, None, folder / "two" / "checkpoints", folder / "two" / "logs")
np.savez(folder / "two.npz", *trained.model.get_weights())
"""


def weights_of_two_devices(job, split, folder, compiler="") -> list[np.ndarray]:
    """Trains on two logical devices, in a process of their own, and returns the weights."""
    np.savez(folder / "digits.npz", images=split.images, labels=split.labels)
    (folder / "job.json").write_text(to_json(job))
    command = [sys.executable, "-c", TWO_DEVICES, str(folder), compiler]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(folder / "two.npz") as weights:
        return [weights[name] for name in weights.files]


class Killed(Exception):
    """Stands for the end of the process."""


def run(job, split, folder, say=lambda _: None, devices=CPU):
    return train(job, devices, split, split, folder / "checkpoints", folder / "logs", say)


def test_prints_what_the_tutorial_prints(short_job, digits, tmp_path):
    lines = []
    trained = run(short_job, digits, tmp_path, lines.append)
    assert [line.split(",")[0] for line in lines] == ["step 0", "step 4", "step 8", "step 12"]
    assert all("training accuracy" in line and "loss" in line for line in lines)
    assert ["held-out" in line for line in lines] == [True, False, True, True]
    assert [entry["step"] for entry in trained.history] == [0, 4, 8, 12]
    assert list((tmp_path / "logs").glob("events*"))


@pytest.mark.slow
def test_learns(mnist_job, digits, tmp_path):
    training = dataclasses.replace(mnist_job.training, steps=60)
    network = with_parameters(mnist_job.network, learning_rate=1e-3)
    trained = run(dataclasses.replace(mnist_job, training=training, network=network), digits, tmp_path)
    assert trained.history[0]["eval_accuracy"] < 0.3
    assert trained.history[-1]["eval_accuracy"] > 0.85


def test_checkpoint_state_file_and_a_bounded_number_of_checkpoints(short_job, digits, tmp_path):
    run(short_job, digits, tmp_path)
    assert (tmp_path / "checkpoints" / "checkpoint").exists()
    steps = {path.stem for path in (tmp_path / "checkpoints").glob("ckpt-*.index")}
    assert steps == {"ckpt-4", "ckpt-8", "ckpt-12"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist_job", "cifar10_job"])
def test_stopped_and_continued_is_as_if_never_stopped(request, name, cifar10, cifar10_dataset, digits, tmp_path):
    job = request.getfixturevalue(name)
    training = dataclasses.replace(job.training, steps=6, batch_size=8, log_every=2, checkpoint_every=2, eval_every=100)
    job = dataclasses.replace(job, training=training)
    split = digits
    if name == "cifar10_job":  # its network has dropout, whose random state must be restored too
        images, labels = open_readers([cifar10 / "test_batch.bin"], cifar10_dataset)[0].read(0, 200)
        split = loop.Split(images, labels)
    tf.config.experimental.enable_op_determinism()
    whole = run(job, split, tmp_path / "whole")

    def die_at_step_4(line):
        if line.startswith("step 4"):
            raise Killed

    with pytest.raises(Killed):  # the line is printed before the checkpoint is written: it continues from step 2
        run(job, split, tmp_path / "parts", die_at_step_4)
    lines = []
    parts = run(job, split, tmp_path / "parts", lines.append)
    assert lines[0] == "Continuing from the checkpoint at step 2."
    assert parts.resumed_from == 2
    assert parts.history == whole.history
    for a, b in zip(whole.model.get_weights(), parts.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_lines_and_checkpoints_have_their_own_steps(short_job, digits, tmp_path):
    training = dataclasses.replace(short_job.training, steps=10, log_every=3, checkpoint_every=4, keep_checkpoints=9)
    result = run(dataclasses.replace(short_job, training=training), digits, tmp_path)
    assert [entry["step"] for entry in result.history] == [0, 3, 6, 8, 9, 10]
    assert ["eval_accuracy" in entry for entry in result.history] == [True, False, False, True, False, True]
    steps = {int(path.stem.removeprefix("ckpt-")) for path in (tmp_path / "checkpoints").glob("ckpt-*.index")}
    assert steps == {0, 4, 8, 10}


def test_continued_between_two_lines_is_as_if_never_stopped(short_job, digits, tmp_path):
    training = dataclasses.replace(short_job.training, steps=10, log_every=3, checkpoint_every=4)
    job = dataclasses.replace(short_job, training=training)
    tf.config.experimental.enable_op_determinism()
    whole = run(job, digits, tmp_path / "whole")

    def die_at_step_6(line):
        if line.startswith("step 6"):
            raise Killed

    with pytest.raises(Killed):
        run(job, digits, tmp_path / "parts", die_at_step_6)
    parts = run(job, digits, tmp_path / "parts")
    assert parts.resumed_from == 4
    assert parts.history == whole.history
    for a, b in zip(whole.model.get_weights(), parts.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_finished_training_is_restored_and_not_continued(short_job, digits, tmp_path):
    first = run(short_job, digits, tmp_path)
    again = run(short_job, digits, tmp_path)
    assert again.resumed_from == 12
    assert again.history == first.history
    model, step = loop.restore(short_job, tmp_path / "checkpoints")
    assert step == 12
    np.testing.assert_array_equal(model.get_weights()[0], first.model.get_weights()[0])


def test_loss_that_is_no_number_stops_training_and_keeps_the_checkpoints(short_job, digits, tmp_path):
    network = with_parameters(short_job.network, learning_rate=3e38)
    job = dataclasses.replace(short_job, network=network)
    with pytest.raises(TrainingDiverged, match=r"the loss was nan by step 4\. Lower the learning rate"):
        run(job, digits, tmp_path)
    assert (tmp_path / "checkpoints" / "ckpt-0.index").exists()
    assert not (tmp_path / "checkpoints" / "ckpt-4.index").exists()


@pytest.mark.slow
def test_two_devices_train_as_one(short_job, digits, tmp_path):
    """MirroredStrategy over two logical processors gives the weights of one, but for the order of additions."""
    alone = run(short_job, digits, tmp_path / "alone")
    for a, b in zip(alone.model.get_weights(), weights_of_two_devices(short_job, digits, tmp_path), strict=True):
        np.testing.assert_allclose(a, b, atol=1.2e-3)  # twelve steps of Adam, where a gradient is all noise
        assert np.abs(a - b).mean() < 5e-5


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [16, 15])
def test_two_devices_move_weights_as_far_as_one(short_job, digits, tmp_path, batch_size):
    """By plain gradient descent, which Adam would hide: with a regulariser, and with shares that differ."""
    source = dataclasses.replace(
        short_job.network, folder=str(Path(own_networks.__file__).parent), module="own_networks", build="scaled",
        parameters={"clipnorm": 0.0},  # which Keras does before it adds the replicas' gradients up
    )  # fmt: skip
    training = dataclasses.replace(short_job.training, steps=2, batch_size=batch_size)
    job = dataclasses.replace(short_job, network=source, training=training)
    alone = run(job, digits, tmp_path / "one")
    for a, b in zip(alone.model.get_weights(), weights_of_two_devices(job, digits, tmp_path), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(
    ("message", "refusal"),
    [
        ("", None),
        ("Graph execution error:\n  (0) INVALID_ARGUMENT:  ValueError: a damaged file\n\t [[{{node PyFunc}}]]", None),
        (
            "2 root error(s) found.\n  (0) UNIMPLEMENTED:  MaxPool has no deterministic XLA implementation.\n\t [[x]]",
            "MaxPool has no deterministic XLA implementation.",
        ),
        ("libdevice not found at ./libdevice.10.bc [Op:f]", "libdevice not found at ./libdevice.10.bc [Op:f]"),
    ],
)
def test_what_fails_is_told_from_what_xla_refuses(message, refusal):
    assert steps._refusal(tf.errors.InternalError(None, None, message)) == refusal


@pytest.mark.slow
def test_two_devices_that_xla_does_not_serve_train_as_those_that_it_was_not_asked_for(short_job, digits, tmp_path):
    folder = str(Path(own_networks.__file__).parent)
    source = dataclasses.replace(
        short_job.network, folder=folder, module="own_networks", build="in_python", parameters={}
    )
    job = dataclasses.replace(short_job, network=source)
    trained = []
    for name in ("", "xla"):
        (tmp_path / f"two{name}").mkdir()
        trained.append(weights_of_two_devices(job, digits, tmp_path / f"two{name}", name))
    for a, b in zip(*trained, strict=True):
        np.testing.assert_array_equal(a, b)


def test_accuracy_and_loss_are_accuracy_and_cross_entropy():
    scores = np.array([[0.9, 0.1], [0.4, 0.6], [0.8, 0.2]], np.float32)
    accuracy, loss = accuracy_and_loss(scores, np.array([0, 1, 1]))
    assert accuracy == pytest.approx(2 / 3)
    assert loss == pytest.approx(-np.mean(np.log([0.9, 0.6, 0.2])))


class InPython(keras.optimizers.SGD):
    """An optimizer that XLA cannot compile."""

    def update_step(self, gradient, variable, learning_rate):
        tf.py_function(lambda: None, [], [])
        super().update_step(gradient, variable, learning_rate)


def test_an_optimizer_that_xla_cannot_compile_is_not_compiled(short_job, digits, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(steps, "COMPILED_FROM", 1)
    build = loop.networks.build

    def build_with_it(*arguments):
        model = build(*arguments)
        model.compile(InPython(1e-3), model.loss)
        return model

    monkeypatch.setattr(loop.networks, "build", build_with_it)
    result = run(short_job, digits, tmp_path, said.append)
    assert "XLA does not compile the optimizer, InPython: its steps may take longer." in said
    assert result.steps == short_job.training.steps


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer",
    [
        keras.optimizers.Adam(1e-3),
        keras.optimizers.AdamW(1e-3, weight_decay=0.1, global_clipnorm=1.0),
        keras.optimizers.SGD(1e-3, momentum=0.9, nesterov=True, use_ema=True, ema_overwrite_frequency=2),
        keras.optimizers.RMSprop(1e-3, centered=True, clipvalue=0.1),
        keras.optimizers.Adagrad(1e-3),
        keras.optimizers.Adadelta(1e-3),
        keras.optimizers.Adamax(1e-3),
        keras.optimizers.Nadam(1e-3),
        keras.optimizers.Ftrl(1e-3),
        keras.optimizers.Lion(1e-3),
        keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(1e-3, 10), gradient_accumulation_steps=2),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_compiled_optimizer_does_what_it_does_uncompiled(optimizer):
    """Of all that Keras has, and what they do besides; long trainings use it."""

    def update(optimizer, variables, slopes):
        optimizer.apply(slopes, variables)

    rng = np.random.default_rng(1)
    gradients = [[tf.constant(rng.normal(size=size).astype(np.float32)) for size in (3, 5)] for _ in range(4)]
    ended = []
    for compiles in (False, True):
        made = type(optimizer).from_config(optimizer.get_config())
        variables = [keras.Variable(np.full(size, 0.5, np.float32)) for size in (3, 5)]
        made.build(variables)
        step = tf.function(functools.partial(update, made, variables), jit_compile=compiles)
        for slopes in gradients:
            step(slopes)
        made.finalize_variable_values(variables)
        ended.append([variable.numpy() for variable in variables])
    for a, b in zip(*ended, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
