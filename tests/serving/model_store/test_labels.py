import pytest

from components.atomic_pusher.executor import push
from serving.model_store import labels
from serving.model_store.labels import Labels, LabelsDamaged


@pytest.fixture
def base(tmp_path):
    for version in (1, 2, 3):
        (tmp_path / "base" / str(version)).mkdir(parents=True)
    return tmp_path / "base"


def model(tmp_path, text):
    (tmp_path / text).mkdir()
    (tmp_path / text / "saved_model.pb").write_text(text)
    return tmp_path / text


def test_the_newest_serves_where_nobody_named_one(base):
    assert labels.read(base) == Labels(stable=3)


def test_what_is_written_is_read(base):
    labels.write(base, Labels(2, 3, 1))
    assert labels.read(base) == Labels(2, 3, 1)


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (Labels(9, None, 2), Labels(2, None, None)),  # the one before
        (Labels(9, 3, None), Labels(2, 3, None)),  # the newest that is not on trial
        (Labels(2, 9, 8), Labels(2, None, None)),
    ],
)
def test_a_version_deleted_by_hand_has_no_label(base, known, expected):
    labels.write(base, known)
    assert labels.read(base) == expected


def test_damaged_labels_are_no_reason_to_serve_something_else(base):
    for text in ("{", "[]", '{"stable": 1}'):
        (base / labels.FILE).write_text(text)
        with pytest.raises(LabelsDamaged, match="Delete it to serve the newest version"):
            labels.read(base)


def test_a_push_serves(tmp_path, base):
    labels.write(base, Labels(2, 3, 1))
    assert push(model(tmp_path, "a"), base, {}).version == 4
    assert labels.read(base) == Labels(4, 3, 2)


def test_a_canary_does_not_serve(tmp_path, base):
    labels.write(base, Labels(2, None, 1))
    assert push(model(tmp_path, "a"), base, {}, canary=True).version == 4
    assert labels.read(base) == Labels(2, 4, 1)


def test_the_first_version_serves_even_as_a_canary(tmp_path):
    push(model(tmp_path, "a"), tmp_path / "new", {}, canary=True)
    assert labels.read(tmp_path / "new") == Labels(1)


def test_the_same_model_pushed_again_gets_the_label_that_a_killed_push_did_not_give(tmp_path, base):
    made = model(tmp_path, "a")
    push(made, base, {})
    labels.write(base, Labels(3, None, 2))  # as it was before the label was moved
    assert not push(made, base, {}).new
    assert labels.read(base) == Labels(4, None, 3)
