import threading

import numpy as np
import pytest

from serving.server.models.bundle import SavedModelBundle
from serving.server.models.lite_bundle import LiteBundle
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


def test_a_file_without_signatures_has_one_of_its_tensors(half):
    bundle, x, (y,) = names(half)
    assert list(bundle.plans) == ["serving_default"]
    assert ":" not in x + y
    assert bundle.signatures["serving_default"].method_name == "tensorflow/serving/predict"
    for values in ([[2.0]], [[2.0], [4.0], [10.0]], [[6.0]]):
        assert bundle.ask("serving_default", {x: np.float32(values)})[y].tolist() == [[v[0] / 2 + 2] for v in values]


def test_signatures_that_a_file_holds_have_their_names(tmp_path):
    path = models.half_plus_two_lite(tmp_path / "1", {"serving_default": "v", "regress": "inputs"})
    bundle = LiteBundle(path, 1)
    assert sorted(bundle.plans) == ["regress", "serving_default"]
    assert bundle.ask("regress", {"inputs": np.float32([[2]])})["y"].tolist() == [[3]]
    assert bundle.ask("serving_default", {"v": np.float32([[4]])})["y"].tolist() == [[4]]


def test_scores_are_the_saved_models(network):
    saved = SavedModelBundle(network)
    bundle, _, outputs = names(network)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1), np.uint8)
    found = dict(zip(outputs, bundle.run("serving_default", [pixels]), strict=True))
    scores = next(value for value in found.values() if value.dtype == np.float32)
    assert np.abs(scores - saved.ask("predict_pixels", {"images": pixels})["scores"]).max() < 1e-5
    saved.close()


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
def test_what_is_no_model_is_refused(tmp_path, data):
    (tmp_path / "model.tflite").write_bytes(data)
    with pytest.raises(StatusError) as error:
        LiteBundle(tmp_path, 1)
    assert error.value.code == "INVALID_ARGUMENT"


def test_signatures_of_tensors_that_are_not_there_are_refused(tmp_path):
    path = models.half_plus_two_lite(tmp_path / "1", {"serving_default": "x"}, tensor="elsewhere:0")
    with pytest.raises(StatusError, match="x references an unknown tensor 'elsewhere:0'"):
        LiteBundle(path, 1)


def test_there_is_no_graph_to_ask(half):
    with pytest.raises(StatusError) as error:
        LiteBundle(half, 1).run_tensors({}, ["y:0"], [])
    assert error.value.code == "UNIMPLEMENTED"
