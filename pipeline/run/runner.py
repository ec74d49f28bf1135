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

from pipeline.data import fetch
from pipeline.experiments.config import ConfigError, Experiment
from pipeline.home import backup, provenance
from pipeline.home.folders import Home
from pipeline.home.outcome import Outcome
from pipeline.release import rollout
from pipeline.run import baseline
from pipeline.run.console import Console
from pipeline.run.error_text import explain
from serving.model_store.files import read_record, tree_digest


class RunFailed(RuntimeError):
    """A component failed; says which, why, and where the whole story is."""


class HomeBusy(RuntimeError):
    """Another run holds the home folder."""


class RunStopped(RuntimeError):
    """A stop signal came; what was done is kept."""


def run(experiment: Experiment, home: Home, source: Path | None, console: Console, only_new: bool = False) -> Outcome:
    """Takes an experiment from its files to a pushed model, or says why not.

    Args:
      experiment: what to run.
      home: where everything goes.
      source: folder of the data; may be None for a data set that can be fetched, or is in the home folder.
      console: where progress is shown.
      only_new: whether to leave it at the verdict of the last completed run, also where that was a rejection, if data,
        settings and code are what they were.

    Raises:
      ConfigError: the experiment needs `source` and there is none.
      DataError: a span is damaged.
      FetchError: the data could not be had.
      HomeBusy: another run is in progress.
      MetadataUnavailable: the metadata are damaged, or another process holds them.
      RunFailed: a component failed.
      RunStopped: SIGTERM came.
    """
    with locked(home):
        backup.check(home)
        data = prepare_data(experiment, home, source, console)
        taken = provenance.inputs(data, experiment.dataset)
        fingerprint = provenance.fingerprint(experiment, provenance.data_digest(taken))
        known = _known(experiment, home, fingerprint, only_new)
        if known:
            return known
        now = datetime.datetime.now(datetime.timezone.utc)
        run_id = f"{experiment.name}-{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03d}-{fingerprint}"
        log = home.log(run_id)
        console.note(f"run {run_id}, log {log}")
        backup.save(home)
        with redirected(log):
            return _run_pipeline(experiment, home, taken, run_id, console, log)


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
    if source is None and (home.data / dataset.name).is_dir():
        return home.data / dataset.name
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


def _known(experiment: Experiment, home: Home, fingerprint: str, also_rejected: bool) -> Outcome | None:
    """Returns the last verdict if nothing changed since, and what was pushed then is still there, byte for byte."""
    if not home.has_metadata:
        return None
    from pipeline.home import metadata_store

    last = metadata_store.last_completed(metadata_store.connect(home), experiment.name)
    if last is None or last.fingerprint != fingerprint or (last.version is None and not also_rejected):
        return None
    path = home.serving / experiment.serving.model_name / str(last.version)
    if last.version is not None and read_record(path).get("digest") != tree_digest(path):
        return None
    report = home.reports / f"{last.id}.json"
    told = json.loads(report.read_text())["outcome"] if report.exists() else {}
    return Outcome(
        "nothing new" if also_rejected else "up to date",
        last.id,
        accuracy=told.get("accuracy"),
        baseline=told.get("baseline"),
        version=last.version,
        path=None if last.version is None else str(path),
        report=told.get("report"),
    )


def _run_pipeline(
    experiment: Experiment, home: Home, taken: list[provenance.Input], run_id: str, console: Console, log: Path
) -> Outcome:
    """Runs the components and returns the verdict. TensorFlow and TFX are imported here, when they are needed."""
    started = time.perf_counter()
    console.start("Setup")
    import tensorflow as tf

    from pipeline.home import metadata_store
    from pipeline.report import page
    from pipeline.run.graph import create_pipeline
    from pipeline.run.launch import ComponentFailed, PipelineRunner, Stopped

    tf.config.set_visible_devices([], "GPU")  # only the trainer's process may take one
    store = metadata_store.connect(home)
    for name in metadata_store.close_abandoned(store):
        console.note(f"An earlier run was stopped in {name}; this one goes on from there.")
    if orphans := metadata_store.clear_orphans(store, home.artifacts):
        console.note(f"Removed {orphans} outputs of runs that the metadata know nothing of.")
    served = baseline.serving(home, experiment)
    pipeline = create_pipeline(experiment, home, taken, served, run_id)
    console.end("Setup", "done", time.perf_counter() - started)
    try:
        PipelineRunner(run_id, store, console).run(pipeline)
    except Stopped as error:
        raise RunStopped(str(error)) from error
    except ComponentFailed as error:
        told = f"{error.component} failed: {explain(error.__cause__)}"
        page.write(home, experiment, metadata_store.run_by_id(store, run_id), taken, failure=told)
        raise RunFailed(f"{told}\nThe whole story is in {log}") from error
    finally:
        metadata_store.close_abandoned(store)
    outcome = page.write(home, experiment, metadata_store.run_by_id(store, run_id), taken)
    if outcome.version is not None and (target := rollout.settle(home, experiment.serving.model_name)):
        console.note(f"{target} serves version {outcome.version}, as {outcome.label}")
    return outcome
