"""Measures drift with TensorFlow Data Validation's comparators.

Source: https://www.tensorflow.org/tfx/data_validation/get_started#checking_data_skew_and_drift
"""

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2

from components.scalar_statistics_gen.executor import statistics
from conveyor.errors import ConveyorError

DRIFT = "drift.json"
SCALARS = ("image_mean", "image_stddev")
_DISTANCES = {
    anomalies_pb2.DriftSkewInfo.Measurement.L_INFTY: "L-infinity distance",
    anomalies_pb2.DriftSkewInfo.Measurement.JENSEN_SHANNON_DIVERGENCE: "Jensen-Shannon divergence",
}


class DriftStopped(ConveyorError):
    """What arrived differs too much from the training data to train on it."""


@dataclasses.dataclass(frozen=True)
class DriftMeasurement:
    """How far one feature's distribution moved.

    Attributes:
      feature: `label`, `image_mean` or `image_stddev`.
      distance: the distance's name.
      value: from 0 to 1.
      limit: what it may be.
    """

    feature: str
    distance: str
    value: float
    limit: float

    @property
    def beyond(self) -> bool:
        """Whether the limit is exceeded."""
        return self.value > self.limit

    @property
    def sentence(self) -> str:
        """What a person should know of it."""
        relation = "above" if self.beyond else "within"
        return f"{self.feature}: {self.distance} {self.value:.3f}, {relation} the limit of {self.limit:g}"


def measure(
    trained_on: Sequence[Path], arrived: Sequence[Path], schema: schema_pb2.Schema, label: float, scalars: float
) -> list[DriftMeasurement]:
    """Returns the distance of each feature between two sets of tf.Examples.

    Args:
      trained_on: folders of TFRecord files.
      arrived: likewise.
      schema: of both.
      label: limit of the label's L-infinity distance.
      scalars: limit of the scalars' Jensen-Shannon divergence.
    """
    compared = copy.deepcopy(schema)
    for feature in compared.feature:
        if feature.name == "label":
            feature.drift_comparator.infinity_norm.threshold = label
        elif feature.name in SCALARS:
            feature.drift_comparator.jensen_shannon_divergence.threshold = scalars
    anomalies = tfdv.validate_statistics(
        statistics(arrived, compared), compared, previous_statistics=statistics(trained_on, compared)
    )
    return [
        DriftMeasurement(".".join(info.path.step), _DISTANCES[measured.type], measured.value, measured.threshold)
        for info in anomalies.drift_skew_info
        for measured in info.drift_measurements
    ]
