import dataclasses
import json
from types import SimpleNamespace

import pytest

from pipeline.experiments import load
from pipeline.home import metadata_store
from pipeline.home.folders import Home
from pipeline.home.outcome import Verdict
from pipeline.run.nothing_new import repeated_outcome
from serving.model_store import VersionRecord


@pytest.fixture
def home(tmp_path, monkeypatch):
    home = Home(tmp_path / "home")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "saved_model.pb").write_text("a")
    home.models.model("mnist").push(tmp_path / "model", VersionRecord(run="r1"))
    home.database.touch()
    monkeypatch.setattr(metadata_store, "connect", lambda _: None)
    return home


@pytest.fixture
def last(monkeypatch):
    """Makes what ML Metadata says of the last completed run."""

    def make(fingerprint="f", version=1):
        run = SimpleNamespace(id="r1", fingerprint=fingerprint, version=version)
        monkeypatch.setattr(metadata_store, "last_completed", lambda *_: run)

    make()
    return make


def ask(home, also_rejected=False):
    provenance = SimpleNamespace(fingerprint="f", baseline="b")
    plan = SimpleNamespace(home=home, experiment=load("mnist"), provenance=provenance)
    return repeated_outcome(plan, also_rejected)


def test_what_was_pushed_and_is_still_there_is_up_to_date(home, last):
    outcome = ask(home)
    assert (outcome.verdict, outcome.version, outcome.run) == (Verdict.UP_TO_DATE, 1, "r1")


def test_for_a_retraining_it_is_nothing_new(home, last):
    assert ask(home, also_rejected=True).verdict == Verdict.NOTHING_NEW


def test_another_fingerprint_is_new(home, last):
    last(fingerprint="g")
    assert ask(home) is None


def report(home, **fields):
    home.reports.mkdir(exist_ok=True)
    (home.reports / "r1.json").write_text(json.dumps(fields))


@pytest.mark.parametrize("fields", [{"baseline": "another"}, {}], ids=["rolled back since", "not written down"])
def test_a_rejection_ends_with_what_it_was_measured_against(home, last, fields):
    last(version=None)
    report(home, **fields)
    assert ask(home, also_rejected=True) is None


def test_a_rejection_counts_for_a_retraining_alone(home, last):
    last(version=None)
    report(home, baseline="b")
    assert ask(home) is None
    assert ask(home, also_rejected=True).verdict == Verdict.NOTHING_NEW


@pytest.mark.parametrize("file", ["saved_model.pb", "assets.extra/conveyor.json"])
def test_a_version_that_is_not_as_it_was_pushed_is_pushed_again(home, last, file):
    (home.models.model("mnist").path(1) / file).write_text("damaged")
    assert ask(home) is None


def test_a_home_without_metadata_has_nothing_to_repeat(home, last):
    home.database.unlink()
    assert ask(dataclasses.replace(home)) is None
