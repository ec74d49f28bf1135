import dataclasses
import json

import pytest

from components.network_tuner import trials
from components.network_tuner.trials import Trial
from conveyor import Choice, Range, Tuning
from conveyor.errors import ConfigError
from pipeline.experiments import load
from pipeline.experiments.overrides import override
from pipeline.home.folders import Home
from pipeline.run.console import Console
from pipeline.tuning.best import best_trial, remember
from pipeline.tuning.search import check, tune


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
    with pytest.raises(ConfigError, match=r"holds nothing out.*`conveyor set mnist dataset.splits.eval_examples=N`"):
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
        (lambda: Range(1, 2, step=5), "step is 5; it must be above zero, and at most 1"),
        (lambda: Range(10, 30, step=2.5), "between two integers it must be one"),
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


def test_the_best_trial_is_of_the_search_that_ended_last(tmp_path):
    home, experiment = Home(tmp_path), load("mnist")
    with pytest.raises(ConfigError, match=r"There is no best trial of mnist in .*: run `conveyor tune mnist`"):
        best_trial(home, experiment)
    for name, accuracies in {"second": (None, 0.7, 0.8), "first": (0.9,)}.items():
        folder = home.tuning / "mnist" / name
        folder.mkdir(parents=True)
        trials.write(folder, [Trial(i, {"training.steps": i + 1}, a, 1.0) for i, a in enumerate(accuracies)])
    remember(home, experiment, "first")
    assert best_trial(home, experiment).trial.accuracy == 0.9
    remember(home, experiment, "second")
    best = best_trial(home, experiment)
    assert (best.trial.trial, best.trial.accuracy, best.trials, best.others) == (2, 0.8, 3, {})


def test_settings_that_were_others_in_the_search_are_told_of(tmp_path):
    home, experiment = Home(tmp_path), load("mnist")
    folder = home.tuning / "mnist" / "search"
    folder.mkdir(parents=True)
    trials.write(folder, [Trial(0, {"training.batch_size": 10}, 0.9, 1.0)])
    then = override(experiment, ("training.steps=60", "training.batch_size=50", "network.initial_stddev=0.1"))
    remember(home, then, "search")
    assert best_trial(home, experiment).others == {"training.steps": (60, 3000), "network.initial_stddev": (0.1, 0.05)}


def test_batches_to_try_are_not_larger_than_the_data(tmp_path, small_mnist):
    experiment = override(tuned(training__batch_size=Choice((64, 100_000))), ("dataset.splits.eval_examples=200",))
    experiment = dataclasses.replace(experiment, dataset=dataclasses.replace(experiment.dataset, name="small"))
    with pytest.raises(ConfigError, match=r"training\.batch_size is 100,000, and there are about"):
        tune(experiment, Home(tmp_path / "home"), small_mnist, 2, Console())


def test_texts_are_checked_as_they_are_used():
    with pytest.raises(ConfigError, match="precision"):
        check(tuned(training__precision=Choice(("auto", "float16"))))
    check(tuned(training__precision=Choice(("auto", "float32"))))
