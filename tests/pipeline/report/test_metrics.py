import numpy as np
import pytest

from pipeline.report.metrics import CalibrationBin, ClassMetrics, measure

CLASSES = ("cat", "dog", "emu")


def scores_of(*rows):
    return np.array(rows, np.float32)


def test_precision_recall_and_f1_of_each_class_and_their_means():
    # cats: 2 found of 3; 1 dog taken for a cat; no emu found.
    labels = np.array([0, 0, 0, 1, 1, 2])
    predictions = [0, 0, 1, 0, 1, 1]
    measured = measure(labels, np.eye(3, dtype=np.float32)[predictions] * 0.8 + 0.2 / 3, CLASSES)
    cat, dog, emu = measured.by_class
    assert cat == ClassMetrics("cat", pytest.approx(2 / 3), pytest.approx(2 / 3), pytest.approx(2 / 3), 3)
    assert dog == ClassMetrics("dog", pytest.approx(1 / 3), pytest.approx(1 / 2), pytest.approx(0.4), 2)
    assert emu == ClassMetrics("emu", 0, 0, 0, 1)
    means = pytest.approx(1 / 3), pytest.approx(7 / 18), pytest.approx((2 / 3 + 0.4) / 3)
    assert measured.macro == ClassMetrics("macro", *means, 6)


def test_a_class_without_an_image_counts_in_the_means_as_it_does_for_scikit_learn():
    measured = measure(np.array([0, 1]), scores_of([1, 0, 0], [0, 1, 0]), CLASSES)
    assert measured.by_class[2] == ClassMetrics("emu", 0, 0, 0, 0)
    assert measured.macro.recall == pytest.approx(2 / 3)


def test_log_loss_is_the_mean_cross_entropy_in_nats():
    measured = measure(np.array([0, 2]), scores_of([0.5, 0.25, 0.25], [0.2, 0.2, 0.6]), CLASSES)
    assert measured.log_loss == pytest.approx(-(np.log(0.5) + np.log(0.6)) / 2, rel=1e-6)
    assert np.isfinite(measure(np.array([1]), scores_of([1, 0, 0]), CLASSES).log_loss)


def test_calibration_compares_confidence_and_accuracy():
    labels = np.array([0, 0, 1, 1, 0])
    rows = [[0.92, 0.08, 0], [0.96, 0.04, 0], [0.94, 0.06, 0], [0.45, 0.55, 0], [1, 0, 0]]
    measured = measure(labels, scores_of(*rows), CLASSES)
    low, high = measured.calibration
    assert low == CalibrationBin(pytest.approx(0.55), 1.0, 1)
    assert high == CalibrationBin(pytest.approx(0.955), 0.75, 4)
    assert measured.calibration_error == pytest.approx((0.45 + 4 * 0.205) / 5)
