import dataclasses
import json
import os

import pytest

from components.network_tuner import trials
from components.network_tuner.trials import Trial
from conveyor import Choice, Range, Tuning
from conveyor.errors import ConfigError
from pipeline.experiments import load
from pipeline.experiments.overrides import override
from pipeline.home.folders import Home
from pipeline.tuning.best import best_trial
from pipeline.tuning.search import check


def tuned(**ranges):
    ranges = {name.replace("__", "."): values for name, values in ranges.items()}
    return dataclasses.replace(load("mnist"), tuning=Tuning(ranges))


def test_a_search_that_can_be():
    check(tuned(network__learning_rate=Range(1e-5, 1e-2, log=True), training__batch_size=Choice((25, 50))))


def test_there_must_be_something_to_try():
    with pytest.raises(ConfigError, match="mnist says nothing of what to try: add tuning=Tuning"):
        check(load("mnist"))
    text = '{"network.learning_rate": {"low": 1e-4, "high": 1e-2, "log": true}}'
    check(override(load("mnist"), (f"tuning.ranges={text}",)))  # as the message says


@pytest.mark.parametrize(
    ("experiment", "problem"),
    [
        (tuned(network__width=Range(1, 2)), "network has no parameter 'width'"),
        (tuned(training__steps=Range(0, 5)), "tuning.ranges: training.steps=0: it should be greater"),
        (tuned(training__precision=Choice(("auto", "float16"))), "precision"),
        (tuned(network__learning_rate=Choice(("fast", "slow"))), "learning_rate"),
    ],
)
def test_values_are_ones_that_the_settings_take(experiment, problem):
    with pytest.raises(ConfigError, match=problem):
        check(experiment)


def test_trials_need_images_that_are_held_out():
    experiment = override(tuned(training__batch_size=Choice((25, 50))), ("dataset.splits.eval_examples=0",))
    with pytest.raises(ConfigError, match=r"holds nothing out.*--set dataset.splits.eval_examples=5000"):
        check(experiment)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Choice((1,)), "two or more different values"),
        (lambda: Choice((1, 1)), "two or more different values"),
        (lambda: Choice((1, 2.0)), "of one type"),
        (lambda: Range(2, 1), "must be below range.high"),
        (lambda: Range(0, 1, log=True), "above zero"),
        (lambda: Range(1, 2, step=0), "step is 0"),
        (lambda: Tuning({"gate.tolerance": Range(0.1, 0.2)}), "a setting of network or training"),
        (lambda: Tuning({"steps": Range(1, 2)}), "a setting of network or training"),
    ],
)
def test_ranges_that_are_none_are_refused(make, problem):
    with pytest.raises(ConfigError, match=problem):
        make()


def test_what_is_tried_makes_no_other_model():
    experiment = tuned(training__batch_size=Choice((25, 50)))
    assert experiment.digest() == load("mnist").digest()
    assert experiment.to_dict()["tuning"]["ranges"] == {"training.batch_size": {"values": [25, 50]}}


def test_ranges_are_shown_among_the_settings(tmp_path):
    choice = Home(tmp_path).experiments.choose("mnist", ('tuning.ranges={"training.steps": {"low": 1, "high": 5}}',))
    (setting,) = [setting for setting in choice.settings() if setting.field == "tuning.ranges"]
    assert setting.origin == "--set"
    assert json.loads(json.dumps(setting.value))["training.steps"]["high"] == 5


def test_the_best_trial_is_of_the_newest_search(tmp_path):
    home = Home(tmp_path)
    with pytest.raises(ConfigError, match=r"There is no best trial of digits in .*: run `conveyor tune digits`"):
        best_trial(home, "digits")
    for number, (name, accuracies) in enumerate({"old": (0.9,), "new": (None, 0.7, 0.8)}.items()):
        folder = home.tuning / "digits" / name
        folder.mkdir(parents=True)
        trials.write(folder, [Trial(i, {"training.steps": i}, a, 1.0) for i, a in enumerate(accuracies)])
        os.utime(folder / trials.TRIALS_FILE, (number, number))
    best, count = best_trial(home, "digits")
    assert (best.trial, best.accuracy, count) == (2, 0.8, 3)
