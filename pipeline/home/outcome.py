"""How a run ended, for people, scripts and schedulers."""

import dataclasses
from typing import Any

PUSHED, FAILED, USAGE, NOT_BLESSED, NOTHING_NEW, INTERRUPTED = 0, 1, 2, 3, 4, 130  # exit codes
_EXIT_CODES = {"pushed": PUSHED, "up to date": PUSHED, "rejected": NOT_BLESSED, "failed": FAILED}
_EXIT_CODES |= {"nothing new": NOTHING_NEW}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
      verdict: `pushed`, `up to date`, `nothing new`, `rejected` or `failed`.
      run: its name.
      accuracy: of the model on the test split, 0 to 1; None where it was not measured.
      baseline: of the model that served before, on the same split; None where there was none.
      reasons: why it was rejected; empty otherwise.
      drift: a sentence for each limit that the distance between arrived and known data exceeds.
      version: the number it is served under; None where it is not.
      label: that version's label, `stable` or `canary`.
      path: that version's folder.
      report: the run report's page.
    """

    verdict: str
    run: str
    accuracy: float | None = None
    baseline: float | None = None
    reasons: tuple[str, ...] = ()
    drift: tuple[str, ...] = ()
    version: int | None = None
    label: str | None = None
    path: str | None = None
    report: str | None = None

    @property
    def exit_code(self) -> int:
        """What the process should end with."""
        return _EXIT_CODES[self.verdict]

    def to_dict(self) -> dict[str, Any]:
        """Returns the outcome for scripts."""
        return {**dataclasses.asdict(self), "exit_code": self.exit_code}
