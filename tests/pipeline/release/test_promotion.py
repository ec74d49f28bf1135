import numpy as np
import pytest

from pipeline.experiments.config import Gate
from pipeline.release import promotion
from pipeline.release.promotion import Comparison, Side
from serving.client import ServingError


@pytest.mark.parametrize(
    ("canary", "good"),
    [
        pytest.param(Side(2, 0.90, 0, 1, 2), True, id="the same accuracy"),
        pytest.param(Side(2, 0.88, 0, 1, 2), True, id="within the tolerance"),
        pytest.param(Side(2, 0.86, 0, 1, 2), False, id="beyond the tolerance"),
        pytest.param(Side(2, 0.95, 1, 1, 2), False, id="a failed request"),
    ],
)
def test_a_good_canary_keeps_the_accuracy_and_fails_no_request(canary, good):
    comparison = Comparison(stable=Side(1, 0.90, 0, 1, 2), canary=canary)
    assert comparison.is_good(Gate(min_accuracy=0.5, tolerance=0.03)) == good


class Client:
    """Stands for two versions: stable answers 7 to everything, the canary fails on dark images."""

    def __init__(self, target, model, label):
        self.label = label

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def status(self):
        return [type("Status", (), {"version": {"stable": 1, "canary": 2}[self.label]})]

    def predict(self, image):
        if self.label == "canary" and not image.any():
            raise ServingError("INTERNAL", "dark")
        return type("Prediction", (), {"label": np.array([7])})


def test_both_versions_answer_every_image(monkeypatch):
    monkeypatch.setattr(promotion, "Client", Client)
    images = np.array([np.zeros((2, 2, 1)), np.ones((2, 2, 1)), np.ones((2, 2, 1)), np.ones((2, 2, 1))], np.uint8)
    comparison = promotion.compare("localhost:1", "m", images, np.array([7, 7, 7, 3]))
    stable, canary = comparison.stable, comparison.canary
    assert (stable.version, stable.accuracy, stable.errors) == (1, 0.75, 0)
    assert (canary.version, canary.accuracy, canary.errors) == (2, 0.5, 1)
    assert 0 <= stable.p50 <= stable.p99
