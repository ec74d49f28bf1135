import datetime

import pytest

from pipeline.home import listing
from pipeline.home.folders import Home
from pipeline.home.lock import locked
from pipeline.home.metadata_store import ComponentRun, Run


@pytest.fixture
def running():
    started = datetime.datetime(2026, 11, 22, tzinfo=datetime.timezone.utc)
    return Run("mnist-20261122T000000000-a", started, [ComponentRun("Trainer", "running", 0.0, {})])


def test_a_run_is_running_while_its_process_is(tmp_path, running):
    home = Home(tmp_path)
    with locked(home):
        assert listing.run_row(home, running)["state"] == "running"
    assert listing.run_row(home, running)["state"] == "unfinished"


def test_a_run_in_a_home_without_a_lock_is_not_running(tmp_path, running):
    assert listing.run_row(Home(tmp_path), running)["state"] == "unfinished"
