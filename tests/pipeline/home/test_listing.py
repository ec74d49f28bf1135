import datetime

import pytest

from pipeline.home import listing
from pipeline.home.folders import Home
from pipeline.home.lock import locked
from pipeline.home.metadata_store import ComponentRun, Run
from serving.model_store import StoredModel


@pytest.fixture
def running(monkeypatch):
    started = datetime.datetime(2026, 11, 22, tzinfo=datetime.timezone.utc)
    run = Run("mnist-20261122T000000000-a", started, [ComponentRun("Trainer", "running", started, 0.0, {})])
    monkeypatch.setattr(listing, "past_runs", lambda *_: [run])
    return run


def test_a_run_is_running_while_its_process_is(tmp_path, running):
    home = Home(tmp_path)
    with locked(home):
        assert listing.run_rows(home, None)[0]["state"] == "running"
    assert listing.run_rows(home, None)[0]["state"] == "stopped"


def test_a_version_that_goes_during_the_look_is_not_listed(tmp_path, monkeypatch):
    home = Home(tmp_path)
    for version in (1, 2):
        home.models.model("m").path(version).mkdir(parents=True)
    read = StoredModel.record

    def read_and_remove(model, version):
        record = read(model, version)
        if version == 1:
            model.path(1).rmdir()
        return record

    monkeypatch.setattr(StoredModel, "record", read_and_remove)
    assert [row["version"] for row in listing.model_rows(home, None)] == [2]


@pytest.mark.parametrize("text", ['{"outcome": {"accuracy": 0.', "", "[1]", "\xff"])
def test_a_report_that_was_cut_off_is_none(tmp_path, running, text):
    home = Home(tmp_path)
    home.reports.mkdir()
    (home.reports / f"{running.id}.json").write_text(text, encoding="latin-1")
    assert listing.run_rows(home, None)[0]["accuracy"] is None


def test_a_run_in_a_home_without_a_lock_is_not_running(tmp_path, running):
    assert listing.run_rows(Home(tmp_path / "none"), None)[0]["state"] == "stopped"


def test_a_run_that_ends_during_the_look_is_what_it_ended_as(tmp_path, monkeypatch):
    looks = []
    monkeypatch.setattr(listing, "is_busy", lambda home: looks.append("lock"))
    monkeypatch.setattr(listing, "past_runs", lambda *_: looks.append("store") or [])
    listing.run_rows(Home(tmp_path), None)
    assert looks == ["lock", "store"]  # the store is newer than what the lock says
