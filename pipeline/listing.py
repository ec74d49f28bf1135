"""Rows for `conveyor runs` and `conveyor models`."""

import json
from typing import Any

from components.atomic_pusher.executor import read_record, versions
from pipeline.home import Home


def past_runs(home: Home, experiment: str | None) -> list[Any]:
    """Returns the runs that ML Metadata knows, the oldest first; see `lineage.Run`."""
    if not home.has_metadata:
        return []
    from pipeline import lineage

    return lineage.runs(lineage.connect(home), experiment)


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
    """Returns the pushed versions of all models, or of one experiment's."""
    rows = []
    for base in sorted(path for path in home.serving.glob("*") if path.is_dir()):
        for version in versions(base):
            folder = base / str(version)
            record = read_record(folder)
            if experiment not in (None, record.get("experiment", {}).get("name")):
                continue
            told = _told(home, record.get("run", ""))
            rows.append(
                {
                    "model": base.name,
                    "version": version,
                    "accuracy": told.get("accuracy"),
                    "run": record.get("run"),
                    "megabytes": round(sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e6, 1),
                    "folder": str(folder),
                }
            )
    return rows


def _told(home: Home, run: str) -> dict[str, Any]:
    """Returns the outcome in a run's report; nothing where there is none."""
    path = home.reports / f"{run}.json"
    return json.loads(path.read_text())["outcome"] if path.exists() else {}
