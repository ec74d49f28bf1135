from types import SimpleNamespace

import pytest

from conveyor.errors import ConfigError
from pipeline.experiments import load
from pipeline.home.folders import Home
from pipeline.home.outcome import Outcome, Verdict
from pipeline.release import rollout
from pipeline.release.rollout import Settled
from pipeline.run import runner
from pipeline.run.console import Console


@pytest.mark.parametrize("builds", [True, False])
def test_what_a_run_is_of_is_remembered_once_its_network_is_built(tmp_path, mnist, monkeypatch, builds):
    order = []

    def prepare(_plan, _console):
        order.append("prepared")
        if not builds:
            raise ConfigError("The network cannot be built.")

    def carry_out(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "prepare", prepare)
    monkeypatch.setattr(runner, "carry_out", carry_out)
    with pytest.raises(KeyboardInterrupt if builds else ConfigError):
        runner.run(load("mnist"), Home(tmp_path), mnist, Console(), planned=lambda: order.append("remembered"))
    assert order == (["prepared", "remembered"] if builds else ["prepared"])


def test_each_server_is_said_to_serve_a_new_version_or_why_not(tmp_path, monkeypatch):
    settled = [
        Settled("localhost:1", made=True),
        Settled("localhost:2", made=False),
        Settled("localhost:3", made=False, problem="localhost:3 does not follow.", runs=False),
    ]
    monkeypatch.setattr(rollout, "settle", lambda *_: settled)
    said = []
    outcome = Outcome(Verdict.PUSHED, "run", version=4, label="stable")
    runner._settle(Home(tmp_path), "m", outcome, SimpleNamespace(note=said.append))
    assert said == [
        "localhost:1 serves version 4, as stable",
        "localhost:2 does not serve version 4, as stable",
        "localhost:3 does not follow.",
    ]
