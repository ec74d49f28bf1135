import numpy as np
import pytest
import tensorflow as tf

from components.drift_gate.executor import measure
from components.image_example_gen.executor import serialize
from components.schema_gen.executor import schema_of
from tests.digits import read_idx


@pytest.fixture(scope="module")
def digits(mnist):
    images, labels = read_idx(mnist, "train", 6000)
    return images[..., np.newaxis], labels.astype(np.int64)


@pytest.fixture
def distances(digits, mnist_dataset, tmp_path):
    def write(name, images, labels):
        (tmp_path / name).mkdir()
        with tf.io.TFRecordWriter(str(tmp_path / name / "data")) as writer:
            for record in serialize(images, labels):
                writer.write(record.content)
        return tmp_path / name

    known = [write("a", digits[0][:2500], digits[1][:2500]), write("b", digits[0][2500:5000], digits[1][2500:5000])]

    def distances(images, labels):
        found = measure(known, [write("new", images, labels)], schema_of(mnist_dataset), 0.1, 0.2)
        return {one.feature: one for one in found}

    return distances


def test_more_of_the_same_is_within_the_limits(distances, digits):
    found = distances(digits[0][5000:], digits[1][5000:])
    assert set(found) == {"label", "image_mean", "image_stddev"}
    assert not any(one.beyond for one in found.values())


def test_the_labels_distance_is_the_largest_difference_of_a_share(distances, digits):
    images, labels = digits[0][5000:], digits[1][5000:]
    some = labels < 3
    found = distances(images[some], labels[some])["label"]
    before = np.bincount(digits[1][:5000], minlength=10) / 5000
    after = np.bincount(labels[some], minlength=10) / some.sum()
    assert found.value == pytest.approx(np.abs(before - after).max(), abs=1e-6)
    assert found.sentence == f"label: L-infinity distance {found.value:.3f}, above the limit of 0.1"


def test_inverted_pictures_are_far_away(distances, digits):
    found = distances(255 - digits[0][5000:], digits[1][5000:])
    assert found["image_mean"].value > 0.9
    assert not found["label"].beyond
