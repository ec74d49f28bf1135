import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.model_store.labels import Labels

VERSIONS = [1, 2, 3]


def fields(*values):
    return dict(zip(("stable", "canary", "previous"), values, strict=True))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        pytest.param((2, 3, 1), Labels(2, 3, 1), id="all are there"),
        pytest.param((None, None, None), Labels(3), id="nobody set one: the newest"),
        pytest.param((9, None, 2), Labels(2), id="stable was deleted: the previous one"),
        pytest.param((9, 3, None), Labels(2, 3), id="stable was deleted: the newest that is no canary"),
        pytest.param((2, 9, 8), Labels(2), id="canary and previous were deleted"),
    ],
)
def test_labels_of_versions_that_are_there(written, expected):
    assert Labels.of(fields(*written), VERSIONS) == expected


@pytest.mark.parametrize(
    ("before", "version", "after"),
    [
        pytest.param(Labels(2, None, 1), 3, Labels(3, None, 2), id="another"),
        pytest.param(Labels(2, 3, 1), 3, Labels(3, None, 2), id="the canary"),
        pytest.param(Labels(2, 3, 1), 4, Labels(4, 3, 2), id="another beside a canary"),
        pytest.param(Labels(2, 3, 1), 2, Labels(2, 3, 1), id="the same"),
    ],
)
def test_a_version_becomes_stable(before, version, after):
    assert before.with_stable(version) == after


@pytest.mark.parametrize(
    ("before", "as_canary", "after"),
    [
        pytest.param(Labels(2, 3, 1), False, Labels(4, 3, 2), id="stable"),
        pytest.param(Labels(2, None, 1), True, Labels(2, 4, 1), id="canary"),
        pytest.param(Labels(), True, Labels(4), id="the first version is stable even as a canary"),
    ],
)
def test_a_push_sets_a_label(before, as_canary, after):
    assert before.with_pushed(4, as_canary) == after


def test_labels_of_one_version():
    assert Labels(2, 3, 2).of_version(2) == ["stable", "previous"]
    assert Labels(2, 3, 1).of_version(4) == []


def test_a_server_is_told_of_stable_and_canary_alone():
    assert Labels(2, 3, 1).served == {"stable": 2, "canary": 3}
    assert Labels(2, None, 1).served == {"stable": 2}


NUMBERS = st.one_of(st.none(), st.integers(1, 6))


@given(st.tuples(NUMBERS, NUMBERS, NUMBERS), st.sets(st.integers(1, 6)))
def test_labels_are_of_versions_that_are_there_and_one_is_stable(written, there):
    labels = Labels.of(fields(*written), sorted(there))
    assert set(filter(None, (labels.stable, labels.canary, labels.previous))) <= there
    assert (labels.stable is None) == (not there)
    if written[0] in there:
        assert labels.stable == written[0]


@given(st.lists(st.tuples(st.sampled_from(["push", "canary", "stable"]), st.integers(1, 6)), max_size=12))
def test_no_version_is_stable_and_canary_and_the_one_before_is_remembered(changes):
    labels = Labels()
    for kind, version in changes:
        before = labels
        labels = labels.with_stable(version) if kind == "stable" else labels.with_pushed(version, kind == "canary")
        assert labels.stable is not None
        assert labels.canary != labels.stable
        if labels.stable != before.stable:
            assert labels.previous == before.stable


@given(st.lists(st.tuples(st.one_of(st.none(), st.sampled_from("abc")), st.sampled_from("abc")), max_size=12))
def test_what_is_stable_by_a_decision_is_not_taken_back(decisions):
    labels = Labels()
    for withdrawn, restored in decisions:
        labels = labels.with_decision(withdrawn, restored)
        assert restored not in labels.withdrawn
        assert len(set(labels.withdrawn)) == len(labels.withdrawn)
        assert withdrawn in (None, restored) or withdrawn in labels.withdrawn
