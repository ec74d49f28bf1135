"""Rows for `conveyor runs` and `conveyor models`."""

import datetime
import json
from pathlib import Path
from typing import Any

from pipeline.experiments.config import digest_of
from pipeline.home.folders import Home
from serving.model_store import labels
from serving.model_store.files import read_record, versions


def past_runs(home: Home, experiment: str | None) -> list[Any]:
    """Returns the runs that ML Metadata knows, the oldest first; see `metadata_store.Run`."""
    if not home.has_metadata:
        return []
    from pipeline.home import metadata_store

    return metadata_store.runs(metadata_store.connect(home), experiment)


def run_row(home: Home, run: Any) -> dict[str, Any]:
    """Returns what is worth knowing of a run."""
    cached = sum(component.state == "cached" for component in run.components)
    return {
        "run": run.id,
        "started": run.started.isoformat(sep=" ", timespec="seconds"),
        "state": run.state,
        "accuracy": _told(home, run.id).get("accuracy"),
        "version": run.version,
        "seconds": round(run.seconds),
        "cached": f"{cached} of {len(run.components)}",
    }


def model_rows(home: Home, experiment: str | None) -> list[dict[str, Any]]:
    """Returns the pushed versions of all models, or of one experiment's, and after them the models turned away."""
    rows = []
    for base in sorted(path for path in home.serving.glob("*") if path.is_dir()):
        named = labels.read(base)
        for version in versions(base):
            folder = base / str(version)
            record = read_record(folder)
            if experiment in (None, record.get("experiment", {}).get("name")):
                state = ", ".join("serving" if name == "stable" else name for name in named.named(version)) or "kept"
                rows.append(_version_row(home, base.name, version, state, folder, record))
    rejected = [run for run in past_runs(home, experiment) if run.state == "rejected"]
    return rows + [_rejected_row(home, run) for run in rejected]


def _version_row(
    home: Home, model: str, version: int, state: str, folder: Path, record: dict[str, Any]
) -> dict[str, Any]:
    pushed = datetime.datetime.fromtimestamp(folder.stat().st_mtime, datetime.timezone.utc)
    return {
        "model": model,
        "version": version,
        "state": state,
        "accuracy": _told(home, record.get("run", "")).get("accuracy"),
        "data": _spans(list(record.get("parts", {}))),
        "configuration": _short(record.get("experiment")),
        "code": (record.get("code") or "")[:8] or None,
        "megabytes": round(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6, 1),
        "date": f"{pushed:%Y-%m-%d %H:%M}",
        "run": record.get("run"),
        "folder": str(folder),
    }


def _rejected_row(home: Home, run: Any) -> dict[str, Any]:
    report = _report(home, run.id)
    parts = [part["name"] for part in report.get("data", {}).get("parts", []) if part["trained_on"]]
    model = report.get("experiment", {}).get("serving", {}).get("model_name", run.experiment)
    return {
        "model": model,
        "version": None,
        "state": "rejected",
        "accuracy": report.get("outcome", {}).get("accuracy"),
        "data": _spans(parts),
        "configuration": _short(report.get("experiment")),
        "code": report.get("code", {}).get("trainer", "")[:8] or None,
        "megabytes": None,
        "date": f"{run.started:%Y-%m-%d %H:%M}",
        "run": run.id,
        "folder": None,
    }


def _spans(parts: list[str]) -> str | None:
    """Returns the names of the parts of the data in few words."""
    if len(parts) <= 3:
        return ", ".join(parts) or None
    return f"{parts[0]}, {parts[1]} to {parts[-1]} ({len(parts)} parts)"


def _short(experiment: dict[str, Any] | None) -> str | None:
    """Returns the beginning of a configuration's digest, see `Experiment.digest`."""
    return digest_of(experiment)[:8] if experiment else None


def _told(home: Home, run: str) -> dict[str, Any]:
    """Returns the outcome in a run's report; nothing where there is none."""
    return _report(home, run).get("outcome", {})


def _report(home: Home, run: str) -> dict[str, Any]:
    path = home.reports / f"{run}.json"
    return json.loads(path.read_text()) if path.exists() else {}
