import numpy as np
import pytest
import tensorflow as tf

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
@pytest.mark.compatible(
    "tensors",
    differs="kernels with a layout end the process on another rank, so such graphs take their signature's shape alone",
)
def test_a_graph_with_convolutions_takes_the_shape_of_its_signature_alone(network, shape):
    with pytest.raises(StatusError, match=r"must have the shape \[-1, 28, 28, 1\]") as error:
        network.run("predict_pixels", [np.zeros(shape, np.uint8)])
    assert error.value.code == "INVALID_ARGUMENT"
    assert len(network.run("predict_pixels", [np.zeros((2, 28, 28, 1), np.uint8)])) == 3


def test_an_input_of_any_shape_stays_so(network):
    rows = np.random.default_rng(0).random((2, 28, 28, 1), np.float32)
    whole, flat = (network.ask("predict_images", {"images": rows.reshape(s)}) for s in ((2, 28, 28, 1), (2, 784)))
    assert np.array_equal(whole["scores"], flat["scores"])


def test_no_rows_have_an_empty_answer_or_are_told_of(half, network):
    (answer,) = half.ask("serving_default", {"x": np.zeros(0, np.float32)}).values()
    assert answer.shape == (0,)
    outcome: object = None
    try:
        outcome = network.ask("predict_pixels", {"images": np.zeros((0, 28, 28, 1), np.uint8)})["scores"].shape
    except StatusError as error:  # of kernels that cannot: which they are depends on the processor
        outcome = error.message.partition(":")[0]
    assert outcome in ((0, 10), "The request has no rows")


class Demanding(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def some(self, x):
        with tf.control_dependencies([tf.debugging.assert_positive(tf.shape(x)[0], "not any")]):
            return {"y": x + 1}

    @tf.function(input_signature=[])
    def never(self):
        with tf.control_dependencies([tf.debugging.assert_positive(0 * tf.random.uniform(()), "never")]):
            return {"y": tf.ones(1)}


def test_a_failure_without_rows_says_that_there_are_none_and_one_without_inputs_does_not(tmp_path):
    module = Demanding()
    tf.saved_model.save(module, str(tmp_path), signatures={"some": module.some, "never": module.never})
    bundle = SavedModelBundle(tmp_path)
    with pytest.raises(StatusError, match=r"^The request has no rows: .*not any"):
        bundle.ask("some", {"x": np.zeros(0, np.float32)})
    with pytest.raises(StatusError, match="never") as error:
        bundle.ask("never", {})
    assert "no rows" not in error.value.message
    bundle.close()


def test_bytes_that_tensorflow_quotes_may_be_no_text(network):
    with pytest.raises(StatusError, match="Could not parse example input") as error:
        network.ask("serving_default", {"examples": np.array([b"\x89PNG\r\n\x1a\n"], dtype=object)})
    assert error.value.code == "INVALID_ARGUMENT"


def test_tensors_are_run_by_their_names(half, network):
    assert half.run_tensors({"x:0": np.float32([2, 6])}, ["y:0"])[0].tolist() == [3, 5]
    with pytest.raises(StatusError, match="feed a value for placeholder"):
        half.run_tensors({}, ["y:0"])
    plan = network.plans["predict_pixels"]
    with pytest.raises(StatusError, match="must have the shape"):
        network.run_tensors({plan.feeds[0]: np.zeros(3, np.uint8)}, [plan.fetches["scores"]])


@pytest.mark.compatible(
    "tensors", differs="a scalar in place of rows is refused, on which many kernels end the process"
)
def test_a_scalar_in_place_of_rows_is_refused_by_every_graph(half):
    with pytest.raises(StatusError, match=r"x:0 must have the shape \[-1\]; \[\] is given"):
        half.run("serving_default", [np.float32(2)])


class Fragile(tf.Module):
    """Operations that end the process on a tensor of another rank, and an input of any shape before a convolution."""

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, "x")])
    def quantized(self, x):
        ends = tf.constant([1.0, 1.0, 1.0])
        return {"y": tf.quantization.fake_quant_with_min_max_vars_per_channel(x, -ends, ends)}

    @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, "x")])
    def convolved(self, x):
        return {"y": tf.nn.conv2d(x, tf.ones([1, 1, 1, 1]), 1, "SAME")}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def named(self, x):
        return {"count": tf.size(x), "name": tf.strings.join(["a", "b\0"])}


@pytest.fixture(scope="module")
def fragile(tmp_path_factory):
    path, module = tmp_path_factory.mktemp("fragile") / "1", Fragile()
    tf.saved_model.save(
        module, str(path), {name: getattr(module, name) for name in ("quantized", "convolved", "named")}
    )
    bundle = SavedModelBundle(path)
    yield bundle
    bundle.close()


@pytest.mark.parametrize(("name", "shape"), [("quantized", ()), ("quantized", (2,)), ("convolved", ())])
@pytest.mark.compatible("tensors", differs="kernels of some other operations end the process on another rank too")
def test_what_would_end_the_process_is_refused(fragile, name, shape):
    with pytest.raises(StatusError, match="must have"):
        fragile.run(name, [np.zeros(shape, np.float32)])
    assert fragile.run("quantized", [np.zeros((2, 3), np.float32)])[0].shape == (2, 3)
    assert fragile.run("convolved", [np.zeros((1, 2, 2, 1), np.float32)])[0].shape == (1, 2, 2, 1)


def test_a_string_without_a_dimension_is_an_array_too(fragile):
    count, name = fragile.run("named", [np.zeros(4, np.float32)])
    assert (count, name.shape, name.item()) == (4, (), b"ab\0")
