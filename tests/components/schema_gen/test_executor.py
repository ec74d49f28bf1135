import tempfile
from pathlib import Path

import pytest
import tensorflow_data_validation as tfdv

from components.scalar_statistics_gen import executor
from components.schema_gen.executor import schema_of
from tests.digits import read_idx, write_examples


def statistics(images, labels, dataset):
    """Returns statistics of the examples that ingestion makes of some images."""
    with tempfile.TemporaryDirectory() as folder:
        write_examples(Path(folder), images, labels)
        return executor.statistics([Path(folder)], schema_of(dataset))


@pytest.fixture(scope="module")
def real(mnist):
    return read_idx(mnist, "train", 2000)


@pytest.fixture(scope="module")
def schema(mnist_dataset):
    return schema_of(mnist_dataset)


def anomalies(images, labels, dataset, schema):
    found = tfdv.validate_statistics(statistics(images, labels, dataset), schema)
    return {name: info.short_description for name, info in found.anomaly_info.items()}


def test_pixels_are_in_no_statistics(real, mnist_dataset):
    features = statistics(*real, mnist_dataset).datasets[0].features
    assert {f.path.step[0] for f in features} == {"label", "image_mean", "image_stddev", "image_size"}


def test_real_images_have_no_anomaly(real, mnist_dataset, schema):
    assert anomalies(*real, mnist_dataset, schema) == {}


def test_missing_class_is_an_anomaly(real, mnist_dataset, schema):
    images, labels = real
    rest = labels != 4
    found = anomalies(images[rest], labels[rest], mnist_dataset, schema)
    assert list(found) == ["label"]


def test_label_out_of_the_domain_is_an_anomaly(real, mnist_dataset, schema):
    images, labels = real
    wrong = labels.copy()
    wrong[5] = 12
    assert list(anomalies(images, wrong, mnist_dataset, schema)) == ["label"]


def test_image_of_another_shape_is_an_anomaly(real, mnist_dataset, schema):
    images, labels = real
    assert list(anomalies(images[:, :20], labels, mnist_dataset, schema)) == ["image_size"]
