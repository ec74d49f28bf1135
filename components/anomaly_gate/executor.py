"""Reads what ExampleValidator found."""

from pathlib import Path

from tensorflow_metadata.proto.v0 import anomalies_pb2

from conveyor.errors import ConveyorError


class DataAnomalies(ConveyorError):
    """The data is not what its schema says, and nothing should be trained on it."""


def describe(folder: Path, splits: list[str]) -> list[str]:
    """Returns one sentence an anomaly.

    Args:
      folder: ExampleValidator's output, with `Split-<name>/SchemaDiff.pb` for each split.
      splits: names of the splits.
    """
    sentences = []
    for split in splits:
        anomalies = anomalies_pb2.Anomalies()
        anomalies.ParseFromString((folder / f"Split-{split}" / "SchemaDiff.pb").read_bytes())
        for feature, anomaly in sorted(anomalies.anomaly_info.items()):
            sentences.append(f"split {split}, {feature}: {anomaly.short_description}. {anomaly.description}")
        if anomalies.HasField("dataset_anomaly_info"):
            sentences.append(f"split {split}: {anomalies.dataset_anomaly_info.description}")
    return sentences
