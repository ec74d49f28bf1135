"""Reads what ExampleValidator found."""

from pathlib import Path

from tensorflow_metadata.proto.v0 import anomalies_pb2

from conveyor.errors import ConveyorError

LOW_UNIQUE = anomalies_pb2.AnomalyInfo.FEATURE_TYPE_LOW_UNIQUE
HINT = (
    "`conveyor check` names the classes; more images of them help, or, where a hash divides the images, a larger "
    "dataset.splits.test_share."
)


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
            lacks_classes = feature == "label" and {reason.type for reason in anomaly.reason} == {LOW_UNIQUE}
            if lacks_classes and split == "eval":  # it is only looked at during training, and may be small
                continue
            if lacks_classes:
                sentences.append(f"split {split} has images of too few classes. {anomaly.description} {HINT}")
            else:
                sentences.append(f"split {split}, {feature}: {anomaly.short_description}. {anomaly.description}")
        if anomalies.HasField("dataset_anomaly_info"):
            sentences.append(f"split {split}: {anomalies.dataset_anomaly_info.description}")
    return sentences
