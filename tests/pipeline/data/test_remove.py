import pytest

from components.image_example_gen import spans
from conveyor.errors import ConfigError, StorageError
from pipeline.data.remove import remove


@pytest.fixture
def root(tmp_path):
    for name in ("span-1", "span-2", "other", ".span.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text(name)
    return tmp_path


def test_a_span_is_kept_whole_in_the_bin(root):
    removed = remove(root, "span-1")
    assert spans.span_names(root) == ["span-2"]
    assert (root / ".removed" / "span-1" / "a").read_text() == "span-1"
    assert removed.kept == str(root / ".removed" / "span-1")
    assert spans.removed_names(root) == ["span-1"]


def test_a_span_that_came_back_may_go_again(root):
    (root / ".removed" / "span-2").mkdir(parents=True)
    (root / ".removed" / "notes").mkdir()
    assert [remove(root, "span-2").kept] == [str(root / ".removed" / "span-2.2")]
    assert (root / ".removed" / "span-2.2" / "a").exists()
    assert spans.removed_names(root) == ["span-2"]


@pytest.mark.parametrize("name", ["span-3", "other", "span-1/a", "../span-1", ".", "", ".span.partial"])
def test_what_is_no_span_is_not_taken_out(root, name):
    before = sorted(root.rglob("*"))
    with pytest.raises(ConfigError, match=r"There is no span .*: there are span-1, span-2\.$"):
        remove(root, name)
    assert sorted(root.rglob("*")) == before


def test_without_spans_it_is_said(tmp_path):
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match=r"There is no span 'span-1' in .*: there are none\.$"):
            remove(place, "span-1")


def test_spans_of_both_kinds_are_no_hindrance_for_one_must_go(root):
    (root / "2026-11-22").mkdir()
    remove(root, "2026-11-22")
    assert spans.span_names(root) == ["span-1", "span-2"]


def test_what_cannot_be_moved_is_a_sentence(root):
    (root / ".removed").write_text("a file")
    with pytest.raises(StorageError, match="span-1 cannot be taken out of"):
        remove(root, "span-1")
    assert (root / "span-1" / "a").exists()
