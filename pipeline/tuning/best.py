"""Finds the best trial of an experiment's newest search, and what that search was of."""

import dataclasses
import json
from typing import Any

from components.network_tuner.trials import Trial, best_first, read
from conveyor.errors import ConfigError, storage_errors
from conveyor.files import replace_file
from pipeline.experiments.config import Experiment
from pipeline.home.folders import Home

NEWEST = "newest.json"  # beside the searches of an experiment


@dataclasses.dataclass(frozen=True)
class Best:
    """The winner of a search.

    Attributes:
      trial: the best trial.
      trials: how many there are.
      others: settings that the experiment had in the search, and has not now: by name, both values.
    """

    trial: Trial
    trials: int
    others: dict[str, tuple[Any, Any]]


def remember(home: Home, experiment: Experiment, search: str) -> None:
    """Writes down that a search is an experiment's newest.

    Raises:
      StorageError: it cannot be written.
    """
    path = home.tuning / experiment.name / NEWEST
    with storage_errors(f"{path} cannot be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, json.dumps({"search": search, "experiment": experiment.to_dict()}, indent=1))


def newest(home: Home, experiment: str) -> dict[str, Any] | None:
    """Returns an experiment's newest search: `search`, its folder, and `experiment`, its settings; None without any."""
    path = home.tuning / experiment / NEWEST
    with storage_errors(f"{path} cannot be read"):
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def best_trial(home: Home, experiment: Experiment) -> Best:
    """Returns the best trial of an experiment's newest search.

    Raises:
      ConfigError: there is none.
    """
    found = newest(home, experiment.name)
    trials = best_first(read(home.tuning / experiment.name / found["search"])) if found else []
    if found is None or not trials or trials[0].accuracy is None:
        name = experiment.name
        raise ConfigError(f"There is no best trial of {name} in {home.root}: run `conveyor tune {name}`.")
    then, now = _settings(found["experiment"]), _settings(experiment.to_dict())
    names = sorted((then.keys() | now.keys()) - trials[0].settings.keys())
    others = {name: (then.get(name), now.get(name)) for name in names if then.get(name) != now.get(name)}
    return Best(trials[0], len(trials), others)


def _settings(experiment: dict[str, Any]) -> dict[str, Any]:
    """Returns what a training depends on, by name; of the network's code, its digest."""
    network = experiment["network"]
    return {
        **{f"training.{name}": value for name, value in experiment["training"].items() if name != "warm_steps"},
        **{f"network.{name}": value for name, value in network["parameters"].items()},
        **{f"dataset.{name}": value for name, value in experiment["dataset"].items()},
        "the network's code": network["digest"][:12],
    }
