"""Runs an experiment's pipeline on this machine: lock, data, components, verdict."""

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conveyor import processes
from conveyor.errors import ConfigError, ConveyorError, ExitCode
from conveyor.words import counted
from pipeline.beam.runners import DIRECT, BeamRunner
from pipeline.data.inputs import input_folder
from pipeline.experiments.config import Experiment
from pipeline.home import backup
from pipeline.home.folders import Home
from pipeline.home.lock import is_busy, locked
from pipeline.home.outcome import Outcome, Verdict
from pipeline.run.console import Console, redirected
from pipeline.run.error_text import error_text
from pipeline.run.nothing_new import repeated_outcome
from pipeline.run.plan import RunPlan, make_plan


class RunFailed(ConveyorError):
    """A component failed; says which, why, and where the log is.

    Attributes:
      sentence: which, and why.
      run: name of the run.
    """

    def __init__(self, sentence: str, run: str = "", log: Path | None = None) -> None:
        super().__init__(f"{sentence}\nThe log is {log}" if log else sentence)
        self.sentence, self.run = sentence, run


class RunDrifted(RunFailed):
    """New images differ too much from those before, and `drift.stops` says that this ends the run."""

    exit_code = ExitCode.DRIFTED


class RunStopped(RunFailed):
    """A stop signal came; what was done is kept."""

    exit_code = ExitCode.INTERRUPTED


def run(
    experiment: Experiment,
    home: Home,
    source: Path | None,
    console: Console,
    only_new: bool = False,
    beam: BeamRunner = DIRECT,
    planned: Callable[[], object] = lambda: None,
) -> Outcome:
    """Takes an experiment from its files to a pushed model, or says why not.

    Args:
      experiment: what to run.
      home: where everything goes.
      source: folder of the data; may be None for a data set that can be fetched, or is in the home folder.
      console: where progress is shown.
      only_new: whether to leave it at the verdict of the last completed run, also where that was a rejection, if data,
        settings and code are what they were.
      beam: what the examples are ingested and evaluated on.
      planned: called once it is known that the run can begin: nothing is wrong with its settings, folders and network.

    Raises:
      BaselineDamaged: the stable version is not the model that was pushed.
      ClusterUnfit: Beam's cluster cannot do the work.
      ConfigError: the experiment needs `source` and there is none.
      DataError: a span is damaged.
      FetchError: the data could not be had.
      HomeBusy: another run is in progress.
      NetworkError: the network cannot be built.
      MetadataUnavailable: the metadata are damaged, or another process holds them.
      RunDrifted: new images differ too much.
      RunFailed: a component failed.
      RunStopped: SIGTERM came.
      StorageError: the home folder cannot be written to.
    """
    require_chief()
    with locked(home), console.cleared():
        backup.check(home)
        plan = make_plan(experiment, home, input_folder(experiment, home, source, console.note), beam)
        if repeated := repeated_outcome(plan, also_rejected=only_new):
            planned()
            return repeated
        if plan.no_baseline:
            console.note(plan.no_baseline)
        trained_on, arrived = plan.drift_sides
        if arrived and plan.missing and plan.baseline:
            version, missing = plan.baseline.version, ", ".join(plan.missing)
            measured = f"Drift is measured without {missing}" if trained_on else "Drift is not measured"
            console.note(f"{measured}: version {version} was trained on what is not there any more as it was.")
        log = home.log(plan.run_id)
        console.note(f"run {plan.run_id}, log {log}")
        backup.save(home)
        with redirected(log):
            outcome = _verdict(plan, console, log, planned)
            if outcome.version is not None:
                _settle(home, experiment.serving.model_name, outcome, console)
        return outcome


def takes_part() -> bool:
    """Whether a job controller has placed this process beside another, which has the run: see `take_part`.

    Raises:
      ConfigError: `TF_CONFIG` is none of workers.
    """
    if "TF_CONFIG" not in os.environ:
        return False
    from trainer import devices  # with TensorFlow

    return not devices.workers_of(os.environ["TF_CONFIG"])[1]


def require_chief() -> None:
    """Refuses what the chief of several workers alone does.

    Raises:
      ConfigError: this is another worker.
    """
    if takes_part():
        raise ConfigError("TF_CONFIG makes this a worker beside a chief: `conveyor run` alone lets it take part.")


def take_part(experiment: Experiment, home: Home, source: Path | None, console: Console) -> None:
    """Trains as one of the workers of a run, whose chief is elsewhere and has the same settings, home and data.

    Raises:
      RunFailed: the training failed, or was stopped.
      ConveyorError: see `run`, as for the settings, the data and the home folder.
    """
    from components.network_trainer.executor import TrainingFailed, join

    plan = make_plan(experiment, home, input_folder(experiment, home, source, console.note))
    log = home.log(plan.run_id)
    console.note(f"Takes part in a training whose chief is elsewhere (TF_CONFIG), when that begins; log {log}")
    with redirected(log):
        try:
            if not join(plan.checkpoints, functools.partial(is_busy, home)):
                console.note(
                    "The run has ended, and this worker took no part: it needed no training, or its settings, data or "
                    "code are not what they are here."
                )
        except TrainingFailed as error:
            raise RunFailed(str(error), plan.run_id, log) from error


def _settle(home: Home, model: str, outcome: Outcome, console: Console) -> None:
    """Waits until the running servers have taken the version, and says whether they have."""
    from pipeline.release import rollout  # with gRPC, which a run that finds nothing new does not need

    for server in rollout.settle(home, model):
        if server.made or server.runs:
            why = f": {server.problem}" if server.problem else ""
            does = "serves" if server.made else "does not serve"
            console.note(f"{server.target} {does} version {outcome.version}, as {outcome.label}{why}")
        else:
            console.note(server.problem)


def prepare(plan: RunPlan, console: Console) -> Any:
    """Builds the network once, and returns ML Metadata's store, in which nothing is marked as running any more.

    TensorFlow and TFX are imported here, when they are needed. For the holder of the home's lock.
    """
    started = time.perf_counter()
    console.start("Setup")
    processes.import_ahead()
    import tensorflow as tf

    from components.network_trainer.executor import placed
    from pipeline.home import metadata_store
    from pipeline.run import graph  # noqa: F401  # which takes most of the time
    from trainer import networks
    from trainer.settings import SPEC

    tf.config.set_visible_devices([], "GPU")  # only the trainer's process may take one
    plan.stage_network()
    networks.build(plan.job, "float32")  # what is wrong with it is told of before any work is done
    networks.callbacks(plan.job.network)
    placed(plan.job.training.workers)
    (plan.checkpoints / SPEC).unlink(missing_ok=True)  # of a chief that was killed: no worker is to join that
    store = metadata_store.connect(plan.home)
    for name in metadata_store.close_abandoned(store, died=True):
        console.note(f"An earlier run was stopped in {name}; this one continues from there.")
    if orphans := metadata_store.clear_orphans(store, plan.home):
        console.note(f"Removed {counted(orphans, 'output')} of runs that ML Metadata knows nothing of.")
    metadata_store.claim(plan.home)
    console.end("Setup", "done", time.perf_counter() - started)
    return store


def carry_out(plan: RunPlan, store: Any, pipeline: Any, console: Console, log: Path) -> None:
    """Runs the components of a TFX pipeline.

    Raises:
      ClusterUnfit: Beam's cluster cannot do the work.
      RunDrifted, RunFailed, RunStopped: see `run`.
    """
    from ml_metadata.proto.metadata_store_pb2 import Execution

    from components.drift_gate.executor import DriftStopped
    from pipeline.beam import cluster
    from pipeline.home import metadata_store
    from pipeline.run.launch import ComponentFailed, PipelineRunner, Stopped

    try:
        beam = cluster.ready(plan.beam, plan.home.root, console.note)
        PipelineRunner(plan.run_id, store, console, beam).run(pipeline)
    except Stopped as error:
        raise RunStopped(str(error), plan.run_id) from error
    except ComponentFailed as error:
        metadata_store.close_abandoned(metadata_store.again(store, plan.home), Execution.FAILED)
        kind = RunDrifted if isinstance(error.__cause__, DriftStopped) else RunFailed
        raise kind(f"{error.component} failed: {error_text(error.__cause__)}", plan.run_id, log) from error
    finally:
        metadata_store.close_abandoned(metadata_store.again(store, plan.home))


def _verdict(plan: RunPlan, console: Console, log: Path, planned: Callable[[], object]) -> Outcome:
    """Runs the components, writes the report, and returns the verdict."""
    store = prepare(plan, console)
    planned()
    from pipeline.home import metadata_store
    from pipeline.report import gate_decisions, page
    from pipeline.report.page import Failure
    from pipeline.report.processors import Processors
    from pipeline.run.graph import create_pipeline

    measured = None
    if plan.baseline:
        measured = gate_decisions.measured_before(store, plan.home, plan.provenance, plan.baseline.version)

    processors = Processors()

    def write(failure: Failure | None = None) -> Outcome:
        run = metadata_store.run_by_id(metadata_store.again(store, plan.home), plan.run_id)
        return page.write(plan.home, plan.provenance, run, console.note, processors, failure, measured)

    try:
        with processors:
            carry_out(plan, store, create_pipeline(plan, measured), console, log)
    except RunStopped:
        raise
    except RunFailed as error:
        write(Failure(Verdict.of_exit_code(error.exit_code), error.sentence, str(log)))
        raise
    return write()
