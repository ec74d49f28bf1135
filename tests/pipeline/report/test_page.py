import dataclasses
import datetime
import json

import pytest

from pipeline.experiments import load
from pipeline.home.folders import Home
from pipeline.home.metadata_store import Run
from pipeline.home.outcome import Verdict
from pipeline.home.provenance import PartDigest, Provenance
from pipeline.report import page
from pipeline.report.page import Failure


@pytest.fixture
def run():
    started = datetime.datetime(2026, 11, 22, tzinfo=datetime.timezone.utc)
    return Run("mnist-20261122T000000000-a", started, [])


@pytest.fixture
def provenance():
    return Provenance(load("mnist"), (PartDigest("base", "0" * 64, True),), None, "1" * 64, "2" * 64)


def test_a_report_is_a_page_and_a_json_file(tmp_path, run, provenance):
    notes = []
    failure = Failure(Verdict.DRIFTED, "DriftGate failed: <why>", "/my home/logs/r 1.log")
    outcome = page.write(Home(tmp_path), provenance, run, notes.append, failure)
    assert (outcome.verdict, outcome.run, notes) == (Verdict.DRIFTED, run.id, [])
    assert outcome.report == str(tmp_path / "reports" / f"{run.id}.html")
    text = (tmp_path / "reports" / f"{run.id}.html").read_text()
    assert "DriftGate failed: &lt;why&gt;" in text
    assert '<a href="file:///my%20home/logs/r%201.log">The log</a>' in text
    fields = json.loads((tmp_path / "reports" / f"{run.id}.json").read_text())
    assert fields["outcome"] == json.loads(json.dumps(outcome.to_dict()))
    assert (fields["failure"], fields["log"]) == (failure.sentence, failure.log)
    assert fields["data"]["parts"] == [{"name": "base", "digest": "0" * 64, "trained_on": True}]


def test_a_report_that_cannot_be_written_changes_no_verdict(tmp_path, run, provenance):
    (tmp_path / "reports").write_text("a file")
    notes = []
    outcome = page.write(Home(tmp_path), provenance, run, notes.append)
    assert outcome == dataclasses.replace(outcome, verdict=Verdict.REJECTED, report=None)
    (note,) = notes
    assert note.startswith(f"The report {tmp_path / 'reports' / run.id}.html cannot be written")
