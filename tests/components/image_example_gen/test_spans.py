import dataclasses
import itertools
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.image_example_gen.data_error import DataError
from components.image_example_gen.dataset import HashedSplits, Spans
from components.image_example_gen.spans import Part, is_later, order, parts, span, span_names


def make(root, *names):
    for name in names:
        (root / name).mkdir()


def trained_on(root, dataset, window):
    return [part.name for part in parts(root, dataset, Spans(window=window)) if part.trained_on]


def test_spans_are_in_the_order_of_their_numbers(tmp_path, mnist_dataset):
    make(tmp_path, "span-10", "span-9", "span-1", "span-0", "spans", ".span.partial", "other")
    assert span_names(tmp_path) == ["span-1", "span-9", "span-10"]


def test_spans_are_in_the_order_of_their_dates(tmp_path):
    make(tmp_path, "2026-11-02-10", "2026-11-02-9", "2026-11-02", "2025-12-31", "2026-13-01", "2026-11-02-1")
    assert span_names(tmp_path) == ["2025-12-31", "2026-11-02", "2026-11-02-9", "2026-11-02-10"]


def test_hidden_files_and_folders_are_nobodys(tmp_path, mnist_dataset):
    for name in ("7/a.png", "7/.b.png", ".span.partial/c.png", ".git/d.png", "7/Thumbs.db", "7/desktop.ini"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert Part("base", tmp_path, mnist_dataset).files("*/*") == [tmp_path / "7" / "a.png"]
    assert Part("base", tmp_path, mnist_dataset).files("**/*") == [tmp_path / "7" / "a.png"]


@pytest.mark.parametrize(
    ("pattern", "closed"), [("*/*", "7"), ("train/*/*", "train"), ("train/*/*", "train/7"), ("train-*", "")]
)
def test_a_folder_that_cannot_be_read_is_not_empty(tmp_path, mnist_dataset, monkeypatch, pattern, closed):
    (tmp_path / "7").mkdir()
    (tmp_path / "train" / "7").mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda path, _mode: path != tmp_path / closed)
    with pytest.raises(DataError, match="expected a folder that can be read"):
        Part("base", tmp_path, mnist_dataset).files(pattern)


def test_a_folder_of_no_class_need_not_be_read(tmp_path, mnist_dataset, monkeypatch):
    make(tmp_path, "lost+found", "7")
    (tmp_path / "7" / "a.png").touch()
    monkeypatch.setattr(os, "access", lambda path, _mode: path != tmp_path / "lost+found")
    assert Part("base", tmp_path, mnist_dataset).files("*/*") == [tmp_path / "7" / "a.png"]


def test_spans_of_both_kinds_have_no_order(tmp_path):
    make(tmp_path, "2026-11-02", "span-1")
    with pytest.raises(DataError, match="numbers or by dates, found both: 2026-11-02, span-1"):
        span_names(tmp_path)


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (0, ["base", "span-1", "span-2", "span-3"]),
        (1, ["span-3"]),
        (3, ["span-1", "span-2", "span-3"]),
        (4, ["base", "span-1", "span-2", "span-3"]),
        (9, ["base", "span-1", "span-2", "span-3"]),
    ],
)
def test_window(tmp_path, mnist_dataset, window, expected):
    make(tmp_path, "span-1", "span-2", "span-3")
    assert trained_on(tmp_path, mnist_dataset, window) == expected


def test_base_files_are_always_there_for_they_hold_the_test_split(tmp_path, mnist_dataset):
    make(tmp_path, "span-1")
    assert parts(tmp_path, mnist_dataset, Spans(window=1))[0].name == "base"


def test_files_of_a_span_are_not_the_bases(tmp_path, mnist_dataset):
    for name in ("span-1/rose", "rose"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.png").touch()
    (tmp_path / "span-1" / "span.json").touch()
    dataset = dataclasses.replace(mnist_dataset, format="folders", splits=HashedSplits())
    base, first = parts(tmp_path, dataset, Spans())
    assert base.files("*/*") == [tmp_path / "rose" / "a.png"]
    assert first.files("*/*") == [tmp_path / "span-1" / "rose" / "a.png"]


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("x-images-idx3-ubyte", "idx"),
        ("x-images-idx3-ubyte.gz", "idx"),
        ("x.bin", "cifar_binary"),
        ("x.bin.gz", "cifar_binary"),
        ("rose/x.png", "folders"),
    ],
)
def test_a_spans_files_say_their_format(tmp_path, mnist_dataset, file, kind):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    part = span(tmp_path, mnist_dataset)
    assert part.dataset.format == kind
    assert part.files(part.dataset.splits.files) == [tmp_path / file]


def test_a_gzipped_file_counts_where_its_content_does_not_lie_beside_it(tmp_path, mnist_dataset):
    for name in ("a-ubyte", "a-ubyte.gz", "b-ubyte.gz", "c-ubyte.gz.gz"):
        (tmp_path / name).touch()
    base = Part("base", tmp_path, mnist_dataset)
    assert [path.name for path in base.files("*-ubyte")] == ["a-ubyte", "b-ubyte.gz"]
    assert [path.name for path in base.files("b-ubyte.gz")] == ["b-ubyte.gz"]


def test_what_says_nothing_of_the_files_is_no_reason_to_read_them_again(tmp_path, mnist_dataset):
    make(tmp_path, "span-1")
    other = parts(tmp_path, mnist_dataset, Spans(window=5, holdout_share=0.5))
    assert other[0] == parts(tmp_path, mnist_dataset, Spans())[0]


NUMBERED = st.integers(1, 10**6).map(lambda number: f"span-{number}")
DATED = st.builds(lambda day, number: f"{day}" if number == 1 else f"{day}-{number}", st.dates(), st.integers(1, 30))


@given(st.one_of(NUMBERED, DATED, st.text(max_size=12)), st.one_of(NUMBERED, DATED, st.text(max_size=12)))
def test_of_two_names_one_is_later_or_they_are_one_or_have_no_order(name, other):
    places = order(name), order(other)
    comparable = None not in places and type(places[0]) is type(places[1])
    assert is_later(name, other) + is_later(other, name) + (name == other and comparable) == comparable


@given(
    st.one_of(st.lists(NUMBERED, max_size=6, unique=True), st.lists(DATED, max_size=6, unique=True)), st.integers(0, 8)
)
def test_the_window_holds_the_newest_parts(tmp_path_factory, mnist_dataset, names, window):
    root = tmp_path_factory.mktemp("spans")
    make(root, *names)
    ordered = span_names(root)
    assert sorted(ordered) == sorted(names)
    assert all(is_later(later, earlier) for earlier, later in itertools.pairwise(ordered))
    whole = ["base", *ordered]
    assert trained_on(root, mnist_dataset, window) == whole[-window:] if window else whole
