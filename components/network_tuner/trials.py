"""The trials of a search, in a file that is still read when the search is over."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conveyor.errors import storage_errors
from conveyor.files import replace_file

TRIALS_FILE = "trials.json"


@dataclasses.dataclass(frozen=True)
class Trial:
    """A training with some settings.

    Attributes:
      trial: its number in the search, from 0.
      settings: their values, by name, such as `network.width`.
      accuracy: on the split `eval`, 0 to 1; None where it could not be measured.
      seconds: how long it took.
      error: why it could not be measured; None where it could.
    """

    trial: int
    settings: dict[str, Any]
    accuracy: float | None
    seconds: float
    error: str | None = None

    @property
    def assignments(self) -> tuple[str, ...]:
        """The settings as `--set` is given them."""
        return tuple(f"{name}={json.dumps(value)}" for name, value in self.settings.items())


def shown(value: Any) -> str:
    """Returns a setting's value in few characters."""
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value) if isinstance(value, bool) else str(value)


def read(folder: Path) -> list[Trial]:
    """Returns the trials of a search in their order; none where there is no such search.

    Raises:
      StorageError: they cannot be read.
    """
    path = folder / TRIALS_FILE
    with storage_errors(f"The trials in {path} cannot be read"):
        rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        return [Trial(**{field.name: row[field.name] for field in dataclasses.fields(Trial)}) for row in rows]


def write(folder: Path, trials: Sequence[Trial]) -> None:
    """Writes the trials of a search."""
    replace_file(folder / TRIALS_FILE, json.dumps([dataclasses.asdict(trial) for trial in trials], indent=1))


def best_first(trials: Sequence[Trial]) -> list[Trial]:
    """Returns trials by their accuracy, and last those without one."""
    return sorted(trials, key=lambda trial: (trial.accuracy is None, -(trial.accuracy or 0.0), trial.trial))
