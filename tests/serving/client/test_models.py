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


def test_top_of_more_than_there_are_is_all(prediction):
    assert [len(best) for best in prediction.top(9)] == [3, 3]


@pytest.mark.parametrize("version", [-1, 2**63])
def test_a_version_that_cannot_be_is_refused(version):
    with pytest.raises(ValueError, match="a version is a number from 0"):
        ModelSpec("m", version)


def test_a_version_and_a_label_are_not_asked_for_together():
    with pytest.raises(ValueError, match="not for both"):
        ModelSpec("m", 1, "stable")
