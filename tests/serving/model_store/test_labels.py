import pytest

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
