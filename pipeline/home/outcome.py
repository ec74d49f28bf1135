"""How a run ended, for people, scripts and schedulers."""

import dataclasses
import enum
from typing import Any

from conveyor.errors import ExitCode


class Verdict(str, enum.Enum):
    """How a run ended, in words."""

    PUSHED = "pushed"
    UP_TO_DATE = "up to date"
    NOTHING_NEW = "nothing new"
    REJECTED = "rejected"
    DRIFTED = "drifted"
    FAILED = "failed"
    STOPPED = "stopped"

    __str__ = str.__str__

    @property
    def exit_code(self) -> ExitCode:
        """What the process ends with."""
        return _EXIT_CODES[self]

    @classmethod
    def of_exit_code(cls, code: int) -> "Verdict":
        """Returns the verdict of a command that ended with a code."""
        return next((verdict for verdict, known in _EXIT_CODES.items() if known == code), cls.FAILED)


_EXIT_CODES = {
    Verdict.PUSHED: ExitCode.SUCCESS,
    Verdict.UP_TO_DATE: ExitCode.SUCCESS,
    Verdict.NOTHING_NEW: ExitCode.NOTHING_NEW,
    Verdict.REJECTED: ExitCode.REJECTED,
    Verdict.DRIFTED: ExitCode.DRIFTED,
    Verdict.FAILED: ExitCode.FAILED,
    Verdict.STOPPED: ExitCode.INTERRUPTED,
}


EVENTS = tuple(
    v.value for v in (Verdict.PUSHED, Verdict.REJECTED, Verdict.DRIFTED, Verdict.FAILED, Verdict.NOTHING_NEW)
)  # notified


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
      verdict: the verdict.
      run: name of the run.
      accuracy: accuracy of the model on the test split, 0 to 1; None where it was not measured.
      baseline: accuracy of the stable version on the same split; None where there was none.
      decline: the class whose accuracy fell most from the stable version's, in a sentence; None where none fell.
      reasons: why the model was rejected; empty otherwise.
      drift: a sentence for each limit that the distance between new and known data exceeds.
      version: the version that was pushed; None where none was.
      stable: the version that is stable now; None where there is none, or nobody can say.
      label: that version's label, `stable` or `canary`.
      formats: accuracy of what was made of the model beside its SavedModel, 0 to 1, by the format's name.
      path: that version's folder.
      report: the run report's page.
    """

    verdict: Verdict
    run: str
    accuracy: float | None = None
    baseline: float | None = None
    decline: str | None = None
    reasons: tuple[str, ...] = ()
    drift: tuple[str, ...] = ()
    version: int | None = None
    stable: int | None = None
    label: str | None = None
    formats: dict[str, float] = dataclasses.field(default_factory=dict)
    path: str | None = None
    report: str | None = None

    @property
    def exit_code(self) -> ExitCode:
        """What the process ends with."""
        return self.verdict.exit_code

    def to_dict(self) -> dict[str, Any]:
        """Returns the outcome for scripts."""
        return {**dataclasses.asdict(self), "verdict": self.verdict.value, "exit_code": int(self.exit_code)}
