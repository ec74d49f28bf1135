import dataclasses
import json

import pytest

from conveyor.errors import ConfigError
from conveyor.settings import to_json
from pipeline.experiments import load
from pipeline.experiments.config import Gate, Serving
from pipeline.experiments.overrides import override


def test_digest_changes_with_any_field():
    experiment = load("mnist")
    other = override(experiment, ("gate.tolerance=0.006",))
    assert experiment.digest() == load("mnist").digest()
    assert experiment.digest() != other.digest()


def test_experiments_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load("mnist").training.steps = 3


def test_recipes_are_the_tutorials():
    mnist, cifar10 = load("mnist"), load("cifar10")
    assert mnist.network.parameters["learning_rate"] == 1e-4
    assert (mnist.training.batch_size, mnist.training.steps, mnist.training.log_every) == (50, 3000, 100)
    assert cifar10.network.parameters["learning_rate"] == 1e-3
    assert (cifar10.training.batch_size, cifar10.training.steps, cifar10.training.log_every) == (128, 10_000, 100)
    assert (mnist.gate.min_accuracy, cifar10.gate.min_accuracy) == (0.975, 0.60)


@pytest.mark.parametrize("factory", [lambda m: dataclasses.replace(m.training, steps=0), lambda m: Gate(2.0)])
def test_an_object_that_exists_is_valid(factory):
    with pytest.raises(ConfigError, match="it should be"):
        factory(load("mnist"))


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_record_of_the_settings_has_the_network_too(name):
    written = json.loads(to_json(load(name)))["network"]
    assert written == load(name).to_dict()["network"]
    assert written["build"] == f"{name}_tutorial.build"
    assert written["parameters"]["initial_stddev"] == 0.05


def test_too_many_values_are_refused():
    with pytest.raises(ConfigError, match="gate takes 4 values: min_accuracy, tolerance, min_class_accuracy, class_"):
        Gate(0.9, 0.1, 0.1, 0.1, 5)


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        ("idx", (28, 28, 3), r"dataset\.shape has 3 channels, and an IDX file has one"),
        ("folders", (28, 28, 2), r"dataset\.shape has 2 channels; pictures have 1 \(grey\), 3 \(RGB\) or 4"),
        ("folders", (10_000, 10_000, 3), r"an image may have 67,108,864 values at most"),
        ("cifar_binary", (0, 1, 1), r"dataset\.shape is \(0, 1, 1\); it must be three positive numbers"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(kind, shape, message):
    mnist = load("mnist")
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(mnist, dataset=dataclasses.replace(mnist.dataset, format=kind, shape=shape))


@pytest.mark.parametrize("sizes", [(1, 2000), (0,), (1,) * 33])
def test_warm_up_requests_are_bounded(sizes):
    with pytest.raises(ConfigError, match=r"serving\.warmup_batches"):
        Serving("m", warmup_batches=sizes)
