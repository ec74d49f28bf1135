import dataclasses
import json
import shutil

import numpy as np
import PIL.Image
import pytest

from components.image_example_gen import spans
from components.image_example_gen.data_error import DataError
from conveyor.errors import ConfigError, StorageError
from pipeline.data import add as adding
from pipeline.data.add import add
from pipeline.data.remove import remove
from pipeline.experiments import load
from tests.digits import held_out, read_idx, write_idx


@pytest.fixture
def root(small_mnist, tmp_path):
    shutil.copytree(small_mnist, tmp_path / "root")
    return tmp_path / "root"


@pytest.fixture
def experiment():
    mnist = load("mnist")
    return dataclasses.replace(mnist, dataset=held_out(mnist.dataset, 0))


@pytest.fixture
def batch(mnist, tmp_path):
    """Makes a folder of 20 digits that are in no other data here."""

    def make(number):
        images, labels = read_idx(mnist, "train", 2000 + 20 * (number + 1))
        write_idx(tmp_path / f"batch-{number}", "x", images[-20:], labels[-20:])
        return tmp_path / f"batch-{number}"

    return make


def test_spans_are_numbered_and_say_what_they_hold(root, experiment, batch):
    first, second = add(experiment, root, batch(1)), add(experiment, root, batch(2))
    assert (first.span, second.span) == ("span-1", "span-2")
    about = json.loads((root / "span-2" / "span.json").read_text())
    assert about["images"] == sum(about["by_class"].values()) == second.images == 20
    assert sorted(about["files"]) == ["x-images-idx3-ubyte", "x-labels-idx1-ubyte"]
    assert add(experiment, root, batch(1)) == dataclasses.replace(first, new=False)


def test_spans_may_have_dates(root, experiment, batch):
    assert add(experiment, root, batch(1), "2026-11-20").span == "2026-11-20"
    assert add(experiment, root, batch(2), "2026-11-22").span == "2026-11-22"
    for date, message in (("2026-11-21", "the newest span is, or was, of 2026-11-22"), ("monday", "expected a date")):
        with pytest.raises(ConfigError, match=message):
            add(experiment, root, batch(3), date)
    shutil.rmtree(root / "2026-11-22")
    assert len(add(experiment, root, batch(3)).span) == len("2026-11-22")  # today's, as its neighbour has one


@pytest.mark.parametrize(
    ("dates", "expected"),
    [
        ((None, None, None), ["span-1", "span-2", "span-3"]),
        (("2126-11-20", "2126-11-20", "2126-11-20"), ["2126-11-20", "2126-11-20-2", "2126-11-20-3"]),
        (("2126-11-20", "2126-11-22", "2126-11-23"), ["2126-11-20", "2126-11-22", "2126-11-23"]),
        (("2126-11-20", "2126-11-22", None), ["2126-11-20", "2126-11-22", "2126-11-22-2"]),
    ],
)
def test_the_name_of_a_span_that_was_taken_out_is_not_given_again(root, experiment, batch, dates, expected):
    names = [add(experiment, root, batch(number), dates[number]).span for number in (0, 1)]
    assert remove(root, names[1]).span == expected[1]
    assert [*names, add(experiment, root, batch(2), dates[2]).span] == expected


def test_what_was_taken_out_says_how_the_next_is_named(root, experiment, batch):
    """A span after it must be news for a version that was trained on it."""
    add(experiment, root, batch(1), "2126-11-22")
    remove(root, "2126-11-22")
    with pytest.raises(ConfigError, match="the newest span is, or was, of 2126-11-22"):
        add(experiment, root, batch(2), "2126-11-21")
    assert add(experiment, root, batch(2)).span == "2126-11-22-2"


def test_what_was_taken_out_may_be_added_again(root, experiment, batch):
    add(experiment, root, batch(1))
    remove(root, "span-1")
    added = add(experiment, root, batch(1))
    assert (added.span, added.new) == ("span-2", True)


@pytest.mark.parametrize("date", ["2126-11-20", None], ids=["the same date", "a clock that is behind"])
def test_a_day_may_bring_several_spans(root, experiment, batch, date):
    names = [add(experiment, root, batch(number), "2126-11-20" if number == 1 else date).span for number in (1, 2, 3)]
    assert names == ["2126-11-20", "2126-11-20-2", "2126-11-20-3"]
    assert spans.span_names(root) == names


def test_numbers_and_dates_are_not_mixed(root, experiment, batch):
    add(experiment, root, batch(1))
    with pytest.raises(ConfigError, match="are numbered"):
        add(experiment, root, batch(2), "2026-11-22")


def test_pictures_are_taken_whatever_the_format_of_the_base(root, experiment, batch, tmp_path):
    images, labels = read_idx(batch(1), "x", 20)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        (tmp_path / "pictures" / str(label)).mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(image).save(tmp_path / "pictures" / str(label) / f"{number}.png")
    added = add(experiment, root, tmp_path / "pictures")
    assert added.images == 20
    assert len(list((root / "span-1").glob("*/*.png"))) == 20


def test_files_that_change_while_they_are_read_are_refused(root, experiment, batch, monkeypatch):
    source = batch(1)
    check = adding.check_part

    def check_then_change(*arguments):
        counts = check(*arguments)
        (source / "x-labels-idx1-ubyte").write_bytes((source / "x-labels-idx1-ubyte").read_bytes()[:-1] + b"\0")
        return counts

    monkeypatch.setattr(adding, "check_part", check_then_change)
    with pytest.raises(DataError, match="expected the file that was checked, found another: it changed"):
        add(experiment, root, source)
    assert not list(root.glob("span-*"))
    assert not list(root.glob(".span*partial"))


def test_a_full_disk_leaves_nothing(root, experiment, batch, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(adding, "flush_tree", full)
    with pytest.raises(StorageError, match=r"Nothing can be added to .*No space left"):
        add(experiment, root, batch(1))
    assert not [path for pattern in ("span*", ".span.p*") for path in root.glob(pattern)]


def write_digits(folder, images, labels):
    write_idx(folder, "x", images, labels)


def label_out_of_range(folder, mnist):
    images, labels = read_idx(mnist, "train", 30)
    labels = labels.copy()
    labels[-1] = 12
    write_digits(folder, images, labels)


def image_of_the_test_split(folder, mnist):
    write_digits(folder, *read_idx(mnist, "t10k", 30))


def unknown_class(folder, _):
    (folder / "11").mkdir(parents=True)
    (folder / "11" / "a.png").write_bytes(b"no picture")


def no_picture(folder, _):
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "a.png").write_bytes(b"no picture")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(label_out_of_range, "at byte 37: expected a label from 0 to 9, found 12", id="label"),
        pytest.param(
            image_of_the_test_split,
            "x-images-idx3-ubyte: expected images that the base.*found 30 of those: images 0, 1, 2, 3,",
            id="test image",
        ),
        pytest.param(unknown_class, "expected a folder named after a class.*found '11'", id="class"),
        pytest.param(no_picture, "a.png: expected a whole picture: PNG", id="picture"),
        pytest.param(
            lambda folder, _: write_idx(folder, "x", np.zeros((0, 28, 28)), np.zeros(0)),
            "batch: expected at least one image, found none",
            id="no image",
        ),
        pytest.param(lambda folder, _: folder.mkdir(), "expected labelled images, which match", id="empty"),
        pytest.param(lambda *_: None, "expected a folder of labelled images, found none", id="no folder"),
    ],
)
def test_what_is_wrong_is_refused_and_nothing_is_added(root, experiment, mnist, tmp_path, make, message):
    make(tmp_path / "batch", mnist)
    before = sorted(root.iterdir())
    with pytest.raises(DataError, match=message):
        add(experiment, root, tmp_path / "batch")
    assert sorted(root.iterdir()) == before
