import pytest

from pipeline.experiments.config import ConfigError
from pipeline.home.folders import Home
from pipeline.release import promotion
from pipeline.release.promotion import Move
from serving.model_store import labels
from serving.model_store.labels import Labels


@pytest.fixture
def home(tmp_path):
    for version in (1, 2, 3):
        (tmp_path / "serving" / "m" / str(version)).mkdir(parents=True)
    return Home(tmp_path)


def named(home, *values):
    labels.write(home.serving / "m", Labels(*values))


def test_rollback_returns_to_what_served_before_and_again_to_what_served_after(home):
    named(home, 3, None, 1)
    assert promotion.rollback(home, "m", None) == Move("m", 3, 1)
    assert labels.read(home.serving / "m") == Labels(1, None, 3)
    assert promotion.rollback(home, "m", None) == Move("m", 1, 3)


def test_rollback_without_a_memory_takes_the_next_lower_version(home):
    assert promotion.rollback(home, "m", None) == Move("m", 3, 2)
    named(home, 1)
    with pytest.raises(ConfigError, match="There is no earlier version of m; there are 1, 2, 3"):
        promotion.rollback(home, "m", None)


def test_rollback_gives_the_canary_up(home):
    named(home, 2, 3, 1)
    promotion.rollback(home, "m", 1)
    assert labels.read(home.serving / "m") == Labels(1, None, 2)


def test_promote_makes_the_canary_stable(home):
    named(home, 2, 3, 1)
    assert promotion.promote(home, "m", checked=3) == Move("m", 2, 3)
    assert labels.read(home.serving / "m") == Labels(3, None, 2)


def test_promote_takes_no_other_canary_than_the_one_that_was_compared(home):
    named(home, 1, 3)
    with pytest.raises(ConfigError, match="version 3 by now; version 2 was compared"):
        promotion.promote(home, "m", checked=2)
    assert labels.read(home.serving / "m") == Labels(1, 3, None)


def test_nothing_was_pushed(home):
    with pytest.raises(ConfigError, match="No model n has been pushed"):
        promotion.stable(home, "n")
