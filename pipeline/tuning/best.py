"""Finds the best trial of an experiment's searches, and what its search was of."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.network_tuner.trials import Trial, best_first, read
from conveyor.errors import ConfigError, storage_errors
from conveyor.files import replace_file
from pipeline.experiments.config import Experiment
from pipeline.home.folders import Home

SEARCHED = "experiment.json"  # the experiment's fields and the digest of its data, in the folder of a search
DATA = "data_digest"
IRRELEVANT = {"warm_steps", "log_every", "checkpoint_every", "keep_checkpoints"}  # to the weights of a trial


@dataclasses.dataclass(frozen=True)
class Best:
    """The winner of a search.

    Attributes:
      trial: the best trial.
      trials: how many there are.
      changed: what a training depends on and is not what it was in the search: by name, the value then and now.
    """

    trial: Trial
    trials: int
    changed: dict[str, tuple[Any, Any]]


def remember(folder: Path, experiment: Experiment, data_digest: str) -> None:
    """Writes down what a search that has come to its end was of.

    Raises:
      StorageError: it cannot be written.
    """
    with storage_errors(f"{folder / SEARCHED} cannot be written"):
        replace_file(folder / SEARCHED, json.dumps({**experiment.to_dict(), DATA: data_digest}, indent=1))


def best_trial(home: Home, experiment: Experiment, data_digest: Callable[[], str]) -> Best:
    """Returns the best trial of all searches of an experiment and data as they are now, or else of the newest search.

    Accuracies on other data do not compare: nothing is said of which is better.

    Args:
      home: where the searches are.
      experiment: the experiment.
      data_digest: returns that of its data; see `pipeline.home.provenance.data_digest`. It is asked for where there
        are searches.

    Raises:
      ConfigError: there is none, or the network has lost a parameter that it sets.
    """
    paths = sorted((home.tuning / experiment.name).glob(f"*/{SEARCHED}"), key=lambda path: path.stat().st_mtime)
    digest = data_digest() if paths else ""
    found = [best for path in paths if (best := _best(path.parent, experiment, digest))]
    if not found:
        raise ConfigError(f"There is no best trial of {experiment.name} in {home.root}: `conveyor tune` finds one.")
    same = [best for best in found if not best.changed]
    best = max(same, key=lambda best: best.trial.accuracy or 0.0) if same else found[-1]
    known = {f"network.{name}" for name in experiment.network.parameters}
    if lost := sorted(name for name in best.trial.settings if name.startswith("network.") and name not in known):
        raise ConfigError(f"The best trial sets {', '.join(lost)}, which the network has no more: tune it again.")
    return best


def _best(folder: Path, experiment: Experiment, data_digest: str) -> Best | None:
    with storage_errors(f"{folder / SEARCHED} cannot be read"):
        searched = json.loads((folder / SEARCHED).read_text(encoding="utf-8"))
    trials = best_first(read(folder))
    if not trials or trials[0].accuracy is None:
        return None
    then, now = _settings(searched), _settings({**experiment.to_dict(), DATA: data_digest})
    names = sorted((then.keys() & now.keys()) - trials[0].settings.keys())
    return Best(trials[0], len(trials), {n: (then[n], now[n]) for n in names if then[n] != now[n]})


def _settings(experiment: dict[str, Any]) -> dict[str, Any]:
    """Returns what a training depends on, by name; of the network's code, its digest."""
    network = experiment["network"]
    return {
        **{f"training.{name}": value for name, value in experiment["training"].items() if name not in IRRELEVANT},
        **{f"network.{name}": value for name, value in network["parameters"].items()},
        **{f"dataset.{name}": value for name, value in experiment["dataset"].items()},
        **{f"spans.{name}": value for name, value in experiment["spans"].items()},
        "the network's code": network["digest"][:12],
        **({"the data's digest": experiment[DATA][:12]} if DATA in experiment else {}),  # older searches lack it
    }
