import pytest
import tensorflow_data_validation as tfdv

from components.scalar_statistics_gen.executor import write
from components.schema_gen.executor import schema_of
from tests.digits import read_idx, write_examples


def test_each_split_has_statistics_of_its_scalars(mnist, mnist_dataset, tmp_path):
    images, labels = read_idx(mnist, "train", 6000)
    write_examples(tmp_path / "Split-train", images[:5000], labels[:5000])
    write_examples(tmp_path / "Split-test", images[5000:], labels[5000:])
    write(tmp_path, ["train", "test"], schema_of(mnist_dataset), tmp_path / "statistics")
    for split, part in (("train", slice(0, 5000)), ("test", slice(5000, 6000))):
        (measured,) = tfdv.load_stats_binary(
            str(tmp_path / "statistics" / f"Split-{split}" / "FeatureStats.pb")
        ).datasets
        features = {feature.path.step[0]: feature for feature in measured.features}
        assert set(features) == {"label", "image_mean", "image_stddev", "image_size"}
        assert measured.num_examples == len(images[part])
        means = images[part].reshape(-1, 784).mean(axis=1)
        assert features["image_mean"].num_stats.mean == pytest.approx(means.mean(), rel=1e-5)
        assert features["image_mean"].num_stats.max == pytest.approx(means.max(), rel=1e-5)
        counts = {bucket.label: bucket.sample_count for bucket in features["label"].string_stats.rank_histogram.buckets}
        assert counts == {str(label): (labels[part] == label).sum() for label in range(10)}


def test_a_split_without_examples_has_statistics_too(mnist_dataset, tmp_path):
    (tmp_path / "Split-eval").mkdir()
    write(tmp_path, ["eval"], schema_of(mnist_dataset), tmp_path)
    (measured,) = tfdv.load_stats_binary(str(tmp_path / "Split-eval" / "FeatureStats.pb")).datasets
    assert measured.num_examples == 0
    kinds = {feature.path.step[0]: feature.type for feature in measured.features}
    assert kinds == {"label": 0, "image_mean": 1, "image_stddev": 1, "image_size": 0}  # INT and FLOAT
