"""A search: which settings a trial has, what is kept of it, and how a search goes on or ends."""

import dataclasses
import json
import os
import signal
from pathlib import Path

import pytest

from components.network_trainer.executor import TrainerKilled, TrainingFailed
from components.network_tuner import executor, trials
from components.network_tuner.executor import TuningFailed, TuningStopped, with_settings
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
def search(tmp_path, mnist_job, monkeypatch):
    """Runs a search whose trainings are what the test says of them: a function from a specification to an accuracy."""
    examples = tmp_path / "artifacts" / "ImageExampleGen" / "examples" / "7"
    (examples / "Split-eval").mkdir(parents=True)

    def run(train, count=3, ranges=RANGES):
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
            "ranges": ranges,
            "seed": 1,
            "trials": count,
            "folder": str(tmp_path / "search"),
        }
        names = [part["component"] for part in config["parts"]]
        files = [f"{tmp_path}/artifacts/{name}/examples/7/Split-train/*" for name in reversed(names)]
        found = executor.tuner_fn(FnArgs(files, config))
        found.tuner.search(**found.fit_kwargs)
        return found.tuner

    return run


def test_settings_reach_the_network_and_the_training(mnist_job):
    changed = with_settings(mnist_job, {"network.learning_rate": 0.5, "training.steps": 7})
    assert changed.network.parameters == mnist_job.network.parameters | {"learning_rate": 0.5}
    assert changed.training == dataclasses.replace(mnist_job.training, steps=7)
    assert with_settings(mnist_job, {}) == mnist_job


def test_trials_are_kept_with_their_settings_and_the_last_accuracy(search, tmp_path):
    seen = []

    def train(spec):
        seen.append(spec)
        return spec.job.training.batch_size / 100

    tuner = search(train)
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
        examples = str(tmp_path / "artifacts" / "ImageExampleGen" / "examples" / "7")
        assert (spec.model, spec.initial, spec.examples) == (None, None, examples)
        assert spec.train == (examples, examples.replace("ExampleGen", "ExampleGen.span-1"))
    folder = tmp_path / "search" / "trial_0"
    assert (folder / "output.txt").read_text() == "as printed\n"
    assert not (folder / "checkpoints").exists()
    assert (folder / SPEC).exists()
    best = trials.best_first(found)[0]
    assert tuner.get_best_hyperparameters()[0].values == best.settings


def test_more_trials_add_to_those_that_there_are(search, tmp_path):
    search(lambda spec: 0.5, count=2)
    search(lambda spec: 0.6, count=11)
    assert [trial.accuracy for trial in trials.read(tmp_path / "search")] == [0.5] * 2 + [0.6] * 9
    search(lambda spec: pytest.fail("there is nothing left to try"), count=5)
    search(lambda spec: pytest.fail("there is nothing left to try"), count=11)


@pytest.mark.parametrize("moment", ["before", "meanwhile"])
def test_a_stopped_search_goes_on_with_the_trial_that_was_running(search, tmp_path, moment):
    seen = []

    def stopped(spec):
        if moment == "before" and len(seen) == 0:
            os.kill(os.getpid(), signal.SIGTERM)  # seen when the next one is to begin
        seen.append(spec)
        if moment == "meanwhile" and len(seen) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            raise TrainingFailed("The trainer was killed by signal 15.")  # before it could write a checkpoint
        return 0.5

    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with pytest.raises(TuningStopped, match="Stopped after 1 trial"):
            search(stopped)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert [trial.trial for trial in trials.read(tmp_path / "search")] == [0]
    count = len(seen)
    search(stopped)
    if moment == "meanwhile":
        assert seen[count] == seen[count - 1]
    assert len(seen) == count + 2
    found = trials.read(tmp_path / "search")
    assert [(trial.trial, trial.error) for trial in found] == [(0, None), (1, None), (2, None)]


def test_a_search_that_was_killed_after_a_trial_was_kept_does_not_train_it_again(search, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(self, trial):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(executor.ProcessTuner, "on_trial_end", killed)
        with pytest.raises(Killed):
            search(lambda spec: 0.4)
    search(lambda spec: 0.5)
    assert [trial.accuracy for trial in trials.read(tmp_path / "search")] == [0.4, 0.5, 0.5]


def test_leftovers_of_other_settings_are_not_gone_on_with(search, tmp_path):
    (tmp_path / "search" / "trial_0" / "checkpoints").mkdir(parents=True)
    (tmp_path / "search" / "trial_0" / "checkpoints" / "old").write_text("of another network")
    (tmp_path / "search" / "trial_0" / SPEC).write_text("{}")

    def train(spec):
        assert not (Path(spec.checkpoints) / "old").exists()
        return 0.5

    search(train, count=1)


def test_a_failed_trial_is_kept_and_the_search_goes_on(search, tmp_path):
    calls = []

    def train(spec):
        calls.append(spec)
        if len(calls) == 1:
            raise TrainingFailed("Training diverged: the loss was nan.")
        return 0.5

    search(train)
    first, *others = trials.read(tmp_path / "search")
    assert (first.accuracy, first.error) == (None, "Training diverged: the loss was nan.")
    assert [trial.error for trial in others] == [None, None]
    assert trials.best_first([first, *others])[-1] == first
    search(train)
    assert len(calls) == 3  # it is not tried again


def test_a_training_that_is_killed_goes_on_at_once_and_once(search, tmp_path):
    calls = []

    def train(spec):
        calls.append(spec)
        if len(calls) == 2:
            assert (Path(spec.checkpoints) / "step-100").exists()
        if len(calls) in (1, 3, 4):
            (Path(spec.checkpoints) / "step-100").touch()
            raise TrainerKilled("The trainer was killed by signal 9.")
        return 0.5

    search(train)
    assert (calls[0], calls[2]) == (calls[1], calls[3])
    first, second, third = trials.read(tmp_path / "search")
    assert (first.accuracy, first.error, third.accuracy) == (0.5, None, 0.5)
    assert (second.accuracy, second.error) == (None, "The trainer was killed by signal 9.")
    assert not (tmp_path / "search" / "trial_1" / "checkpoints").exists()


def test_a_search_that_is_repeated_tries_nothing_else(search, tmp_path):
    """More trials than Keras Tuner draws at random: what it was told decides what it tries."""
    calls = []

    def train(spec):
        calls.append(spec)
        if len(calls) in (2, 3, 5):
            raise TrainerKilled("The trainer was killed by signal 9.")
        return spec.job.network.parameters["learning_rate"]

    search(train, count=12)
    before = trials.read(tmp_path / "search")
    assert [trial.trial for trial in before if trial.error] == [1]
    search(lambda spec: pytest.fail("there is nothing left to try"), count=12)
    assert trials.read(tmp_path / "search") == before


def test_fewer_trials_than_there_are_begin_with_one_that_failed(search):
    def train(spec):
        if not (Path(spec.run).parent / "trials.json").exists():
            raise TrainingFailed("It diverged.")
        return 0.5

    search(train, count=3)
    assert search(train, count=1).get_best_hyperparameters()


def test_three_failures_in_a_row_end_a_search(search, tmp_path):
    def train(spec):
        raise TrainingFailed("There is no memory.")

    with pytest.raises(TuningFailed, match="3 trials in a row could not be measured; the last one: There is no memory"):
        search(train, count=9)
    assert len(trials.read(tmp_path / "search")) == 3


def test_a_search_without_any_accuracy_has_no_winner(search):
    def train(spec):
        raise TrainingFailed("It diverged.")

    with pytest.raises(TuningFailed, match="No trial could be measured; the last one: It diverged"):
        search(train, count=2)


def test_what_is_no_fault_of_a_trial_ends_the_search(search, tmp_path):
    def train(spec):
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        search(train)
    assert trials.read(tmp_path / "search") == []


def test_without_held_out_images_nothing_is_trained(search, tmp_path):
    (tmp_path / "artifacts" / "ImageExampleGen" / "examples" / "7" / "Split-eval").rmdir()
    with pytest.raises(TuningFailed, match="leave none to measure trials on"):
        search(lambda spec: pytest.fail("nothing to measure on"))


def test_few_combinations_are_each_trained_once(search, tmp_path):
    ranges = {"network.flip": {"values": [True, False]}, "training.batch_size": {"values": [10, 20]}}
    seen = []

    def train(spec):
        seen.append((spec.job.network.parameters["flip"], spec.job.training.batch_size))
        return 0.5 + 0.1 * seen[-1][0]

    search(train, count=9, ranges=ranges)
    assert len(seen) == len(set(seen)) <= 4
    assert {type(flip) for flip, _ in seen} == {bool}
    best = trials.best_first(trials.read(tmp_path / "search"))[0]
    assert best.assignments[0] == "network.flip=true"


def test_steps_and_ends_of_ranges_are_as_they_are_written(search, tmp_path):
    ranges = {
        "network.rate": {"low": 0.1, "high": 0.3, "step": 0.1, "log": False},
        "training.steps": {"low": 16, "high": 17, "step": None, "log": True},
        "training.batch_size": {"low": 10, "high": 35, "step": 10, "log": False},
    }
    search(lambda spec: spec.job.training.steps / 100, count=25, ranges=ranges)
    found = [trial.settings for trial in trials.read(tmp_path / "search")]
    assert {settings["network.rate"] for settings in found} == {0.1, 0.2, 0.3}
    assert {settings["training.steps"] for settings in found} == {16, 17}
    assert {settings["training.batch_size"] for settings in found} == {10, 20, 30}


def test_settings_of_a_trial_are_given_to_a_command_line_as_json():
    trial = Trial(0, {"network.name": "a b", "training.steps": 5, "network.flip": True}, 0.5, 1.0)
    assert trial.assignments == ('network.name="a b"', "training.steps=5", "network.flip=true")


def test_a_folder_without_trials_has_none(tmp_path):
    assert trials.read(tmp_path) == []
