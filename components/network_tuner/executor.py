"""Searches with Keras Tuner; each trial is a training in a process of its own."""

import dataclasses
import json
import shutil
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras_tuner
from keras_tuner import errors
from tfx.components.tuner.component import TunerFnResult
from tqdm import tqdm

from components.network_trainer.executor import TrainerKilled, TrainingFailed, example_folders, run_trainer
from components.network_tuner import trials
from components.network_tuner.trials import Trial, shown
from conveyor import processes
from conveyor.errors import ConveyorError, ExitCode
from conveyor.numbers import exact
from conveyor.settings import from_json, to_json
from conveyor.words import counted
from trainer.settings import SPEC, TrainingJob, TrainingSpec

OBJECTIVE = "eval_accuracy"
FAILURES = 3  # trials in a row that end a search: there is something else wrong than their settings


class TuningFailed(ConveyorError):
    """No trial, or too many in a row, could be measured."""


class TuningStopped(ConveyorError):
    """The search was told to stop; it goes on from there when it is run again."""

    exit_code = ExitCode.INTERRUPTED


def tuner_fn(fn_args: Any) -> TunerFnResult:
    """Returns the search of `fn_args.custom_config`, as TFX's Tuner asks.

    Args:
      fn_args: TFX's `FnArgs`. Its `custom_config` has the arguments of `component.network_tuner`.
    """
    config = fn_args.custom_config
    parts = config["parts"]
    folders = example_folders(fn_args.train_files, parts)
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
    count = max(config["trials"], len(trials.read(Path(config["folder"]))))  # those that there are, are told again
    oracle = keras_tuner.oracles.BayesianOptimizationOracle(
        objective=keras_tuner.Objective(OBJECTIVE, "max"),
        max_trials=count,
        hyperparameters=_space(config["ranges"]),
        seed=config["seed"],
        max_consecutive_failed_trials=count + 1,  # counted here, with a sentence
    )
    tuner = ProcessTuner(oracle, config["ranges"], spec, Path(config["folder"]))
    return TunerFnResult(tuner=tuner, fit_kwargs={"verbose": 0})


def _space(ranges: Mapping[str, Mapping[str, Any]]) -> keras_tuner.HyperParameters:
    space = keras_tuner.HyperParameters()
    for name, values in ranges.items():
        some = values["values"] if "values" in values else _steps(values)
        if some and isinstance(some[0], bool):
            space.Boolean(name)
        elif some:
            space.Choice(name, list(some))
        elif isinstance(values["low"], int) and isinstance(values["high"], int):
            space.Int(name, values["low"], values["high"], sampling="log" if values["log"] else "linear")
        else:
            ends = map(float, (values["low"], values["high"]))
            space.Float(name, *ends, sampling="log" if values["log"] else "linear")
    return space


def _steps(values: Mapping[str, Any]) -> Sequence[Any]:
    """Returns the values of a range with a step, as they are written: 0.1, 0.2, 0.3; nothing of one without."""
    if values["step"] is None:
        return ()
    low, high, step = (exact(values[name]) for name in ("low", "high", "step"))
    steps = [low + number * step for number in range(int((high - low) / step) + 1)]
    are_whole = all(isinstance(values[name], int) for name in ("low", "high", "step"))
    return [int(value) if are_whole else float(value) for value in steps]


class ProcessTuner(keras_tuner.engine.base_tuner.BaseTuner):
    """A search whose trials are trainings in processes of their own.

    What has been measured is in `trials.json`; see `trials.Trial`. A search begins anew each time, with the same seed,
    and is told what it measured before where it asks again: so it comes to where it was, whenever and however it ended.
    Keras Tuner's own files, in `keras_tuner/`, are written anew each time: they are not whole at every moment.

    Each trial has a folder, `trial_<number>/`, with its specification, what it printed, and its logs for TensorBoard.
    """

    def __init__(
        self, oracle: keras_tuner.Oracle, ranges: Mapping[str, Mapping[str, Any]], spec: TrainingSpec, folder: Path
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._spec, self._folder, self._ranges = spec, folder, ranges
        self._trials = trials.read(folder)
        self._failures = 0  # in a row, in this process
        self._stop = threading.Event()
        super().__init__(oracle=oracle, directory=str(folder), project_name="keras_tuner", overwrite=True)

    def search_space_summary(self, extended: bool = False) -> None:
        """Prints nothing: the command has said what is tried."""

    def results_summary(self, num_trials: int = 10) -> None:
        """Prints nothing: the command does."""

    def search(self, *arguments: Any, **options: Any) -> None:
        """Runs the trials that are left.

        Raises:
          TuningFailed: there is nothing to measure on, or several trials in a row, or all, could not be measured.
          TuningStopped: SIGTERM came.
          ConveyorError: of anything else that goes wrong beside a training.
        """
        if not Path(self._spec.examples, "Split-eval").is_dir():
            raise TuningFailed("The training images leave none to measure trials on: a larger share must be held out.")
        total = self.oracle.max_trials
        bar = tqdm(total=total, initial=len(self._trials), desc="trials", leave=False, file=sys.stdout, disable=None)
        with bar as self._bar, processes.on_stop(self._stop.set):
            try:
                super().search(*arguments, **options)
            except errors.FatalError as error:
                raise error.__cause__ or error from None
        if all(trial.accuracy is None for trial in self._trials):
            raise TuningFailed(f"No trial could be measured; the last one: {self._trials[-1].error}")

    def run_trial(self, trial: Any, *arguments: Any, **options: Any) -> dict[str, float]:
        """Trains with a trial's settings, and returns the accuracy on the split `eval`; equal ones are trained once."""
        settings = {name: self._within(name, value) for name, value in trial.hyperparameters.values.items()}
        done = next((trial for trial in self._trials if trial.settings == settings), None)
        if done is None:
            try:
                done = self._trained(settings)
            except Exception as error:  # Keras Tuner would take it for the trial's fault, and go on
                raise errors.FatalError(str(error)) from error
            self._bar.update()
        return _reply(done)

    def _within(self, name: str, value: Any) -> Any:
        """Returns a value that is not above its range: Keras Tuner's logarithmic integers may be, by one."""
        return (
            min(value, self._ranges[name]["high"]) if isinstance(value, int) and "high" in self._ranges[name] else value
        )

    def _trained(self, settings: dict[str, Any]) -> Trial:
        """Returns a trial, when it is written down. A training that is killed goes on once, from its last checkpoint.

        Raises:
          TuningFailed: it is the last of several in a row that could not be measured.
          TuningStopped: SIGTERM came, before or meanwhile.
        """
        self._raise_if_stopped()
        started = time.perf_counter()
        number, accuracy, problem = len(self._trials), None, None
        folder = self._folder / f"trial_{number}"
        try:
            try:
                accuracy = self._measured(settings, folder)
            except TrainerKilled as killed:
                self._raise_if_stopped()
                tqdm.write(f"trial {number} goes on: {killed}")
                accuracy = self._measured(settings, folder)
        except TrainingFailed as failure:
            self._raise_if_stopped()
            problem = str(failure)
        trial = Trial(number, settings, accuracy, time.perf_counter() - started, problem)
        self._trials.append(trial)
        trials.write(self._folder, self._trials)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        named = ", ".join(f"{name}={shown(value)}" for name, value in settings.items())
        what = f"held-out accuracy {accuracy:.4f}" if problem is None else problem
        tqdm.write(f"trial {number}: {named}: {what} ({trial.seconds:.0f} s)")
        self._failures = self._failures + 1 if problem is not None else 0
        if self._failures == FAILURES:
            raise TuningFailed(f"{FAILURES} trials in a row could not be measured; the last one: {problem}")
        return trial

    def _raise_if_stopped(self) -> None:
        if self._stop.is_set():
            done = counted(len(self._trials), "trial")
            raise TuningStopped(f"Stopped after {done}. Run again to go on from there.")

    def _measured(self, settings: Mapping[str, Any], folder: Path) -> float:
        """Returns the last accuracy on the split `eval` of a training with some settings.

        Raises:
          TrainingFailed: it failed, or was stopped.
        """
        checkpoints = str(folder / "checkpoints")
        job = with_settings(self._spec.job, settings)
        spec = to_json(dataclasses.replace(self._spec, job=job, checkpoints=checkpoints, run=str(folder)))
        if not (folder / SPEC).exists() or (folder / SPEC).read_text() != spec:
            shutil.rmtree(folder, ignore_errors=True)  # of a trial with other settings, that was stopped
            folder.mkdir(parents=True)
            (folder / SPEC).write_text(spec)
        with (folder / "output.txt").open("a", encoding="utf-8") as output:
            run_trainer(folder / SPEC, output)
        history = json.loads((folder / "history.json").read_text())
        return next(entry[OBJECTIVE] for entry in reversed(history) if OBJECTIVE in entry)


def _reply(trial: Trial) -> dict[str, float]:
    """Returns what Keras Tuner is told of a trial.

    Raises:
      keras_tuner.errors.FailedTrialError: it could not be measured.
    """
    if trial.accuracy is None:
        raise errors.FailedTrialError(str(trial.error))
    return {OBJECTIVE: trial.accuracy}


def with_settings(job: TrainingJob, settings: Mapping[str, Any]) -> TrainingJob:
    """Returns a job with some of its settings replaced: `network.NAME` or `training.NAME`."""
    parts: dict[str, dict[str, Any]] = {"network": {}, "training": {}}
    for name, value in settings.items():
        part, _, field = name.partition(".")
        parts[part][field] = value
    network = dataclasses.replace(job.network, parameters=job.network.parameters | parts["network"])
    return dataclasses.replace(job, network=network, training=dataclasses.replace(job.training, **parts["training"]))
