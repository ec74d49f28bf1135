"""A search: which settings a trial has, what is kept of it, and how a search goes on or ends."""

import dataclasses
import json

import pytest

from components.network_trainer.executor import TrainingFailed
from components.network_tuner import executor, trials
from components.network_tuner.executor import TuningFailed, with_settings
from components.network_tuner.trials import Trial
from conveyor.settings import from_json, to_json
from trainer.settings import SPEC, TrainingSpec

RANGES = {
    "network.learning_rate": {"low": 1e-4, "high": 1e-2, "step": None, "log": True},
    "training.batch_size": {"values": [10, 20]},
    "training.steps": {"low": 10, "high": 30, "step": 10, "log": False},
}


@dataclasses.dataclass
class FnArgs:
    train_files: list[str]
    custom_config: dict


@pytest.fixture
def search(tmp_path, mnist_job):
    """Runs a search whose trainings are what the test says of them: a function from a specification to an accuracy."""

    def run(monkeypatch, train, count=3, seed=1):
        def run_trainer(path, output):
            output.write("as printed\n")
            spec = from_json(TrainingSpec, path.read_bytes())
            (path.parent / "checkpoints").mkdir(exist_ok=True)
            entries = [{"step": 0, "eval_accuracy": 0.1}, {"step": 5, "eval_accuracy": train(spec)}, {"step": 6}]
            (path.parent / "history.json").write_text(json.dumps(entries))

        monkeypatch.setattr(executor, "run_trainer", run_trainer)
        config = {
            "parts": [
                {"name": "base", "component": "ImageExampleGen", "trained_on": True},
                {"name": "span-1", "component": "ImageExampleGen.span-1", "trained_on": True},
                {"name": "span-2", "component": "ImageExampleGen.span-2", "trained_on": False},
            ],
            "job": json.loads(to_json(mnist_job)),
            "ranges": RANGES,
            "seed": seed,
            "trials": count,
            "folder": str(tmp_path / "search"),
        }
        names = [part["component"] for part in config["parts"]]
        files = [f"/artifacts/{name}/examples/7/Split-train/*" for name in reversed(names)]
        found = executor.tuner_fn(FnArgs(files, config))
        found.tuner.search(**found.fit_kwargs)
        return found.tuner

    return run


def test_settings_reach_the_network_and_the_training(mnist_job):
    changed = with_settings(mnist_job, {"network.learning_rate": 0.5, "training.steps": 7})
    assert changed.network.parameters == mnist_job.network.parameters | {"learning_rate": 0.5}
    assert changed.training == dataclasses.replace(mnist_job.training, steps=7)
    assert with_settings(mnist_job, {}) == mnist_job


def test_trials_are_kept_with_their_settings_and_the_last_accuracy(search, monkeypatch, tmp_path):
    seen = []

    def train(spec):
        seen.append(spec)
        return spec.job.training.batch_size / 100

    tuner = search(monkeypatch, train)
    found = trials.read(tmp_path / "search")
    assert [trial.trial for trial in found] == [0, 1, 2]
    assert [trial.accuracy for trial in found] == [spec.job.training.batch_size / 100 for spec in seen]
    for trial, spec in zip(found, seen, strict=True):
        assert trial.settings == {
            "network.learning_rate": spec.job.network.parameters["learning_rate"],
            "training.batch_size": spec.job.training.batch_size,
            "training.steps": spec.job.training.steps,
        }
        assert 1e-4 <= trial.settings["network.learning_rate"] <= 1e-2
        assert trial.settings["training.steps"] in (10, 20, 30)
        assert (spec.model, spec.initial, spec.examples) == (None, None, "/artifacts/ImageExampleGen/examples/7")
        assert spec.train == (spec.examples, "/artifacts/ImageExampleGen.span-1/examples/7")
    folder = tmp_path / "search" / "trial_0"
    assert (folder / "output.txt").read_text() == "as printed\n"
    assert not (folder / "checkpoints").exists()
    assert (folder / SPEC).exists()
    best = trials.best_first(found)[0]
    assert tuner.get_best_hyperparameters()[0].values == best.settings


def test_more_trials_add_to_those_that_there_are(search, monkeypatch, tmp_path):
    search(monkeypatch, lambda spec: 0.5, count=2)
    search(monkeypatch, lambda spec: 0.6, count=11)
    assert [trial.accuracy for trial in trials.read(tmp_path / "search")] == [0.5] * 2 + [0.6] * 9
    search(monkeypatch, lambda spec: pytest.fail("there is nothing left to try"), count=5)


def test_a_stopped_trial_goes_on_with_its_settings_and_checkpoints(search, monkeypatch, tmp_path):
    seen = []

    def stopped(spec):
        seen.append(spec)
        if len(seen) == 2:
            raise TrainingFailed("Stopped at step 5.", stopped=True)
        return 0.5

    with pytest.raises(TrainingFailed, match="Stopped at step 5"):
        search(monkeypatch, stopped)
    assert [trial.trial for trial in trials.read(tmp_path / "search")] == [0]
    assert (tmp_path / "search" / "trial_1" / "checkpoints").is_dir()
    search(monkeypatch, stopped)
    assert seen[2] == seen[1]
    assert [trial.trial for trial in trials.read(tmp_path / "search")] == [0, 1, 2]


def test_a_trial_that_was_kept_and_not_ended_is_kept_once(search, monkeypatch, tmp_path):
    class Killed(BaseException):
        pass

    with monkeypatch.context() as patch:
        patch.setattr(executor.ProcessTuner, "on_trial_end", lambda self, trial: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            search(monkeypatch, lambda spec: 0.4)
    search(monkeypatch, lambda spec: 0.5)
    assert [trial.accuracy for trial in trials.read(tmp_path / "search")] == [0.5] * 3


def test_a_failed_trial_is_kept_and_the_search_goes_on(search, monkeypatch, tmp_path):
    calls = []

    def train(spec):
        calls.append(spec)
        if len(calls) == 1:
            raise TrainingFailed("Training diverged: the loss was nan.")
        return 0.5

    search(monkeypatch, train)
    first, *others = trials.read(tmp_path / "search")
    assert (first.accuracy, first.error) == (None, "Training diverged: the loss was nan.")
    assert [trial.error for trial in others] == [None, None]
    assert trials.best_first([first, *others])[-1] == first


def test_three_failures_in_a_row_end_a_search(search, monkeypatch, tmp_path):
    def train(spec):
        raise TrainingFailed("There is no memory.")

    with pytest.raises(TuningFailed, match="3 trials in a row could not be measured; the last one: There is no memory"):
        search(monkeypatch, train, count=9)
    assert len(trials.read(tmp_path / "search")) == 3


def test_a_search_without_any_accuracy_has_no_winner(search, monkeypatch):
    def train(spec):
        raise TrainingFailed("It diverged.")

    with pytest.raises(TuningFailed, match="No trial could be measured; the last one: It diverged"):
        search(monkeypatch, train, count=2)


def test_settings_of_a_trial_are_given_to_a_command_line_as_json():
    trial = Trial(0, {"network.name": "a b", "training.steps": 5, "network.flip": True}, 0.5, 1.0)
    assert trial.assignments == ('network.name="a b"', "training.steps=5", "network.flip=true")


def test_a_folder_without_trials_has_none(tmp_path):
    assert trials.read(tmp_path) == []
