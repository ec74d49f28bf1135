import threading

import numpy as np
import pytest
import tensorflow as tf

from serving.server.models.bundle import SavedModelBundle
from serving.server.models.lite_bundle import LiteBundle, _by_name
from serving.server.protocol.errors import StatusError
from tests.serving import models


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    return models.half_plus_two_lite(tmp_path_factory.mktemp("lite") / "1")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A network as SavedModel and as TensorFlow Lite file."""
    return models.lite(models.network(tmp_path_factory.mktemp("network") / "1"), "predict_pixels")


def names(path):
    """Returns the input's and the output's name of a file without SignatureDefs: those of its tensors."""
    bundle = LiteBundle(path, 1)
    (plan,) = bundle.plans.values()
    return bundle, next(iter(plan.inputs)), plan.outputs


@pytest.mark.compatible("TensorFlow Lite")
def test_a_file_without_signatures_has_one_of_its_tensors(half):
    bundle, x, (y,) = names(half)
    assert list(bundle.plans) == ["serving_default"]
    assert ":" not in x + y
    assert bundle.signatures["serving_default"].method_name == "tensorflow/serving/predict"
    for values in ([[2.0]], [[2.0], [4.0], [10.0]], [[6.0]]):
        assert bundle.ask("serving_default", {x: np.float32(values)})[y].tolist() == [[v[0] / 2 + 2] for v in values]


@pytest.mark.compatible("TensorFlow Lite")
def test_signatures_that_a_file_holds_have_their_names(tmp_path):
    path = models.half_plus_two_lite(tmp_path / "1", {"serving_default": "v", "regress": "inputs"})
    bundle = LiteBundle(path, 1)
    assert sorted(bundle.plans) == ["regress", "serving_default"]
    assert bundle.ask("regress", {"inputs": np.float32([[2]])})["y"].tolist() == [[3]]
    assert bundle.ask("serving_default", {"v": np.float32([[4]])})["y"].tolist() == [[4]]


@pytest.mark.compatible("TensorFlow Lite")
def test_scores_are_the_saved_models(network):
    saved = SavedModelBundle(network)
    bundle, _, outputs = names(network)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1), np.uint8)
    found = dict(zip(outputs, bundle.run("serving_default", [pixels]), strict=True))
    scores = next(value for value in found.values() if value.dtype == np.float32)
    assert np.abs(scores - saved.ask("predict_pixels", {"images": pixels})["scores"]).max() < 1e-5
    saved.close()


@pytest.mark.compatible(
    "TensorFlow Lite",
    differs="an input must have the shape of the file's: the interpreter may end the process on another",
)
def test_wrong_shapes_are_refused_and_the_next_request_is_answered(network):
    bundle = LiteBundle(network, 1)
    dice = np.random.default_rng(2019)
    for _ in range(300):
        shape = [int(size) for size in dice.choice([0, 1, 2, 27], dice.integers(0, 6))]
        with pytest.raises(StatusError) as error:
            bundle.run("serving_default", [np.zeros(shape, np.uint8)])
        assert error.value.code == "INVALID_ARGUMENT"
    assert len(bundle.run("serving_default", [np.zeros((2, 28, 28, 1), np.uint8)])[0]) == 2


def test_requests_at_once_each_get_their_own(half):
    bundle = LiteBundle(half, 2)
    wrong = []

    def ask(value):
        for rows in range(1, 50):
            found = bundle.run("serving_default", [np.full((rows, 1), value, np.float32)])[0]
            if found.tolist() != [[value / 2 + 2]] * rows:
                wrong.append((value, rows))

    threads = [threading.Thread(target=ask, args=(float(value),)) for value in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("data", [b"", b"no model", bytes(1000)])
@pytest.mark.compatible("TensorFlow Lite")
def test_what_is_no_model_is_refused(tmp_path, data):
    (tmp_path / "model.tflite").write_bytes(data)
    with pytest.raises(StatusError) as error:
        LiteBundle(tmp_path, 1)
    assert error.value.code == "INVALID_ARGUMENT"


@pytest.mark.compatible("TensorFlow Lite")
def test_signatures_of_tensors_that_are_not_there_are_refused(tmp_path):
    path = models.half_plus_two_lite(tmp_path / "1", {"serving_default": "x"}, tensor="elsewhere:0")
    with pytest.raises(StatusError, match="x references an unknown tensor 'elsewhere:0'"):
        LiteBundle(path, 1)


def test_there_is_no_graph_to_ask(half):
    with pytest.raises(StatusError) as error:
        LiteBundle(half, 1).run_tensors({}, ["y:0"])
    assert error.value.code == "UNIMPLEMENTED"


class Odd(tf.Module):
    """Functions whose files TensorFlow Lite can be brought out of step with."""

    @tf.function(input_signature=[tf.TensorSpec([1, 4, 4, 2], tf.float32, "x")])
    def one_row(self, x):
        return tf.nn.conv2d_transpose(x, tf.ones([2, 2, 1, 2]), [1, 8, 8, 1], 2)

    @tf.function(input_signature=[tf.TensorSpec([2], tf.float32, "a"), tf.TensorSpec([2], tf.float32, "b")])
    def two(self, a, b):
        return 2 * a + b

    @tf.function(input_signature=[tf.TensorSpec([4], tf.float32, "x"), tf.TensorSpec([2], tf.int32, "index")])
    def gathered(self, x, index):
        return tf.gather(x, index)

    @tf.function(input_signature=[tf.TensorSpec([], tf.string, "x")])
    def text(self, x):
        return tf.identity(x)


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Returns a bundle of one of the functions."""
    module = Odd()

    def make(name, interpreters=1):
        function = getattr(module, name).get_concrete_function()
        path = tmp_path_factory.mktemp(name)
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
        (path / "model.tflite").write_bytes(converter.convert())
        return LiteBundle(path, interpreters)

    return make


@pytest.mark.compatible("TensorFlow Lite", differs="of a file for one row, several are run one after the other")
def test_several_rows_of_a_file_for_one_are_run_one_by_one(odd):
    bundle = odd("one_row")
    rows = np.random.default_rng(0).random((5, 4, 4, 2), np.float32)
    (whole,) = bundle.run("serving_default", [rows])
    assert whole.shape == (5, 8, 8, 1)
    assert np.array_equal(whole[3:4], bundle.run("serving_default", [rows[3:4]])[0])


@pytest.mark.compatible(
    "TensorFlow Lite",
    differs="what a recurrent network keeps is reset before each request, which may be another client's",
)
def test_what_a_recurrent_network_keeps_is_reset_before_each_request(half, monkeypatch):
    bundle, reset = LiteBundle(half, 1), []
    monkeypatch.setattr(tf.lite.Interpreter, "reset_all_variables", lambda self: reset.append(self))
    for _ in range(2):
        bundle.run("serving_default", [np.float32([[1]])])
    assert len(reset) == 2


@pytest.mark.compatible("TensorFlow Lite")
def test_two_inputs_are_each_given_their_own(odd):
    bundle = odd("two")
    (plan,) = bundle.plans.values()
    values = {"a": np.float32([1, 2]), "b": np.float32([10, 20])}
    inputs = [values[key[-1]] for key in plan.inputs]  # such as serving_default_a
    assert bundle.run("serving_default", inputs)[0].tolist() in ([12, 24], [21, 42])


@pytest.mark.compatible("TensorFlow Lite")
def test_names_that_are_not_all_different_are_refused():
    details = [{"name": "s:0"}, {"name": "s:1"}]
    with pytest.raises(StatusError, match="names are not all different: s:0, s:1") as error:
        _by_name("Input", details)
    assert error.value.code == "ALREADY_EXISTS"


def test_an_interpreter_that_fails_answers_the_next_request(odd, monkeypatch):
    bundle = odd("gathered")
    (plan,) = bundle.plans.values()

    def ask(*places):
        values = {"float": np.arange(4, dtype=np.float32), "int": np.int32(places)}
        return bundle.run("serving_default", [values[["int", "float"][kind == 1]] for kind in plan.inputs.values()])

    for _ in range(3):
        with pytest.raises(StatusError):
            ask(1, 99)
    assert ask(1, 3)[0].tolist() == [1, 3]


def test_a_string_without_a_dimension_is_refused(odd):
    with pytest.raises(StatusError, match="is one string"):
        odd("text").run("serving_default", [np.array(b"a secret", object)])
