import dataclasses
import functools
import hashlib
import shutil

import apache_beam as beam
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from tfx.types import standard_artifacts
from tfx.utils import proto_utils

from components.image_example_gen.component import ImageExampleGen
from components.image_example_gen.data_error import DataError
from components.image_example_gen.dataset import Dataset, HashedSplits
from components.image_example_gen.executor import BaseFiles, Executor, read_test_sources, serialize
from components.image_example_gen.spans import BASE, Part, span
from pipeline.beam.runners import DIRECT, BeamRunner
from pipeline.run.error_text import error_text
from tests.digits import held_out, read_idx, write_idx
from tests.pictures import draw_classes
from trainer.examples import read_split


def properties_of(component):
    """Returns a component's execution properties as the launcher hands them to its executor."""
    return {
        name: proto_utils.proto_to_json(value) if hasattr(value, "DESCRIPTOR") else value
        for name, value in component.exec_properties.items()
    }


def run(component, target, runner=DIRECT, divides=False):
    """Runs the executor as the launcher would, and returns the artifact."""
    examples = standard_artifacts.Examples()
    examples.uri = str(target)
    make = functools.partial(beam.Pipeline, argv=runner.arguments(divides))
    context = Executor.Context(make_beam_pipeline_fn=make, tmp_dir=str(target), unique_id="1")
    Executor(context).Do({}, {"examples": [examples]}, properties_of(component))
    return examples


def ingest(folder, dataset, target, runner=DIRECT, divides=False, name=BASE):
    """Runs the executor, and returns the SHA-256 of each file it wrote."""
    run(ImageExampleGen(Part(name, folder, dataset), {}, ""), target, runner, divides)
    return {
        str(path.relative_to(target)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(target.rglob("*tfrecord*"))
    }


def read(folder):
    files = sorted(str(path) for path in folder.glob("*"))
    return [tf.train.Example.FromString(record.numpy()) for record in tf.data.TFRecordDataset(files)]


def ingest_span(root, dataset, target, holdout_share=0.0):
    base = BaseFiles(str(root), dataset, "")
    part = span(root / "span-1", dataset, holdout_share)
    return run(ImageExampleGen(part, {}, "", base), target)


@pytest.mark.parametrize("file", ["t10k", "train"], ids=["test", "eval"])
def test_what_the_base_holds_out_is_refused_in_a_span(small_mnist, mnist_dataset, tmp_path, file):
    shutil.copytree(small_mnist, tmp_path / "root")
    images, labels = read_idx(small_mnist, file, 5)
    write_idx(tmp_path / "root" / "span-1", "x", images, labels)
    with pytest.raises(Exception, match="x-images-idx3-ubyte") as error:
        ingest_span(tmp_path / "root", held_out(mnist_dataset, 300), tmp_path / "out")
    assert "expected images that the base files do not hold out" in error_text(error.value)
    assert "found 5 of those: images 0, 1, 2, 3, 4, counted from 0" in error_text(error.value)


@pytest.mark.parametrize("holdout_share", [0.0, 0.5])
def test_a_span_without_images_is_refused(small_mnist, mnist_dataset, tmp_path, holdout_share):
    shutil.copytree(small_mnist, tmp_path / "root")
    write_idx(tmp_path / "root" / "span-1", "x", np.zeros((0, 28, 28)), np.zeros(0))
    with pytest.raises(DataError, match="span-1: expected at least one image for the split train, found none"):
        ingest_span(tmp_path / "root", held_out(mnist_dataset, 300), tmp_path / "out", holdout_share)


def test_what_the_base_trains_on_may_be_in_a_span(small_mnist, mnist_dataset, tmp_path):
    shutil.copytree(small_mnist, tmp_path / "root")
    images, labels = read_idx(small_mnist, "train", 305)
    write_idx(tmp_path / "root" / "span-1", "x", images[300:], labels[300:])
    assert ingest_span(tmp_path / "root", held_out(mnist_dataset, 300), tmp_path / "out").split_names == '["train"]'


@pytest.mark.parametrize("number", range(300, 306))
def test_a_span_of_one_image_is_trained_on_whatever_is_held_out(small_mnist, mnist_dataset, tmp_path, number):
    shutil.copytree(small_mnist, tmp_path / "root")
    images, labels = read_idx(small_mnist, "train", number + 1)
    write_idx(tmp_path / "root" / "span-1", "x", images[-1:], labels[-1:])
    examples = ingest_span(tmp_path / "root", held_out(mnist_dataset, 300), tmp_path / "out", 0.7)
    assert examples.split_names == '["train"]'
    assert len(read(tmp_path / "out" / "Split-train")) == 1


def test_a_span_that_arrives_is_no_change_of_the_base(tmp_path, mnist_dataset):
    """What the driver adds to the execution properties decides, with them, what is taken from the cache."""
    dataset = dataclasses.replace(mnist_dataset, format="folders", splits=HashedSplits())
    component = ImageExampleGen(Part(BASE, tmp_path, dataset), {}, "")
    driver = component.DRIVER_CLASS(None)
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "a.png").touch()
    before = driver.resolve_exec_properties(properties_of(component), None, None)
    (tmp_path / "span-1" / "7").mkdir(parents=True)
    assert driver.resolve_exec_properties(properties_of(component), None, None) == before


def test_examples_are_the_images_in_order(small_mnist, mnist_dataset, tmp_path):
    dataset = held_out(mnist_dataset, 300)
    ingest(small_mnist, dataset, tmp_path)
    images, labels = read_idx(small_mnist, "train", 2000)
    examples = read(tmp_path / "Split-eval") + read(tmp_path / "Split-train")
    assert len(read(tmp_path / "Split-eval")) == 300
    for example, image, label in zip(examples, images, labels, strict=True):
        feature = example.features.feature
        assert feature["image"].bytes_list.value[0] == image.tobytes()
        assert feature["label"].int64_list.value[0] == label
        assert feature["image_mean"].float_list.value[0] == pytest.approx(image.mean(), rel=1e-5)
        assert feature["image_stddev"].float_list.value[0] == pytest.approx(image.std(), rel=1e-5)
        assert feature["image_size"].int64_list.value[0] == 784


@pytest.mark.parametrize(
    ("runner", "divides"), [(DIRECT, True), pytest.param(BeamRunner("multiprocess"), False, marks=pytest.mark.slow)]
)
def test_all_runners_write_the_same_bytes(small_mnist, mnist_dataset, tmp_path, monkeypatch, runner, divides):
    monkeypatch.setattr("components.image_example_gen.shards.MAX_SHARD_BYTES", 784 * 256)
    dataset = held_out(mnist_dataset, 300)
    first = ingest(small_mnist, dataset, tmp_path / "a")
    files = 2 + 7 + 2  # of eval, train and test
    assert len(first) == 2 * files + 2  # with their indexes; and where those of test come from
    assert first == ingest(small_mnist, dataset, tmp_path / "b", runner, divides)


def test_data_without_splits_is_divided(small_mnist, mnist_dataset, tmp_path):
    dataset = dataclasses.replace(mnist_dataset, splits=HashedSplits("train-*"))
    ingest(small_mnist, dataset, tmp_path)
    counts = [len(read(tmp_path / f"Split-{split}")) for split in ("train", "eval", "test")]
    assert sum(counts) == 2000
    assert counts[0] > 1500
    assert min(counts) > 150


def test_a_span_is_ingested_for_training_but_for_what_it_holds_out(small_mnist, mnist_dataset, tmp_path):
    write_idx(tmp_path / "span-1", "new", *read_idx(small_mnist, "train", 400))
    dataset = span(tmp_path / "span-1", mnist_dataset, holdout_share=0.25).dataset
    ingest(tmp_path / "span-1", dataset, tmp_path / "a", name="span-1")
    assert sorted(path.name for path in (tmp_path / "a").glob("Split-*")) == ["Split-eval", "Split-train"]
    held_out = len(read(tmp_path / "a" / "Split-eval"))
    assert 60 < held_out < 140
    assert held_out + len(read(tmp_path / "a" / "Split-train")) == 400


def test_the_artifact_says_what_it_was_made_of(small_mnist, mnist_dataset, tmp_path):
    files = {"a b \u00fc": "1" * 64}
    dataset = held_out(mnist_dataset, 0)
    component = ImageExampleGen(Part(BASE, small_mnist, dataset), files, "2" * 64)
    examples = run(component, tmp_path)
    assert examples.get_string_custom_property("input_files") == '{"a b \u00fc": "' + "1" * 64 + '"}'
    assert examples.get_string_custom_property("part") == "base"
    assert examples.get_string_custom_property("input_digest") == "2" * 64
    assert component.id == "ImageExampleGen"
    assert ImageExampleGen(span(tmp_path / "span-12", mnist_dataset), {}, "").id == "ImageExampleGen-span-12"


def test_error_in_a_worker_stays_a_sentence(small_mnist, mnist_dataset, tmp_path):
    images, labels = read_idx(small_mnist, "train", 100)
    labels = labels.copy()
    labels[60] = 11
    write_idx(tmp_path, "train", images, labels)
    write_idx(tmp_path, "t10k", images, labels[:1].repeat(100))
    dataset = held_out(mnist_dataset, 10)
    with pytest.raises(Exception, match="found 11") as error:
        ingest(tmp_path, dataset, tmp_path / "out")
    assert (
        error_text(error.value)
        == f"{tmp_path}/train-labels-idx1-ubyte at byte 68: expected a label from 0 to 9, found 11."
    )


def test_serializing_nothing_yields_nothing():
    assert list(serialize(np.zeros((0, 28, 28, 1), np.uint8), np.zeros(0, np.int64))) == []


def test_where_each_test_image_comes_from_is_kept(small_mnist, mnist_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("components.image_example_gen.shards.MAX_SHARD_BYTES", 784 * 256)
    ingest(small_mnist, held_out(mnist_dataset, 300), tmp_path / "a")
    sources = read_test_sources(tmp_path / "a")
    assert sources == [f"t10k-images-idx3-ubyte, image {number}" for number in range(500)]


def test_the_sources_of_hashed_splits_are_the_files_of_the_images(tmp_path):
    folder = draw_classes(tmp_path / "x", {"a": 30, "b": 30}, (4, 4))
    dataset = Dataset("x", "folders", (4, 4, 3), ("a", "b"))
    ingest(folder, dataset, tmp_path / "out")
    sources = read_test_sources(tmp_path / "out")
    images = read_split(tmp_path / "out" / "Split-test", dataset.pictures).images
    assert len(sources) == len(images) > 1
    for source, image in zip(sources, images, strict=True):
        assert np.array_equal(np.asarray(PIL.Image.open(folder / source)), image)
    assert read_test_sources(tmp_path) == []
