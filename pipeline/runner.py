"""Runs an experiment's pipeline on this machine: lock, data, components one after the other, verdict."""

import contextlib
import datetime
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import filelock

from pipeline import fetch, provenance
from pipeline.config import ConfigError, Experiment
from pipeline.console import Console
from pipeline.explain import explain
from pipeline.home import Home
from pipeline.outcome import Outcome


class RunFailed(RuntimeError):
    """A component failed; says which, why, and where the whole story is."""


class HomeBusy(RuntimeError):
    """Another run holds the home folder."""


def run(experiment: Experiment, home: Home, source: Path | None, console: Console) -> Outcome:
    """Takes an experiment from its files to a pushed model, or says why not.

    Args:
      experiment: what to run.
      home: where everything goes.
      source: folder of the data; may be None for a data set that can be fetched.
      console: where progress is shown.

    Raises:
      ConfigError: the experiment needs `source` and there is none.
      FetchError: the data could not be had.
      HomeBusy: another run is in progress.
      RunFailed: a component failed.
    """
    with locked(home):
        data = prepare_data(experiment, home, source, console)
        data_digest = provenance.data_digest(data, experiment.dataset)
        fingerprint = provenance.fingerprint(experiment, data_digest)
        known = _up_to_date(experiment, home, fingerprint)
        if known:
            return known
        now = datetime.datetime.now(datetime.timezone.utc)
        run_id = f"{experiment.name}-{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03d}-{fingerprint}"
        log = home.log(run_id)
        console.note(f"run {run_id}, log {log}")
        with redirected(log):
            return _run_pipeline(experiment, home, data, data_digest, run_id, console, log)


@contextlib.contextmanager
def locked(home: Home) -> Iterator[None]:
    """Holds the home folder for one run at a time. The system lets go of the lock when the process dies.

    Raises:
      HomeBusy: another process holds it.
    """
    home.root.mkdir(parents=True, exist_ok=True)
    holder = home.root / "run.pid"
    try:
        with filelock.FileLock(home.lock, timeout=0):
            holder.write_text(str(os.getpid()))
            yield
    except filelock.Timeout:
        pid = holder.read_text() if holder.exists() else "unknown"
        raise HomeBusy(
            f"Another run (process {pid}) is using {home.root}. Wait for it, or choose another --home."
        ) from None


def prepare_data(experiment: Experiment, home: Home, source: Path | None, console: Console) -> Path:
    """Returns the folder of the experiment's input files, fetched and verified where they are published ones."""
    dataset = experiment.dataset
    if dataset.canonical:
        return fetch.fetch(dataset.name, home.data, source, console.note)
    if source is None:
        raise ConfigError(f"The data set {dataset.name} is your own: give its folder with --data.")
    if not source.is_dir():
        raise ConfigError(f"--data {source}: there is no such folder.")
    return source.resolve()


@contextlib.contextmanager
def redirected(log: Path) -> Iterator[None]:
    """Sends what is written to standard error into a log, also by the C++ of libraries and by child processes."""
    sys.stderr.flush()
    saved = os.dup(2)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)


def _up_to_date(experiment: Experiment, home: Home, fingerprint: str) -> Outcome | None:
    """Returns the last run's outcome if nothing changed since, and what it pushed is still there, byte for byte."""
    if not home.has_metadata:
        return None
    from components.atomic_pusher.executor import read_record, tree_digest
    from pipeline import lineage

    last = lineage.last_run(lineage.connect(home), experiment.name)
    if last is None or last.fingerprint != fingerprint or last.version is None:
        return None
    path = home.serving / experiment.serving.model_name / str(last.version)
    record = read_record(path)
    if not record or record.get("digest") != tree_digest(path):
        return None
    report = home.reports / f"{last.id}.json"
    told = json.loads(report.read_text())["outcome"] if report.exists() else {}
    return Outcome(
        "up to date",
        last.id,
        accuracy=told.get("accuracy"),
        baseline=told.get("baseline"),
        version=last.version,
        path=str(path),
        report=told.get("report"),
    )


def _run_pipeline(
    experiment: Experiment, home: Home, data: Path, data_digest: str, run_id: str, console: Console, log: Path
) -> Outcome:
    """Runs the components and returns the verdict. TensorFlow and TFX are imported here, when they are needed."""
    started = time.perf_counter()
    console.start("Setup")
    import tensorflow as tf

    from pipeline import lineage, report
    from pipeline.graph import create_pipeline
    from pipeline.launch import ComponentFailed, PipelineRunner

    tf.config.set_visible_devices([], "GPU")  # only the trainer's process may take one
    store = lineage.connect(home)
    for name in lineage.close_abandoned(store):
        console.note(f"An earlier run was stopped in {name}; this one goes on from there.")
    pipeline = create_pipeline(experiment, home, data, data_digest, run_id)
    console.end("Setup", "done", time.perf_counter() - started)
    try:
        PipelineRunner(run_id, store, console).run(pipeline)
    except ComponentFailed as error:
        told = f"{error.component} failed: {explain(error.__cause__)}"
        report.write(home, experiment, lineage.run_by_id(store, run_id), data_digest, failure=told)
        raise RunFailed(f"{told}\nThe whole story is in {log}") from error
    finally:
        lineage.close_abandoned(store)
    return report.write(home, experiment, lineage.run_by_id(store, run_id), data_digest)
