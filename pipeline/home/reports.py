"""Reads the JSON files of run reports."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from pipeline.home.folders import Home


@dataclasses.dataclass(frozen=True)
class RunReport:
    """What a run report says; empty where there is no report.

    Attributes:
      fields: the whole JSON object.
    """

    fields: dict[str, Any]

    @property
    def outcome(self) -> dict[str, Any]:
        """The fields of the run's `Outcome`."""
        return self.fields.get("outcome", {})

    @property
    def experiment(self) -> dict[str, Any]:
        """The experiment's fields."""
        return self.fields.get("experiment", {})

    @property
    def trainer_digest(self) -> str:
        """SHA-256 of the code that trained the model; empty where nobody wrote it down."""
        code = self.fields.get("code", {})
        return code.get("trainer_digest") or code.get("trainer", "")  # as 0.1.0 called it

    @property
    def baseline(self) -> str | None:
        """SHA-256 over the files of the version that the model was compared with; None where nobody wrote it down."""
        return self.fields.get("baseline")

    @property
    def trained_parts(self) -> list[str]:
        """Names of the parts of the data that the model was trained on."""
        return [part["name"] for part in self.fields.get("data", {}).get("parts", []) if part["trained_on"]]


def page_path(home: Home, run_id: str) -> Path:
    """Returns the place of a run's page, beside which is its JSON file."""
    return home.reports / f"{run_id}.html"


def read_report(home: Home, run_id: str) -> RunReport:
    """Returns the report of a run; an empty one where there is none, or it is damaged."""
    try:
        fields = json.loads(page_path(home, run_id).with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        fields = None
    return RunReport(fields if isinstance(fields, dict) else {})
