import dataclasses
import datetime
import json

import pytest

from pipeline.experiments import load
from pipeline.home.folders import Home
from pipeline.home.metadata_store import ComponentRun, Run
from pipeline.home.outcome import Verdict
from pipeline.home.provenance import PartDigest, Provenance
from pipeline.report import page
from pipeline.report.page import Failure
from pipeline.report.processors import Processors


@pytest.fixture
def run():
    started = datetime.datetime(2026, 11, 22, tzinfo=datetime.timezone.utc)
    return Run("mnist-20261122T000000000-a", started, [])


@pytest.fixture
def provenance():
    return Provenance(load("mnist"), (PartDigest("base", "0" * 64, True),), None, "1" * 64, "2" * 64)


@pytest.fixture
def processors():
    with Processors() as looked:
        return looked


def test_a_report_is_a_page_and_a_json_file(tmp_path, run, provenance, processors):
    notes = []
    failure = Failure(Verdict.DRIFTED, "DriftGate failed: <why>", "/my home/logs/r 1.log")
    outcome = page.write(Home(tmp_path), provenance, run, notes.append, processors, failure)
    assert (outcome.verdict, outcome.run, notes) == (Verdict.DRIFTED, run.id, [])
    assert outcome.report == str(tmp_path / "reports" / f"{run.id}.html")
    text = (tmp_path / "reports" / f"{run.id}.html").read_text()
    assert "DriftGate failed: &lt;why&gt;" in text
    assert '<a href="file:///my%20home/logs/r%201.log">The log</a>' in text
    fields = json.loads((tmp_path / "reports" / f"{run.id}.json").read_text())
    assert fields["outcome"] == json.loads(json.dumps(outcome.to_dict()))
    assert (fields["failure"], fields["log"]) == (failure.sentence, failure.log)
    assert len(fields["processors"]["busy"]) == page.PARTS
    assert '<svg class="busy"' in text
    assert fields["data"]["parts"] == [{"name": "base", "digest": "0" * 64, "trained_on": True}]


def test_a_report_that_cannot_be_written_changes_no_verdict(tmp_path, run, provenance, processors):
    (tmp_path / "reports").write_text("a file")
    notes = []
    outcome = page.write(Home(tmp_path), provenance, run, notes.append, processors)
    assert outcome == dataclasses.replace(outcome, verdict=Verdict.REJECTED, report=None)
    (note,) = notes
    assert note.startswith(f"The report {tmp_path / 'reports' / run.id}.html cannot be written")


def test_the_time_line_says_when_each_component_ran(run):
    def component(name, state, offset, seconds):
        return ComponentRun(name, state, run.started + datetime.timedelta(seconds=offset), seconds, {})

    run = dataclasses.replace(
        run,
        components=[
            component("ImageExampleGen", "done", 0.0, 4.0),
            component("ImageExampleGen-span-1", "cached", 4.0, 0.5),
            component("ImageExampleGen-span-2", "cached", 4.5, 0.5),
            component("Evaluator", "done", 5.0, 5.0),
            component("ServabilityCheck", "done", 5.0, 2.0),
        ],
    )
    assert run.seconds == 10
    assert [(row["name"], row["state"], row["offset"], row["width"]) for row in page._time_line(run)] == [
        ("ImageExampleGen", "done", 0.0, 0.4),
        ("ImageExampleGen of 2 spans", "cached", 0.4, 0.1),
        ("Evaluator", "done", 0.5, 0.5),
        ("ServabilityCheck", "done", 0.5, 0.2),
    ]
