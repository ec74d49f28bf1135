import dataclasses
import json
import os
import types

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
from pipeline.tuning.search import _check_networks, check, tune
from trainer.networks import NetworkError


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


def test_the_network_is_built_with_each_end_of_a_range_before_anything_is_trained():
    def of(*widths):
        experiment = dataclasses.replace(load("mnist_best"), tuning=Tuning({"network.width": Choice(widths)}))
        return types.SimpleNamespace(experiment=experiment, job=experiment.training_job())

    said = []
    console = types.SimpleNamespace(note=said.append)
    _check_networks(of(2, 4), console)
    assert said == []
    _check_networks(of(2, -4), console)  # another setting may go with it
    (sentence,) = said
    assert sentence.startswith("tuning.ranges: network.width=-4: The network cannot be built")
    with pytest.raises(NetworkError, match=r"tuning\.ranges: network\.width=-4: The network cannot be built"):
        _check_networks(of(-4, -2), console)


def test_the_ends_of_a_range_are_values_that_are_tried():
    assert Range(8, 60, step=8).ends == (8, 56)
    assert Range(0.1, 0.75, step=0.1).ends == (0.1, 0.7)
    assert Range(0.1, 0.3, step=0.1).ends == (0.1, 0.3)
    assert Range(8, 60).ends == (8, 60)


def test_trials_need_images_that_are_held_out():
    experiment = override(tuned(training__batch_size=Choice((25, 50))), ("dataset.splits.eval_examples=0",))
    with pytest.raises(ConfigError, match=r"holds nothing out.*say dataset.splits.eval_examples=N in its file"):
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
        (lambda: Range(0.1, 0.3, step=0.3), "at most 0.2"),
        (lambda: Range(1, 10**9, step=1), "more than 10,000 values: leave it out"),
        (lambda: Range(10, 30, step=2.5), "between two integers it must be one"),
        (lambda: Tuning({"gate.tolerance": Range(0.1, 0.2)}), "a setting of network or training"),
        (lambda: Tuning({"steps": Range(1, 2)}), "a setting of network or training"),
    ],
)
def test_ranges_that_are_none_are_refused(make, problem):
    with pytest.raises(ConfigError, match=problem):
        make()


def test_a_step_may_be_the_whole_range_as_it_is_written():
    assert Range(0.1, 0.3, step=0.2).step == 0.2  # though 0.3 - 0.1 is less


def test_what_is_tried_makes_no_other_model():
    experiment = tuned(training__batch_size=Choice((25, 50)))
    assert experiment.digest() == load("mnist").digest()
    assert experiment.to_dict()["tuning"]["ranges"] == {"training.batch_size": {"values": [25, 50]}}


def test_ranges_are_shown_among_the_settings(tmp_path):
    choice = Home(tmp_path).experiments.choose("mnist", ('tuning.ranges={"training.steps": {"low": 1, "high": 5}}',))
    (setting,) = [setting for setting in choice.settings() if setting.field == "tuning.ranges"]
    assert setting.origin == "--set"
    assert json.loads(json.dumps(setting.value))["training.steps"]["high"] == 5


def searched(home, experiment, name, accuracies, setting="training.steps", when=0, data="same"):
    folder = home.tuning / experiment.name / name
    folder.mkdir(parents=True)
    trials.write(folder, [Trial(i, {setting: i + 1}, accuracy, 1.0) for i, accuracy in enumerate(accuracies)])
    remember(folder, experiment, data)
    os.utime(folder / "experiment.json", (when, when))


def test_the_best_trial_is_of_all_searches_of_the_experiment_as_it_is_now(tmp_path):
    home, experiment = Home(tmp_path), load("mnist")
    with pytest.raises(ConfigError, match=r"There is no best trial of mnist in .*: `conveyor tune` finds one"):
        best_trial(home, experiment, lambda: pytest.fail("there is no search, and data need not be hashed"))
    searched(home, experiment, "failed", (None,), when=9)
    searched(home, experiment, "good", (None, 0.9, 0.8), when=1)
    searched(home, experiment, "short", (0.7,), when=2)
    searched(home, override(experiment, ("training.batch_size=10",)), "other", (0.95,), when=3)
    searched(home, override(experiment, ("training.log_every=7",)), "as quick", (0.85,), when=4)
    searched(home, experiment, "easier data", (0.99,), when=5, data="another")
    best = best_trial(home, experiment, lambda: "same")
    assert (best.trial.trial, best.trial.accuracy, best.trials, best.changed) == (1, 0.9, 3, {})


def test_other_data_of_the_newest_search_are_told_of(tmp_path):
    home, experiment = Home(tmp_path), load("mnist")
    searched(home, experiment, "search", (0.9,), data="another")
    assert best_trial(home, experiment, lambda: "same").changed == {"the data's digest": ("another", "same")}


def test_settings_that_were_others_in_the_newest_search_are_told_of(tmp_path):
    home, experiment = Home(tmp_path), load("mnist")
    then = override(experiment, ("training.steps=60", "training.batch_size=50", "network.initial_stddev=0.1"))
    searched(home, then, "new", (0.5,), "training.batch_size", when=2)
    searched(home, then, "old", (0.9,), "training.batch_size", when=1)
    best = best_trial(home, experiment, lambda: "same")
    assert best.trial.accuracy == 0.5
    assert best.changed == {"training.steps": (60, 3000), "network.initial_stddev": (0.1, 0.05)}


def test_a_parameter_that_the_network_lost_is_named(tmp_path):
    searched(Home(tmp_path), load("mnist"), "search", (0.5,), "network.width")
    with pytest.raises(ConfigError, match=r"sets network\.width, which the network has no more: tune it again"):
        best_trial(Home(tmp_path), load("mnist"), lambda: "same")


def test_ranges_that_are_set_replace_all_others():
    experiment = tuned(training__batch_size=Choice((25, 50)))
    changed = override(experiment, ('tuning.ranges={"training.steps": {"low": 1, "high": 5}}',))
    assert set(changed.tuning.ranges) == {"training.steps"}


def test_batches_to_try_are_not_larger_than_the_data(tmp_path, small_mnist):
    experiment = override(tuned(training__batch_size=Choice((64, 100_000))), ("dataset.splits.eval_examples=200",))
    experiment = dataclasses.replace(experiment, dataset=dataclasses.replace(experiment.dataset, name="small"))
    with pytest.raises(ConfigError, match=r"tuning\.ranges: training\.batch_size is 100,000, and there are about"):
        tune(experiment, Home(tmp_path / "home"), small_mnist, 2, Console())


def test_texts_are_checked_as_they_are_used():
    with pytest.raises(ConfigError, match="precision"):
        check(tuned(training__precision=Choice(("auto", "float16"))))
    check(tuned(training__precision=Choice(("auto", "float32"))))
