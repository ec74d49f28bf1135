"""Searches with Keras Tuner; each trial is a training in a process of its own."""

import contextlib
import dataclasses
import json
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras_tuner
from keras_tuner import errors
from tfx.components.tuner.component import TunerFnResult
from tqdm import tqdm

from components.network_trainer.executor import TrainingFailed, example_folders, run_trainer
from components.network_tuner import trials
from components.network_tuner.trials import Trial, shown
from conveyor.errors import ConveyorError
from conveyor.settings import from_json, to_json
from trainer.settings import SPEC, TrainingJob, TrainingSpec

OBJECTIVE = "eval_accuracy"
FAILURES = 3  # trials in a row that end a search: there is something else wrong than their settings


class TuningFailed(ConveyorError):
    """No trial, or too many in a row, could be measured."""


def tuner_fn(fn_args: Any) -> TunerFnResult:
    """Returns the search of `fn_args.custom_config`, as TFX's Tuner asks.

    Args:
      fn_args: TFX's `FnArgs`. Its `custom_config` has the arguments of `component.network_tuner`.
    """
    config = fn_args.custom_config
    folders, parts = example_folders(fn_args.train_files), config["parts"]
    folder = Path(config["folder"])
    spec = TrainingSpec(
        job=from_json(TrainingJob, json.dumps(config["job"])),
        examples=str(folders[parts[0]["component"]]),
        train=tuple(str(folders[part["component"]]) for part in parts if part["trained_on"]),
        spans={},
        initial=None,
        checkpoints="",
        model=None,
        run="",
    )
    oracle = keras_tuner.oracles.BayesianOptimizationOracle(
        objective=keras_tuner.Objective(OBJECTIVE, "max"),
        max_trials=config["trials"],
        hyperparameters=_space(config["ranges"]),
        seed=config["seed"],
        max_consecutive_failed_trials=config["trials"] + 1,  # counted here, with a sentence
    )
    return TunerFnResult(tuner=ProcessTuner(oracle, spec, folder), fit_kwargs={"verbose": 0})


def _space(ranges: Mapping[str, Mapping[str, Any]]) -> keras_tuner.HyperParameters:
    space = keras_tuner.HyperParameters()
    for name, values in ranges.items():
        if "values" in values:
            space.Choice(name, list(values["values"]))
            continue
        ends, sampling = (values["low"], values["high"]), "log" if values["log"] else "linear"
        if all(isinstance(end, int) for end in ends):
            space.Int(name, *ends, step=values["step"], sampling=sampling)
        else:
            space.Float(name, *map(float, ends), step=values["step"], sampling=sampling)
    return space


class ProcessTuner(keras_tuner.engine.base_tuner.BaseTuner):
    """A search whose trials are trainings in processes of their own.

    Each trial has a folder, `trial_<number>/`, with its specification, what it printed, and its logs for TensorBoard.
    What has been measured is in `trials.json`; see `trials.Trial`.
    """

    def __init__(self, oracle: keras_tuner.Oracle, spec: TrainingSpec, folder: Path) -> None:
        self._spec, self._folder, self._failures = spec, folder, 0
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.redirect_stdout(sys.stderr):  # it says that it reloads
            super().__init__(oracle=oracle, directory=str(folder.parent), project_name=folder.name)
        self._trials = trials.read(folder)

    def search_space_summary(self, extended: bool = False) -> None:
        """Prints nothing: the command has said what is tried."""

    def results_summary(self, num_trials: int = 10) -> None:
        """Prints nothing: the command does."""

    def search(self, *arguments: Any, **options: Any) -> None:
        """Runs the trials that are left.

        Raises:
          TrainingFailed: a trial was stopped; the next search goes on with it.
          TuningFailed: several trials in a row could not be measured, or not one could.
        """
        done, total = len(self._trials), self.oracle.max_trials
        with tqdm(total=total, initial=done, desc="trials", leave=False, file=sys.stdout, disable=None) as self._bar:
            try:
                super().search(*arguments, **options)
            except errors.FatalError as error:
                raise error.__cause__ or error from None
        if all(trial.accuracy is None for trial in self._trials):
            raise TuningFailed(f"No trial could be measured; the last one: {self._trials[-1].error}")

    def run_trial(self, trial: Any, *arguments: Any, **options: Any) -> dict[str, float]:
        """Trains with a trial's settings, and returns the accuracy on the split `eval`."""
        folder = self._folder / f"trial_{trial.trial_id}"
        settings, started = dict(trial.hyperparameters.values), time.perf_counter()
        accuracy, problem = None, None
        try:
            accuracy = self._measured(settings, folder)
        except TrainingFailed as failure:
            if failure.stopped:
                raise errors.FatalError(str(failure)) from failure
            problem = str(failure)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        self._keep(Trial(int(trial.trial_id), settings, accuracy, time.perf_counter() - started, problem))
        self._failures = self._failures + 1 if problem else 0
        if self._failures == FAILURES:
            failed = TuningFailed(f"{FAILURES} trials in a row could not be measured; the last one: {problem}")
            raise errors.FatalError(str(failed)) from failed
        if accuracy is None:
            raise errors.FailedTrialError(str(problem))
        return {OBJECTIVE: accuracy}

    def _measured(self, settings: Mapping[str, Any], folder: Path) -> float:
        """Returns the last accuracy on the split `eval` of a training with some settings.

        Raises:
          TrainingFailed: it failed, or was stopped.
        """
        folder.mkdir(parents=True, exist_ok=True)
        checkpoints = str(folder / "checkpoints")
        spec = dataclasses.replace(
            self._spec, job=with_settings(self._spec.job, settings), checkpoints=checkpoints, run=str(folder)
        )
        (folder / SPEC).write_text(to_json(spec))
        with (folder / "output.txt").open("a", encoding="utf-8") as output:
            run_trainer(folder / SPEC, output)
        history = json.loads((folder / "history.json").read_text())
        return next(entry[OBJECTIVE] for entry in reversed(history) if OBJECTIVE in entry)

    def _keep(self, trial: Trial) -> None:
        """Writes a trial down, and prints a line; one that was stopped after it was written down is so again."""
        self._trials = [*(known for known in self._trials if known.trial != trial.trial), trial]
        trials.write(self._folder, self._trials)
        named = ", ".join(f"{name}={shown(value)}" for name, value in trial.settings.items())
        what = trial.error or f"held-out accuracy {trial.accuracy:.4f}"
        tqdm.write(f"trial {trial.trial}: {named}: {what} ({trial.seconds:.0f} s)")
        self._bar.update()


def with_settings(job: TrainingJob, settings: Mapping[str, Any]) -> TrainingJob:
    """Returns a job with some of its settings replaced: `network.NAME` or `training.NAME`."""
    parts: dict[str, dict[str, Any]] = {"network": {}, "training": {}}
    for name, value in settings.items():
        part, _, field = name.partition(".")
        parts[part][field] = value
    network = dataclasses.replace(job.network, parameters=job.network.parameters | parts["network"])
    return dataclasses.replace(job, network=network, training=dataclasses.replace(job.training, **parts["training"]))
