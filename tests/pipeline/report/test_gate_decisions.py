import dataclasses
from types import SimpleNamespace

import pytest

from pipeline.experiments import load
from pipeline.report.gate_decisions import Evaluation, _reason


def evaluation(now, before):
    return Evaluation(0.9, 10, now, 0.9 if before else None, before, [])


@pytest.mark.parametrize(
    ("now", "before", "sentence"),
    [
        ([0.9, 0.839], [0.9, 0.9], "class dog fell from 90.00 % to 83.90 %"),
        ([0.8, 0.839], [0.9, 0.9], "class cat fell from 90.00 % to 80.00 %; 1 more fell by less"),
        ([0.9, 0.95], [0.9, 0.9], None),
        ([0.9, 0.1], [], None),
        ([float("nan"), 0.9], [float("nan"), 0.9], None),
    ],
)
def test_the_class_that_fell_most_is_told_of(now, before, sentence):
    assert evaluation(now, before).largest_decline(["cat", "dog"]) == sentence


@pytest.mark.parametrize(
    ("label", "is_diff", "sentence"),
    [
        (None, False, "test accuracy 0.8000 is below the floor of 0.975"),
        (
            None,
            True,
            "test accuracy 0.8000 is below the 0.9000 of the stable version by more than the tolerance of 0.005",
        ),
        (7, False, "class 7: test accuracy 0.8000 is below the floor of 0.5 for a class"),
        (
            7,
            True,
            "class 7: test accuracy 0.8000 is below the 0.9000 of the stable version by more than the tolerance of "
            "0.03 for a class",
        ),
    ],
)
def test_every_threshold_has_its_sentence(label, is_diff, sentence):
    mnist = load("mnist")
    gate = dataclasses.replace(mnist.gate, min_class_accuracy=0.5, class_tolerance=0.03)
    failure = SimpleNamespace(metric_key=SimpleNamespace(is_diff=is_diff))
    experiment = dataclasses.replace(mnist, gate=gate)
    assert _reason(experiment, label, failure, {label: 0.8}, {label: 0.9}) == sentence
