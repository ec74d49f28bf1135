"""Writes a page about a search for settings: what was tried, and what each trial reached."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from components.network_tuner.trials import Trial, best_first, shown
from conveyor.errors import storage_errors
from conveyor.files import replace_file
from pipeline.experiments.config import Choice, Experiment, Range
from pipeline.home.folders import Home
from pipeline.home.reports import page_path
from pipeline.report import page, plots


def write(home: Home, run: str, experiment: Experiment, trials: Sequence[Trial], failure: str | None = None) -> Path:
    """Writes `reports/<run>.html` and `.json`, and returns the page's path.

    Args:
      home: where the reports go.
      run: the search's name among the runs.
      experiment: what was tried, `experiment.tuning`.
      trials: in their order.
      failure: why the search failed, if it did.

    Raises:
      StorageError: it cannot be written.
    """
    names = list(experiment.tuning.ranges)
    logarithmic = [name for name, values in experiment.tuning.ranges.items() if getattr(values, "log", False)]
    text = page.render(
        "trials.html.j2",
        experiment=experiment.name,
        run=run,
        names=names,
        ranges={name: _in_words(values) for name, values in experiment.tuning.ranges.items()},
        training=experiment.training,
        failure=failure,
        shown=shown,
        trials=best_first(trials),
        plot=plots.trials(trials, names, logarithmic) if any(trial.accuracy is not None for trial in trials) else None,
    )
    path = page_path(home, run)
    with storage_errors(f"The report {path} cannot be written"):
        home.reports.mkdir(parents=True, exist_ok=True)
        replace_file(path, text)
        fields = {"failure": failure, "trials": [dataclasses.asdict(trial) for trial in trials]}
        replace_file(path.with_suffix(".json"), json.dumps(fields, indent=1))
    return path


def _in_words(values: Choice | Range) -> str:
    """Returns which values of a setting are tried."""
    if isinstance(values, Choice):
        return ", ".join(map(shown, values.values))
    step = "" if values.step is None else f", in steps of {shown(values.step)}"
    return f"from {shown(values.low)} to {shown(values.high)}{step}{', by factors' if values.log else ''}"
