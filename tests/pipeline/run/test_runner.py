from types import SimpleNamespace

import pytest

from conveyor.errors import ConfigError
from pipeline.experiments import load
from pipeline.home.folders import Home
from pipeline.run import runner


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
    console = SimpleNamespace(note=lambda _: None)
    with pytest.raises(KeyboardInterrupt if builds else ConfigError):
        runner.run(load("mnist"), Home(tmp_path), mnist, console, planned=lambda: order.append("remembered"))
    assert order == (["prepared", "remembered"] if builds else ["prepared"])
