import pandas as pd
import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2

from components.anomaly_gate.executor import describe
from components.schema_gen.executor import schema_of
from pipeline.experiments import load


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


def test_too_few_classes_matter_where_a_model_is_trained_or_measured(tmp_path):
    schema = schema_of(load("mnist").dataset)
    for split, labels in (("train", range(10)), ("eval", range(3)), ("test", range(9))):
        frame = pd.DataFrame({"label": [*labels] * 3, "image_mean": 1.0, "image_stddev": 1.0, "image_size": 784})
        statistics = tfdv.generate_statistics_from_dataframe(frame, tfdv.StatsOptions(schema=schema), n_jobs=1)
        found = tfdv.validate_statistics(statistics, schema)
        (tmp_path / f"Split-{split}").mkdir()
        (tmp_path / f"Split-{split}" / "SchemaDiff.pb").write_bytes(found.SerializeToString())
    (sentence,) = describe(tmp_path, ["train", "eval", "test"])
    assert sentence.startswith("split test has images of too few classes. Expected at least 10 unique values but found")
    assert sentence.endswith(
        "`conveyor check` names the classes; more images of them help, or, where a hash divides the "
        "images, a larger dataset.splits.test_share."
    )
