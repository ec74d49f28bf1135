import numpy as np
import pytest
from google.protobuf import json_format

from pipeline.experiments.config import Gate
from pipeline.report.gate_decisions import Measured
from pipeline.run.graph import eval_config


def thresholds(gate, measured=None):
    metric = eval_config(gate, measured).metrics_specs[0].metrics[0]
    return [json_format.MessageToDict(threshold) for threshold in metric.per_slice_thresholds]


def test_floor_and_tolerance_hold_for_the_split_as_a_whole():
    (overall,) = thresholds(Gate(min_accuracy=0.975, tolerance=0.005))
    assert overall["slicingSpecs"] == [{}]
    assert overall["threshold"]["valueThreshold"] == {"lowerBound": pytest.approx(0.975)}
    change = {"direction": "HIGHER_IS_BETTER", "absolute": pytest.approx(-0.005, abs=1e-6)}
    assert overall["threshold"]["changeThreshold"] == change


def test_floor_of_a_class_holds_for_every_class():
    _, by_class = thresholds(Gate(min_accuracy=0.5, min_class_accuracy=0.4))
    assert by_class["slicingSpecs"] == [{"featureKeys": ["label"]}]
    assert by_class["threshold"] == {"valueThreshold": {"lowerBound": pytest.approx(0.4)}}


def test_a_decline_of_a_class_is_measured_where_a_limit_is_set():
    assert len(thresholds(Gate(min_accuracy=0.5))) == 1
    _, by_class = thresholds(Gate(min_accuracy=0.5, class_tolerance=0.0))
    change = {"direction": "HIGHER_IS_BETTER", "absolute": pytest.approx(0, abs=1e-6)}
    assert by_class["threshold"] == {"changeThreshold": change}
    _, both = thresholds(Gate(min_accuracy=0.5, min_class_accuracy=0.4, class_tolerance=0.03))
    assert both["threshold"]["valueThreshold"] == {"lowerBound": pytest.approx(0.4)}
    assert both["threshold"]["changeThreshold"]["absolute"] == pytest.approx(-0.03, abs=1e-6)


def test_what_is_known_of_the_stable_version_makes_floors_of_tolerances():
    measured = Measured("r", 0.99, [0.9, float("nan"), 0.7])
    (overall,) = thresholds(Gate(min_accuracy=0.975, tolerance=0.005), measured)
    assert overall["threshold"] == {"valueThreshold": {"lowerBound": pytest.approx(0.985)}}
    (overall,) = thresholds(Gate(min_accuracy=0.975, tolerance=0.1), measured)
    assert overall["threshold"] == {"valueThreshold": {"lowerBound": pytest.approx(0.975)}}
    _, *by_class = thresholds(Gate(min_accuracy=0.5, min_class_accuracy=0.75, class_tolerance=0.05), measured)
    assert by_class == [
        {
            "slicingSpecs": [{"featureValues": {"label": label}}],
            "threshold": {"valueThreshold": {"lowerBound": pytest.approx(floor)}},
        }
        for label, floor in (("0", 0.85), ("2", 0.75))
    ]
    _, by_class = thresholds(Gate(min_accuracy=0.5, min_class_accuracy=0.75), measured)
    assert by_class["slicingSpecs"] == [{"featureKeys": ["label"]}]


def float32(numerator, denominator):
    """An accuracy as Keras counts and TFMA reports it."""
    return float(np.float32(numerator) / np.float32(denominator))


@pytest.mark.parametrize("examples", [7, 500, 9_999, 10_000, 1_000_000])
@pytest.mark.parametrize("limit", [0.0, 0.005, 0.1, 0.3, 0.5602, 0.69, 0.975, 0.999999, 1.0])
def test_what_tfma_compares_is_the_comparison_of_counts(examples, limit):
    floor = Gate(min_accuracy=limit)
    tolerance = Gate(min_accuracy=0.0, tolerance=limit)
    lower = thresholds(floor)[0]["threshold"]["valueThreshold"]["lowerBound"]
    change = thresholds(tolerance)[0]["threshold"]["changeThreshold"]["absolute"]
    stable = examples - 1
    for least, baseline in ((floor.least_correct(examples), None), (tolerance.least_correct(examples, stable), stable)):
        for correct in range(max(0, least - 2), min(examples, least + 2) + 1):
            accuracy = float32(correct, examples)
            passes = accuracy >= lower if baseline is None else accuracy - float32(baseline, examples) >= change
            assert passes == (correct >= least), (correct, least)
