import dataclasses
import hashlib

import numpy as np
import pytest
import tensorflow as tf
from tfx.proto import example_gen_pb2
from tfx.types import standard_artifacts
from tfx.utils import proto_utils

from components.image_example_gen.component import ImageExampleGen, newest_span
from components.image_example_gen.executor import Executor, serialize
from pipeline.explain import explain
from pipeline.graph import BEAM_ARGS
from tests.conftest import read_idx, write_idx


def properties_of(component):
    """Returns a component's execution properties as the launcher hands them to its executor."""
    return {
        name: proto_utils.proto_to_json(value) if hasattr(value, "DESCRIPTOR") else value
        for name, value in component.exec_properties.items()
    }


def ingest(folder, dataset, target, workers=1):
    """Runs the executor as the launcher would, and returns the SHA-256 of each file it wrote."""
    properties = properties_of(ImageExampleGen(folder, dataset, ""))
    examples = standard_artifacts.Examples()
    examples.uri = str(target)
    arguments = [*BEAM_ARGS[:-1], f"--direct_num_workers={workers}"]
    if workers > 1:
        arguments[1] = "--direct_running_mode=multi_threading"
    context = Executor.Context(beam_pipeline_args=arguments, tmp_dir=str(target), unique_id="1")
    Executor(context).Do({}, {"examples": [examples]}, properties)
    return {
        str(path.relative_to(target)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(target.rglob("*tfrecord*"))
    }


def read(folder):
    files = sorted(str(path) for path in folder.glob("*"))
    return [tf.train.Example.FromString(record.numpy()) for record in tf.data.TFRecordDataset(files)]


def test_examples_are_the_images_in_order(small_mnist, mnist_dataset, tmp_path):
    dataset = dataclasses.replace(mnist_dataset, eval_examples=300)
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


def test_two_runs_write_the_same_bytes(small_mnist, mnist_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("components.image_example_gen.shards.MAX_SHARD_BYTES", 784 * 256)
    dataset = dataclasses.replace(mnist_dataset, eval_examples=300)
    first = ingest(small_mnist, dataset, tmp_path / "a")
    assert len(first) == 2 + 7 + 2
    assert first == ingest(small_mnist, dataset, tmp_path / "b", workers=2)


def test_data_without_splits_is_divided(small_mnist, mnist_dataset, tmp_path):
    dataset = dataclasses.replace(mnist_dataset, splits=(("all", "train-*"),), eval_examples=0)
    ingest(small_mnist, dataset, tmp_path)
    counts = [len(read(tmp_path / f"Split-{split}")) for split in ("train", "eval", "test")]
    assert sum(counts) == 2000
    assert counts[0] > 1500
    assert min(counts) > 150


def test_newest_span_is_taken(small_mnist, mnist_dataset, tmp_path):
    images, labels = read_idx(small_mnist, "train", 2000)
    for span in (1, 2):
        write_idx(tmp_path / f"span-{span}", "train", images[span::9], labels[span::9])
        write_idx(tmp_path / f"span-{span}", "t10k", images[:20], labels[:20])
    dataset = dataclasses.replace(
        mnist_dataset,
        splits=(("train", "span-{SPAN}/train-*-ubyte"), ("test", "span-{SPAN}/t10k-*-ubyte")),
        eval_examples=10,
    )
    expected = [("train", "span-2/train-*-ubyte"), ("test", "span-2/t10k-*-ubyte")]
    assert newest_span(tmp_path, dataset) == expected
    driver = ImageExampleGen.DRIVER_CLASS(None)
    resolved = driver.resolve_exec_properties(properties_of(ImageExampleGen(tmp_path, dataset, "")), None, None)
    config = proto_utils.json_to_proto(resolved["input_config"], example_gen_pb2.Input())
    assert [(split.name, split.pattern) for split in config.splits] == expected


def test_error_in_a_worker_stays_a_sentence(small_mnist, mnist_dataset, tmp_path):
    images, labels = read_idx(small_mnist, "train", 100)
    labels = labels.copy()
    labels[60] = 11
    write_idx(tmp_path, "train", images, labels)
    write_idx(tmp_path, "t10k", images, labels[:1].repeat(100))
    dataset = dataclasses.replace(mnist_dataset, eval_examples=10)
    with pytest.raises(Exception, match="found 11") as error:
        ingest(tmp_path, dataset, tmp_path / "out")
    told = explain(error.value)
    assert told == f"{tmp_path}/train-labels-idx1-ubyte at byte 68: expected a label from 0 to 9, found 11."


def test_serializing_nothing_yields_nothing():
    assert list(serialize(np.zeros((0, 28, 28, 1), np.uint8), np.zeros(0, np.int64))) == []
