"""Rows for `conveyor runs` and `conveyor models`."""

import contextlib
import datetime
from typing import Any

from pipeline.experiments.config import digest_of
from pipeline.home.folders import Home
from pipeline.home.lock import is_busy
from pipeline.home.reports import RunReport, read_report
from serving.model_store import StoredModel, VersionRecord


def past_runs(home: Home, experiment: str | None) -> list[Any]:
    """Returns the runs that ML Metadata knows, the oldest first; see `metadata_store.Run`."""
    if not home.has_metadata:
        return []
    from pipeline.home import metadata_store

    return metadata_store.runs(metadata_store.connect(home), experiment)


def models_of(home: Home, experiment: str) -> list[StoredModel]:
    """Returns the models that hold a version of an experiment, or are called like it."""
    return [
        model
        for model in home.models.models()
        if model.versions()
        and (
            model.name == experiment
            or any((r := model.record(v)) and r.experiment_name == experiment for v in model.versions())
        )
    ]


def run_rows(home: Home, experiment: str | None) -> list[dict[str, Any]]:
    """Returns what is worth knowing of all runs, or of one experiment's, the oldest first."""
    busy = home.root.exists() and is_busy(home)  # asked first: a run that ends meanwhile has then written down how
    return [_run_row(home, run, busy) for run in past_runs(home, experiment)]


def _run_row(home: Home, run: Any, busy: bool) -> dict[str, Any]:
    died = run.state == "running" and not busy  # its process did; the next run writes that down
    cached = sum(component.state == "cached" for component in run.components)
    report = read_report(home, run.id)
    state = "stopped" if died else run.state.value
    if state == "failed":
        state = report.outcome.get("verdict", state)  # it may have been stopped by drift
    last = next((c.name for c in reversed(run.components) if c.state not in ("done", "cached")), None)
    return {
        "run": run.id,
        "started": run.started.isoformat(sep=" ", timespec="seconds"),
        "state": state,
        "accuracy": report.outcome.get("accuracy"),
        "version": run.version,
        "component": None if run.state.is_verdict or run.state == "tuned" else last,
        "reason": _reason(report),
        "seconds": round(run.seconds),
        "cached": f"{cached} of {len(run.components)}",
    }


def _reason(report: RunReport) -> str | None:
    """Returns why a run did not push its model, the first reason alone; None where it did, or was stopped."""
    if report.fields.get("failure"):
        return " ".join(str(report.fields["failure"]).splitlines()[:2])
    return "; ".join(report.outcome.get("reasons", ())) or None


def model_rows(home: Home, experiment: str | None) -> list[dict[str, Any]]:
    """Returns the pushed versions of all models, or of one experiment's, and after them the rejected models."""
    rows = []
    for model in home.models.models():
        labels = model.labels()
        for version in model.versions():
            record = model.record(version) or VersionRecord()
            if experiment in (None, record.experiment_name):
                with contextlib.suppress(FileNotFoundError):  # `gc` removes it at this moment
                    rows.append(_version_row(home, model, version, labels.of_version(version), record))
    rejected = [run for run in past_runs(home, experiment) if run.state == "rejected"]
    return rows + [_rejected_row(home, run) for run in rejected]


def _version_row(
    home: Home, model: StoredModel, version: int, labels: list[str], record: VersionRecord
) -> dict[str, Any]:
    folder = model.path(version)
    copied = datetime.datetime.fromtimestamp(folder.stat().st_mtime, datetime.timezone.utc)
    return {
        "model": model.name,
        "version": version,
        "state": ", ".join(labels) or "kept",
        "accuracy": read_report(home, record.run).outcome.get("accuracy"),
        "data": _parts(list(record.parts)),
        "configuration": _configuration(record.experiment),
        "trainer_digest": record.trainer_digest or None,
        "megabytes": round(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6, 1),
        "date": record.pushed or copied.isoformat(sep=" ", timespec="seconds"),
        "run": record.run or None,
        "folder": str(folder),
    }


def _rejected_row(home: Home, run: Any) -> dict[str, Any]:
    report = read_report(home, run.id)
    return {
        "model": report.experiment.get("serving", {}).get("model_name", run.experiment),
        "version": None,
        "state": "rejected",
        "accuracy": report.outcome.get("accuracy"),
        "data": _parts(report.trained_parts),
        "configuration": _configuration(report.experiment),
        "trainer_digest": report.trainer_digest or None,
        "megabytes": None,
        "date": run.started.isoformat(sep=" ", timespec="seconds"),
        "run": run.id,
        "folder": None,
    }


def _parts(names: list[str]) -> str | None:
    """Returns the names of the parts of the data in few words."""
    if len(names) <= 3:
        return ", ".join(names) or None
    return f"{names[0]}, {names[1]} to {names[-1]} ({len(names)} parts)"


def _configuration(experiment: dict[str, Any]) -> str | None:
    """Returns a configuration's digest, see `Experiment.digest`."""
    return digest_of(experiment) if experiment else None
