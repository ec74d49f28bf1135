import numpy as np
import pytest

from pipeline.experiments.config import Gate
from pipeline.release import promotion
from pipeline.release.promotion import Comparison, Side
from serving.client import ServingError


@pytest.mark.parametrize(
    ("canary", "reasons"),
    [
        pytest.param((900, 0), (), id="the same accuracy"),
        pytest.param((870, 0), (), id="the tolerance exactly"),
        pytest.param(
            (869, 0),
            (
                "the canary's accuracy 0.8690 is below the 0.9000 of the stable version by more than the tolerance of "
                "0.03",
            ),
            id="beyond the tolerance",
        ),
        pytest.param((950, 1), ("1 of the canary's requests failed",), id="a failed request"),
    ],
)
def test_a_good_canary_keeps_the_accuracy_and_fails_no_request(canary, reasons):
    comparison = Comparison(stable=Side(1, 1000, 900, 0, 1, 2), canary=Side(2, 1000, *canary, 1, 2))
    assert comparison.reasons(Gate(min_accuracy=0.5, tolerance=0.03)) == reasons


@pytest.mark.parametrize(
    "stable", [pytest.param((100, 800), id="stable failed"), pytest.param((100, 0), id="stable is worse")]
)
def test_a_canary_below_the_floor_is_bad_whatever_stable_does(stable):
    comparison = Comparison(stable=Side(1, 1000, *stable, 1, 2), canary=Side(2, 1000, 110, 0, 1, 2))
    assert "the canary's accuracy 0.1100 is below the floor of 0.5, gate.min_accuracy" in comparison.reasons(
        Gate(0.5, 0.03)
    )


def test_a_stable_version_that_fails_makes_no_canary_good():
    comparison = Comparison(stable=Side(1, 1000, 999, 1, 1, 2), canary=Side(2, 1000, 1000, 0, 1, 2))
    assert comparison.reasons(Gate(min_accuracy=0.5)) == ("1 of the stable's requests failed",)


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
