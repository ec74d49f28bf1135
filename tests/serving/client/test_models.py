import dataclasses

import numpy as np
import pytest

from serving.client import ModelSpec, Prediction


@pytest.fixture
def prediction():
    scores = np.array([[0.1, 0.7, 0.2], [0.4, 0.2, 0.4]], np.float32)
    return Prediction(scores, np.array([["a", "b", "c"]] * 2), np.array([1, 0]), 1)


def test_top_classes_are_the_likeliest_first(prediction):
    names = [[name for name, _ in best] for best in prediction.top(2)]
    assert names == [["b", "c"], ["a", "c"]]
    assert prediction.top(1)[0][0][1] == pytest.approx(0.7)


def test_classes_that_are_as_likely_keep_their_order():
    many = Prediction(np.full((1, 64), 1 / 64, np.float32), np.array([[str(n) for n in range(64)]]), np.array([0]), 1)
    assert [name for name, _ in many.top(64)[0]] == [str(n) for n in range(64)]


def test_a_prediction_whose_parts_do_not_fit_is_refused(prediction):
    with pytest.raises(ValueError, match="argument"):
        dataclasses.replace(prediction, classes=prediction.classes[:1]).top(1)


def test_top_of_more_than_there_are_is_all(prediction):
    assert [len(best) for best in prediction.top(9)] == [3, 3]


@pytest.mark.parametrize("version", [-1, 2**63])
def test_a_version_that_cannot_be_is_refused(version):
    with pytest.raises(ValueError, match="a version is a number from 0"):
        ModelSpec("m", version)


def test_a_version_and_a_label_are_not_asked_for_together():
    with pytest.raises(ValueError, match="not for both"):
        ModelSpec("m", 1, "stable")
