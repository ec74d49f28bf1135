"""Searches for the best settings of an experiment: lock, data, ingestion, trials."""

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path

from components.image_example_gen.dataset import HashedSplits
from components.network_tuner.trials import Trial, read
from conveyor.errors import ConfigError, ConveyorError
from conveyor.settings import to_json
from pipeline.beam.runners import BeamRunner
from pipeline.data.inputs import input_folder
from pipeline.experiments.config import Experiment
from pipeline.experiments.network import copy_code
from pipeline.experiments.overrides import override
from pipeline.home import backup
from pipeline.home.folders import Home
from pipeline.home.lock import locked
from pipeline.run.console import Console, redirected
from pipeline.run.plan import RunPlan, check_batch, make_plan
from pipeline.run.runner import carry_out, prepare, require_chief
from pipeline.tuning.best import remember
from trainer.settings import TrainingJob

CHOOSERS = ("keras-tuner", "numpy", "scikit-learn", "scipy")  # another version of one may try other settings


@dataclasses.dataclass(frozen=True)
class Search:
    """A search that has come to its end.

    Attributes:
      run: its name among the runs.
      folder: what it left: a folder a trial, with logs for TensorBoard.
      trials: all of them, in their order.
      report: the page about it.
    """

    run: str
    folder: Path
    trials: list[Trial]
    report: Path


def tune(
    experiment: Experiment,
    home: Home,
    source: Path | None,
    trials: int,
    console: Console,
    planned: Callable[[], object] = lambda: None,
) -> Search:
    """Trains with different settings, each time from the beginning, and measures each on the split `eval`.

    A search with the same ranges, other settings, data and code goes on with the trials that there are.

    Args:
      experiment: what is trained, and `experiment.tuning`, what is tried.
      home: where everything goes.
      source: folder of the data; may be None for a data set that can be fetched, or is in the home folder.
      trials: how many there are to be in all.
      console: where progress is shown.
      planned: called once it is known that the search can begin.

    Raises:
      ConfigError: there is nothing to try, a value to try is none that its setting takes, or no split to measure on.
      RunFailed: the ingestion failed, or no trial could be measured.
      RunStopped: SIGTERM came.
      ConveyorError: see `pipeline.run.runner.run`, as for the data, the home folder and its metadata.
    """
    check(experiment)
    require_chief()
    cold = dataclasses.replace(experiment, training=dataclasses.replace(experiment.training, warm_steps=0))
    with locked(home), console.cleared():
        backup.check(home)
        beam = BeamRunner.chosen(home.root)
        plan = make_plan(cold, home, input_folder(cold, home, source, console.note), beam)
        _check_batches(plan)
        folder = home.tuning / cold.name / _key(plan)
        log = home.log(plan.run_id)
        console.note(f"run {plan.run_id}, log {log}")
        backup.save(home)
        with redirected(log):
            store = prepare(plan, console)
            _check_networks(plan, console)
            planned()
            failure: str | None = None
            try:
                from pipeline.run.graph import create_tuning_pipeline  # which `prepare` has imported

                carry_out(plan, store, create_tuning_pipeline(plan, _job(plan, folder), folder, trials), console, log)
                remember(folder, cold, plan.provenance.data_digest)
            except BaseException as error:
                failure = _failure(error)
                raise
            finally:
                from pipeline.report import trials as page  # which imports what reads TFX's results

                found = read(folder)
                report = page.write(home, plan.run_id, cold, found, failure)
            return Search(plan.run_id, folder, found, report)


def check(experiment: Experiment) -> None:
    """Refuses a search that cannot be.

    Raises:
      ConfigError: it says why, and what to do.
    """
    ranges, splits = experiment.tuning.ranges, experiment.dataset.splits
    if not ranges:
        raise ConfigError(
            f"{experiment.name} says nothing of what to try: add tuning=Tuning({{...}}) to its file, such as "
            'Tuning({"network.learning_rate": Range(1e-4, 1e-2, log=True)}), or give it for this once: --set '
            '\'tuning.ranges={"network.learning_rate": {"low": 1e-4, "high": 1e-2, "log": true}}\'.'
        )
    for name, values in ranges.items():
        for end in values.ends:
            override(experiment, (f"{name}={json.dumps(end)}",), "tuning.ranges: ")
    if isinstance(splits, HashedSplits):
        held_out, way = splits.eval_share > 0, "dataset.splits.eval_share=0.1"
    else:
        held_out, way = splits.eval is not None or splits.eval_examples > 0, "dataset.splits.eval_examples=N"
    if not held_out:
        raise ConfigError(
            f"{experiment.name} holds nothing out of its training images to measure trials on, and the test split is "
            f"not for that. Hold out about a tenth of them, here and in the runs to come: say {way} in its file, or "
            "with --set."
        )


def _check_batches(plan: RunPlan) -> None:
    """Refuses batches to try that are larger than all that is trained on."""
    name = "training.batch_size"
    if name in plan.experiment.tuning.ranges:
        largest = max(plan.experiment.tuning.ranges[name].ends)  # type: ignore[type-var]  # numbers: `check` has seen them
        try:
            check_batch(override(plan.experiment, (f"{name}={largest}",)), plan.inputs)
        except ConfigError as error:
            raise ConfigError(f"tuning.ranges: {error}") from None


def _failure(error: BaseException) -> str:
    """Returns why a search has ended, in a sentence."""
    if isinstance(error, ConveyorError):
        return getattr(error, "sentence", str(error))
    return "It was interrupted." if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}"


def _check_networks(plan: RunPlan, console: Console) -> None:
    """Builds the network with each end of each range, one after the other, and says where it cannot be built.

    Raises:
      NetworkError: it can be built with none of a range's.
    """
    from components.network_tuner.executor import with_settings
    from trainer import networks

    for name, values in plan.experiment.tuning.ranges.items():
        ends = values.ends if name.startswith("network.") else ()
        problems = []
        for end in ends:
            try:
                networks.build(with_settings(plan.job, {name: end}), "float32")
            except networks.NetworkError as error:
                problems.append(f"tuning.ranges: {name}={json.dumps(end)}: {error}")
        if problems and len(problems) == len(ends):
            raise networks.NetworkError(problems[0])
        for problem in problems:  # another setting may go with it
            console.note(problem)


def _key(plan: RunPlan) -> str:
    """Returns 16 hexadecimal digits of all that determines a search: the trainings, what is tried, and what chooses."""
    versions = " ".join(importlib.metadata.version(name) for name in CHOOSERS)
    whole = f"{plan.checkpoints.name} {to_json(plan.experiment.tuning)} {versions}"
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


def _job(plan: RunPlan, folder: Path) -> TrainingJob:
    """Returns what is trained; its code is a copy in the search's folder, for trials that come later."""
    code = folder / "network"
    copy_code(plan.experiment.network, code)
    return dataclasses.replace(plan.job, network=dataclasses.replace(plan.job.network, folder=str(code)))
