"""Finds the best trial of an experiment's searches."""

from components.network_tuner.trials import TRIALS_FILE, Trial, best_first, read
from conveyor.errors import ConfigError
from pipeline.home.folders import Home


def best_trial(home: Home, experiment: str) -> tuple[Trial, int]:
    """Returns the best trial of an experiment's newest search, and how many trials that has.

    Raises:
      ConfigError: there is none.
    """
    searches = sorted((home.tuning / experiment).glob(f"*/{TRIALS_FILE}"), key=lambda path: path.stat().st_mtime)
    trials = best_first(read(searches[-1].parent)) if searches else []
    if not trials or trials[0].accuracy is None:
        raise ConfigError(f"There is no best trial of {experiment} in {home.root}: run `conveyor tune {experiment}`.")
    return trials[0], len(trials)
