import numpy as np
import pytest

from serving.server.models.bundle import SavedModelBundle
from serving.server.protocol.errors import StatusError
from tests.serving import models


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    bundle = SavedModelBundle(models.network(tmp_path_factory.mktemp("network") / "1"))
    yield bundle
    bundle.close()


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """TensorFlow 1's: all its tensors have names in the graph."""
    bundle = SavedModelBundle(models.half_plus_two(tmp_path_factory.mktemp("half") / "1"))
    yield bundle
    bundle.close()


@pytest.mark.parametrize("shape", [(), (28,), (1, 28, 28), (1, 28, 28, 3), (1, 27, 28, 1), (1, 1, 28, 28, 1)])
def test_a_graph_with_convolutions_takes_the_shape_of_its_signature_alone(network, shape):
    with pytest.raises(StatusError, match=r"must have the shape \[-1, 28, 28, 1\]") as error:
        network.run("predict_pixels", [np.zeros(shape, np.uint8)])
    assert error.value.code == "INVALID_ARGUMENT"
    assert len(network.run("predict_pixels", [np.zeros((2, 28, 28, 1), np.uint8)])) == 3


def test_an_input_of_any_shape_stays_so(network):
    rows = np.random.default_rng(0).random((2, 28, 28, 1), np.float32)
    whole, flat = (network.ask("predict_images", {"images": rows.reshape(s)}) for s in ((2, 28, 28, 1), (2, 784)))
    assert np.array_equal(whole["scores"], flat["scores"])


def test_tensors_between_inputs_and_outputs_have_names(half):
    assert half.run_tensors({"x:0": np.float32([2, 6])}, ["y:0", "mul:0"], [])[0].tolist() == [3, 5]
    assert half.run_tensors({"x:0": np.float32([2, 6])}, ["mul:0"], ["y"])[0].tolist() == [1, 3]


@pytest.mark.parametrize(
    ("feeds", "fetches", "targets"),
    [
        ({}, ["slope:0"], []),  # a weight
        ({}, ["slope/read:0"], []),
        ({}, ["save/control_dependency:0"], []),  # would write a checkpoint into the working folder
        ({}, [], ["save/restore_all"]),
        ({}, [], ["init"]),
        ({"save/Const:0": np.array("/etc/passwd", object)}, ["y:0"], []),
        ({"mul:0": np.float32([1])}, ["y:0"], []),
        ({"none:0": np.float32([1])}, ["y:0"], []),
    ],
)
def test_nothing_else_is_read_or_run(half, feeds, fetches, targets):
    with pytest.raises(StatusError) as error:
        half.run_tensors(feeds, fetches, targets)
    assert error.value.code == "NOT_FOUND"


def test_tensors_of_another_type_or_shape_are_refused(half, network):
    with pytest.raises(StatusError, match="x:0 is float32, not int64"):
        half.run_tensors({"x:0": np.int64([1])}, ["y:0"], [])
    with pytest.raises(StatusError, match="feed a value for placeholder"):
        half.run_tensors({}, ["y:0"], [])
    plan = network.plans["predict_pixels"]
    with pytest.raises(StatusError, match="must have the shape"):
        network.run_tensors({plan.feeds[0]: np.zeros(3, np.uint8)}, [plan.fetches["scores"]], [])
