import dataclasses
import json
from types import SimpleNamespace

import pytest

from pipeline.experiments import load
from pipeline.home import metadata_store
from pipeline.home.folders import Home
from pipeline.home.outcome import Outcome, Verdict
from pipeline.run.nothing_new import repeated_outcome
from serving.model_store import VersionRecord


@pytest.fixture
def home(tmp_path, monkeypatch):
    home = Home(tmp_path / "home")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "saved_model.pb").write_text("a")
    home.models.model("mnist").push(tmp_path / "model", VersionRecord(run="r1"))
    home.database.write_text("something")
    monkeypatch.setattr(metadata_store, "connect", {home: "the store"}.__getitem__)
    return home


@pytest.fixture
def last(monkeypatch):
    """Makes what ML Metadata says of the last completed run."""

    def make(fingerprint="f", version=1):
        run = SimpleNamespace(id="r1", fingerprint=fingerprint, version=version)
        known = {("the store", "mnist"): run}
        monkeypatch.setattr(metadata_store, "last_completed", lambda *asked: known[asked])

    make()
    return make


def ask(home, also_rejected=False):
    provenance = SimpleNamespace(fingerprint="f", baseline="b")
    plan = SimpleNamespace(home=home, experiment=load("mnist"), provenance=provenance)
    return repeated_outcome(plan, also_rejected)


FIGURES = {"accuracy": 0.9, "baseline": 0.8}


def test_what_was_pushed_and_is_still_there_is_up_to_date(home, last):
    report(home, outcome=FIGURES | {"report": "/where/the/home/was/r1.html"})
    path = str(home.models.model("mnist").path(1))
    outcome = Outcome(Verdict.UP_TO_DATE, "r1", version=1, stable=1, label="stable", path=path, **FIGURES)
    assert ask(home) == outcome
    page = home.reports / "r1.html"
    page.touch()
    assert ask(home) == dataclasses.replace(outcome, report=str(page))


def test_what_was_pushed_and_has_no_label_any_more_is_up_to_date_too(home, last, tmp_path):
    for text in ("b", "c"):
        (tmp_path / "model" / "saved_model.pb").write_text(text)
        home.models.model("mnist").push(tmp_path / "model", VersionRecord(run="later"))
    assert ask(home).label is None


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
    report(home, baseline="b", outcome=FIGURES | {"reasons": ["it is worse"], "drift": ["label: far"]})
    assert ask(home) is None
    told = Outcome(Verdict.NOTHING_NEW, "r1", reasons=("it is worse",), drift=("label: far",), stable=1, **FIGURES)
    assert ask(home, also_rejected=True) == told


@pytest.mark.parametrize("file", ["saved_model.pb", "assets.extra/conveyor.json"])
def test_a_version_that_is_not_as_it_was_pushed_is_pushed_again(home, last, file):
    (home.models.model("mnist").path(1) / file).write_text("damaged")
    assert ask(home) is None


def test_a_home_without_metadata_has_nothing_to_repeat(home, last):
    home.database.unlink()
    assert ask(dataclasses.replace(home)) is None
