import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from components.image_example_gen.executor import serialize
from trainer import records
from trainer.records import ExamplesChanged, Records

ROOT = Path(__file__).parents[2]


def example(**features) -> bytes:
    made = tf.train.Example()
    for name, value in features.items():
        feature = made.features.feature[name]
        if isinstance(value, bytes):
            feature.bytes_list.value.append(value)
        elif isinstance(value, float):
            feature.float_list.value.append(value)
        else:
            feature.int64_list.value.append(value)
    return made.SerializeToString()


@pytest.mark.parametrize("size", [0, 1, 127, 128, 5000, 70_000])
@pytest.mark.parametrize("label", [0, 7, 127, 128, 40_000])
def test_the_image_of_any_example_is_found(size, label):
    image = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
    record = example(zebra=3, image=image, image_mean=0.5, label=label, note=b"image label")
    found = records.parse(record)
    assert record[found.offset : found.offset + found.size] == image
    assert found.label == label


def test_what_is_no_example_is_refused():
    for record in (b"", b"\x00", example(image=b"a"), example(label=1), example(image=b"a", label=1)[:-3], b"\x0d" * 9):
        with pytest.raises(ValueError, match=r"no tf\.Example with one image and one label"):
            records.parse(record)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 3), (28, 28, 1), (40, 40, 4)])
@pytest.mark.parametrize("classes", [2, 300])
def test_examples_are_what_protobuf_would_make_of_them(shape, classes):
    rng = np.random.default_rng(classes)
    images, labels = rng.integers(0, 256, (50, *shape), np.uint8), rng.integers(0, classes, 50)
    images[0], images[1] = 0, 255
    for record, image, label in zip(serialize(images, labels), images, labels, strict=True):
        read = tf.train.Example.FromString(record.content).features.feature
        assert read["image"].bytes_list.value[0] == image.tobytes()
        assert read["label"].int64_list.value[0] == record.label == label
        assert read["image_mean"].float_list.value[0] == np.float32(image.mean())
        assert read["image_stddev"].float_list.value[0] == pytest.approx(image.std(), rel=1e-5, abs=1e-4)
        assert read["image_size"].int64_list.value[0] == image.size
        assert record == records.parse(record.content)
        assert record.content == tf.train.Example.FromString(record.content).SerializeToString(deterministic=True)


@pytest.fixture
def splits(tmp_path):
    """Two splits with two files of ten images each, one of which has indexes."""
    rng = np.random.default_rng(1)
    images, labels = rng.integers(0, 256, (40, 4, 5, 3), np.uint8), rng.integers(0, 200, 40)
    files = []
    for number, name in enumerate(("Split-a", "Split-a", "Split-b", "Split-b")):
        part = slice(10 * number, 10 * number + 10)
        files.append(tmp_path / name / f"file-{number}")
        files[-1].parent.mkdir(exist_ok=True)
        if name == "Split-a":
            records.write(files[-1], serialize(images[part], labels[part]))
        else:
            with tf.io.TFRecordWriter(str(files[-1])) as writer:
                for record in serialize(images[part], labels[part]):
                    writer.write(record.content)
    return files, images, labels


def test_any_image_is_read_at_any_time_with_an_index_or_without(splits):
    files, images, labels = splits
    read = Records(files)
    assert (read.labels == labels).all()
    order = np.random.default_rng(2).permutation(40)[:25]
    assert (read.pixels(order, 60) == images[order].reshape(25, 60)).all()
    assert read.image(17) == images[17].tobytes()
    for file in files[:2]:
        with np.load(records.index_folder(file.parent) / f"{file.name}.npz") as index:
            np.testing.assert_array_equal(index["entries"], records.make_index(file))


def test_files_that_shrink_while_they_are_read_are_refused(splits):
    files, _, _ = splits
    read = Records(files)
    files[1].write_bytes(files[1].read_bytes()[:300])
    read.pixels(np.arange(10), 60)  # of the first file
    with pytest.raises(ExamplesChanged, match=rf"{files[1]} ends before byte \d+: it has been changed"):
        read.pixels(np.arange(20), 60)


def test_files_are_closed_with_what_reads_them(splits):
    read = Records(splits[0])
    opened = list(read._opened)
    assert all(Path(f"/proc/self/fd/{number}").exists() for number in opened)
    del read
    assert not any(Path(f"/proc/self/fd/{number}").exists() for number in opened)


def test_files_that_were_cut_off_are_refused(splits):
    files, _, _ = splits
    changed, ends = r"has \d+ bytes, and had \d+ when it was written", "the file ends within a record"
    for file, message in ((files[0], changed), (files[2], ends)):
        file.write_bytes(file.read_bytes()[:-30])
        with pytest.raises(ValueError, match=message):
            Records([file])


@pytest.mark.parametrize("kept", [None, 0, 4, 100])
def test_a_damaged_index_is_made_again(splits, kept):
    files, images, _ = splits
    index = records.index_folder(files[0].parent) / f"{files[0].name}.npz"
    index.write_bytes(b"PK damaged" if kept is None else index.read_bytes()[:kept])
    assert (Records(files).pixels(np.arange(40), 60) == images.reshape(40, 60)).all()


def test_more_files_than_a_process_may_open_are_allowed(splits, monkeypatch):
    files, _, _ = splits
    monkeypatch.setattr(records, "OTHER_FILES", resource.getrlimit(resource.RLIMIT_NOFILE)[0] + 1)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        Records(files)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert soft == min(before[0] + 1 + len(files), hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_no_file_and_an_empty_one_hold_nothing(tmp_path):
    (tmp_path / "Split-a").mkdir()
    (tmp_path / "Split-a" / "empty").touch()
    assert len(Records([])) == len(Records([tmp_path / "Split-a" / "empty"])) == 0


@pytest.mark.slow
def test_memory_is_bounded_however_much_is_read(tmp_path):
    """A fifth of a gigabyte of small images, read in a random order by a process that may not grow by so much."""
    folder = tmp_path / "Split-a"
    folder.mkdir()
    images = np.random.default_rng(1).integers(0, 256, (65_000, 32, 32, 3), np.uint8)
    records.write(folder / "file", serialize(images, np.zeros(len(images), np.int64)))
    code = (
        "import resource, sys; from pathlib import Path; import numpy as np; from trainer import records\n"
        "read = records.Records([Path(sys.argv[1])]); read.pixels(np.arange(64), 3072)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "order = np.random.default_rng(1).permutation(65_000)\n"
        "for start in range(0, 65_000, 64):\n"
        "    read.pixels(order[start : start + 64], 3072)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    arguments = [sys.executable, "-c", code, str(folder / "file")]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 20_000  # KB


def test_what_goes_wrong_in_an_input_pipeline_is_said_as_it_was(splits):
    files, _, _ = splits
    read = Records(files)
    files[1].write_bytes(b"")
    dataset = tf.data.Dataset.range(40).map(
        lambda number: tf.numpy_function(lambda n: read.pixels(np.array([n]), 60), [number], tf.uint8)
    )
    sentence = rf"^{files[1]} ends before byte \d+: it has been changed\.$"
    with pytest.raises(ExamplesChanged, match=sentence), records.changes_told():
        list(dataset)
    with pytest.raises(tf.errors.InvalidArgumentError), records.changes_told():
        tf.reshape(tf.zeros(3), [2])


def test_files_that_are_open_already_count_for_the_limit():
    script = (
        "import os, resource; from trainer import records\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))\n"
        "opened = [os.open('/dev/null', os.O_RDONLY) for _ in range(100)]\n"
        "records._allow_open_files(50)\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) >= 100 + 50 + records.OTHER_FILES
