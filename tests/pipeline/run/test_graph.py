from google.protobuf import json_format

from pipeline.experiments.config import Gate
from pipeline.run.graph import eval_config


def thresholds(gate):
    metric = eval_config(gate).metrics_specs[0].metrics[0]
    return [json_format.MessageToDict(threshold) for threshold in metric.per_slice_thresholds]


def test_floor_and_tolerance_hold_for_the_split_as_a_whole():
    (overall,) = thresholds(Gate(min_accuracy=0.975, tolerance=0.005))
    assert overall["slicingSpecs"] == [{}]
    assert overall["threshold"]["valueThreshold"] == {"lowerBound": 0.975}
    assert overall["threshold"]["changeThreshold"] == {"direction": "HIGHER_IS_BETTER", "absolute": -0.005}


def test_floor_of_a_class_holds_for_every_class():
    _, by_class = thresholds(Gate(min_accuracy=0.5, min_class_accuracy=0.4))
    assert by_class["slicingSpecs"] == [{"featureKeys": ["label"]}]
    assert by_class["threshold"] == {"valueThreshold": {"lowerBound": 0.4}}
