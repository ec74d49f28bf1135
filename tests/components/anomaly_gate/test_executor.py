from tensorflow_metadata.proto.v0 import anomalies_pb2

from components.anomaly_gate.executor import describe


def write(folder, split, *names):
    anomalies = anomalies_pb2.Anomalies()
    for name in names:
        anomalies.anomaly_info[name].short_description = "Out-of-range values"
        anomalies.anomaly_info[name].description = "Unexpectedly high value: 12."
    (folder / f"Split-{split}").mkdir()
    (folder / f"Split-{split}" / "SchemaDiff.pb").write_bytes(anomalies.SerializeToString())


def test_nothing_is_said_where_nothing_is_wrong(tmp_path):
    write(tmp_path, "train")
    assert describe(tmp_path, ["train"]) == []


def test_each_anomaly_is_named_with_its_split(tmp_path):
    write(tmp_path, "train")
    write(tmp_path, "test", "label", "image_size")
    assert describe(tmp_path, ["train", "test"]) == [
        "split test, image_size: Out-of-range values. Unexpectedly high value: 12.",
        "split test, label: Out-of-range values. Unexpectedly high value: 12.",
    ]


def test_what_is_wrong_with_a_split_as_a_whole_is_said(tmp_path):
    anomalies = anomalies_pb2.Anomalies()
    anomalies.dataset_anomaly_info.description = "The dataset has too few examples."
    (tmp_path / "Split-train").mkdir()
    (tmp_path / "Split-train" / "SchemaDiff.pb").write_bytes(anomalies.SerializeToString())
    assert describe(tmp_path, ["train"]) == ["split train: The dataset has too few examples."]
