"""What ML Metadata knows: runs and their components, blessings, pushed versions."""

import contextlib
import dataclasses
import datetime
import enum
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

from ml_metadata import errors, metadata_store
from ml_metadata.proto import metadata_store_pb2
from ml_metadata.proto.metadata_store_pb2 import Execution

from conveyor.errors import ConfigError, storage_errors
from conveyor.files import replace_file
from pipeline.home import backup
from pipeline.home.folders import Home, MetadataUnavailable

STATES = {
    Execution.NEW: "running",
    Execution.RUNNING: "running",
    Execution.COMPLETE: "done",
    Execution.FAILED: "failed",
    Execution.CACHED: "cached",
    Execution.CANCELED: "canceled",
}


_DIED = "died"  # a custom property of executions whose process did


class RunState(str, enum.Enum):
    """How far a run has come, as ML Metadata knows it."""

    RUNNING = "running"
    STOPPED = "stopped"  # by SIGTERM or Ctrl+C, or its process died
    FAILED = "failed"
    REJECTED = "rejected"
    PUSHED = "pushed"
    TUNED = "tuned"  # a search for settings, which pushes nothing

    __str__ = str.__str__

    @property
    def is_verdict(self) -> bool:
        """Whether the run came to a verdict on its model."""
        return self in (RunState.REJECTED, RunState.PUSHED)


@dataclasses.dataclass(frozen=True)
class ComponentRun:
    """One component in one run.

    Attributes:
      name: the component's name.
      state: `running`, `done`, `failed`, `cached` or `canceled`.
      started: when it started.
      seconds: how long it took; 0 where its process died, as nobody knows when.
      outputs: its artifacts by output name, the newest of each; none where it failed.
      checkpoints: of the trainer, the folder of its checkpoints; empty for another.
    """

    name: str
    state: str
    started: datetime.datetime
    seconds: float
    outputs: dict[str, metadata_store_pb2.Artifact]
    checkpoints: str = ""


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of an experiment's pipeline.

    Attributes:
      id: `<experiment>-<time>-<fingerprint>`.
      started: when its first component started.
      components: in the order they ran.
    """

    id: str
    started: datetime.datetime
    components: list[ComponentRun]

    @property
    def experiment(self) -> str:
        """The experiment's name."""
        return _experiment_of(self.id)

    @property
    def fingerprint(self) -> str:
        """A digest of the data, the configuration and the code."""
        return self.id.rsplit("-", 1)[1]

    @property
    def seconds(self) -> float:
        """How long it took, from its first component's start to its last one's end."""
        return max((self.offset(component) + component.seconds for component in self.components), default=0.0)

    def offset(self, component: ComponentRun) -> float:
        """Returns how long after the run a component started, seconds."""
        return (component.started - self.started).total_seconds()

    @property
    def version(self) -> int | None:
        """The version that its model is served under; None where it was not pushed."""
        pushed = self.output("AtomicPusher", "pushed_model")
        return property_of(pushed, "pushed_version") if pushed and property_of(pushed, "pushed") == 1 else None

    @property
    def state(self) -> RunState:
        """How far the run has come."""
        states = {component.state for component in self.components}
        if self.version is not None:
            return RunState.PUSHED
        if self.output("Tuner", "best_hyperparameters"):
            return RunState.TUNED
        for state in (RunState.FAILED, RunState.RUNNING):
            if state.value in states:
                return state
        return RunState.REJECTED if self.output("AtomicPusher", "pushed_model") else RunState.STOPPED

    def output(self, component: str, name: str) -> metadata_store_pb2.Artifact | None:
        """Returns an artifact that a component of this run made or took from the cache."""
        return next((c.outputs.get(name) for c in self.components if c.name == component), None)


def connect(home: Home) -> metadata_store.MetadataStore:
    """Returns the store, and makes its tables where it is new.

    Raises:
      ConfigError: the home folder's store is another, or cannot be known.
      MetadataUnavailable: the server does not answer, or the file is damaged.
    """
    _check_store(home)
    try:
        return metadata_store.MetadataStore(home.connection(), enable_upgrade_migration=False)
    except (RuntimeError, errors.StatusError) as error:
        backup.check(home)  # it knows damage from a lock, and says what to do
        raise MetadataUnavailable(
            f"The metadata in {home.metadata_place} cannot be opened: {str(error).strip()}. Nothing was changed. "
            + (
                "See that the server runs, and that user, password and database are right."
                if home.metadata
                else "Another process may have held the file: run again."
            )
        ) from error


def again(store: metadata_store.MetadataStore, home: Home) -> metadata_store.MetadataStore:
    """Returns the store, opened anew where it is on a server, which may have closed the connection meanwhile.

    Raises:
      MetadataUnavailable: the server does not answer.
    """
    return connect(home) if home.metadata else store


def _check_store(home: Home) -> None:
    """Checks that the store is the home folder's own: another would take its artifacts for leftovers."""
    own = home.own_store
    if not home.store_record.exists() and home.metadata and not _has_executions(home.database):
        own = None  # 0.1.0 made the file at any look without --metadata
    if own not in (None, home.store_name):
        way = "leave --metadata and $CONVEYOR_METADATA out" if own == home.database.name else "name it with --metadata"
        raise ConfigError(
            f"The metadata of {home.root} are in {own}, and not in {home.store_name}: {way}, or choose another --home. "
            f"{home.store_record} says which are a home's own."
        )
    if not home.metadata and home.outputs() and (not home.has_database or backup.has_no_tables(home.database)):
        if backup.copies(home):
            way = "`conveyor doctor --restore-metadata` returns to a copy"
        else:
            way = f"bring {home.database} back" if own else "name their server with --metadata"
        raise MetadataUnavailable(
            f"The artifacts in {home.artifacts} are of metadata that are not here: {way}, or remove the artifacts to "
            "start anew; pushed models stay."
        )


def _has_executions(database: Path) -> bool:
    """Whether something has run with a SQLite file; one that cannot be read may hold anything."""
    if not database.exists() or backup.has_no_tables(database):
        return False
    try:
        with contextlib.closing(backup.read_only(database)) as connection:
            return bool(connection.execute("SELECT EXISTS (SELECT 1 FROM Execution)").fetchone()[0])
    except sqlite3.Error:
        return True


def require_own(store: metadata_store.MetadataStore, home: Home) -> None:
    """Refuses a store that knows none of the artifacts in a home, before any of them is removed.

    A SQLite file that the home names is its own, whatever it knows: it may be an old copy.

    Raises:
      ConfigError: the artifacts are another store's.
    """
    if (home.store_record.exists() and not home.metadata) or not home.outputs():
        return
    if not any(artifact.uri.startswith(f"{home.artifacts}/") for artifact in store.get_artifacts()):
        raise ConfigError(
            f"The metadata in {home.metadata_place} know of none of the artifacts in {home.artifacts}. They are "
            "another store's, or were made before this home was moved: name their store with --metadata, or remove the "
            "artifacts to start anew; pushed models stay."
        )


def claim(home: Home) -> None:
    """Makes the store the home folder's own, where it has none yet. Only for the holder of the home's lock."""
    if not home.store_record.exists():
        with storage_errors(f"{home.store_record} cannot be written"):
            replace_file(home.store_record, f"{home.store_name}\n")


def property_of(artifact: metadata_store_pb2.Artifact, name: str) -> Any:
    """Returns a custom property's value; None where the artifact has none of that name."""
    if name not in artifact.custom_properties:
        return None
    value = artifact.custom_properties[name]
    return getattr(value, value.WhichOneof("value"))


def runs(store: metadata_store.MetadataStore, experiment: str | None = None) -> list[Run]:
    """Returns all runs, or one experiment's, the oldest first."""
    return [_run(store, context) for context in _run_contexts(store, experiment)]


def last_completed(store: metadata_store.MetadataStore, experiment: str) -> Run | None:
    """Returns an experiment's newest run that came to a verdict, without a look at older ones; None without any."""
    newest_first = (_run(store, context) for context in reversed(_run_contexts(store, experiment)))
    return next((run for run in newest_first if run.state.is_verdict), None)


def unfinished_trainings(known: list[Run]) -> set[tuple[str, ...]]:
    """Returns the places of the checkpoints that a run may go on from: experiment, and the training's own folder.

    Args:
      known: all runs, the oldest first.
    """
    trainings = (component for run in known for component in run.components if component.checkpoints)
    last = {Path(component.checkpoints).parts[-2:]: component.state for component in trainings}
    return {place for place, state in last.items() if state not in ("done", "cached")}


def run_by_id(store: metadata_store.MetadataStore, run_id: str) -> Run:
    """Returns one run.

    Raises:
      KeyError: there is no such run.
    """
    context = store.get_context_by_type_and_name("pipeline_run", run_id)
    if context is None:
        raise KeyError(run_id)
    return _run(store, context)


def close_abandoned(
    store: metadata_store.MetadataStore, state: Any = Execution.CANCELED, died: bool = False
) -> list[str]:
    """Ends executions that are still marked as running; returns their components' names.

    Only for the holder of the home's lock: nobody else can be running.

    Args:
      store: the metadata.
      state: how they ended: `CANCELED` where their process was stopped or died, `FAILED` where they failed.
      died: whether their process did, nobody knows when.
    """
    abandoned = [e for e in store.get_executions() if e.last_known_state in (Execution.RUNNING, Execution.NEW)]
    for execution in abandoned:
        execution.last_known_state = state
        if died:
            execution.custom_properties[_DIED].int_value = 1
    if abandoned:
        store.put_executions(abandoned)
    return [_component_name(store, execution) for execution in abandoned]


def cancel_failed(store: metadata_store.MetadataStore, run_id: str, component: str) -> None:
    """Marks a component of a run that was told to stop as canceled: TFX takes it for a failure."""
    context = store.get_context_by_type_and_name("pipeline_run", run_id)
    executions = store.get_executions_by_context(context.id) if context else []
    stopped = [
        e for e in executions if e.last_known_state == Execution.FAILED and _component_name(store, e) == component
    ]
    for execution in stopped:
        execution.last_known_state = Execution.CANCELED
    store.put_executions(stopped)


def clear_orphans(store: metadata_store.MetadataStore, home: Home) -> int:
    """Removes outputs of executions that the store has not seen yet, and returns how many.

    After a return to an older copy of the store, numbers are given again, and a component would write among the files
    that another left under its number. Only for the holder of the home's lock.

    Raises:
      ConfigError: see `require_own`.
    """
    require_own(store, home)
    known = max((execution.id for execution in store.get_executions()), default=0)
    orphans = [path for path in home.outputs() if int(path.name) > known]
    for path in orphans:
        shutil.rmtree(path)
    return len(orphans)


def _run_contexts(store: metadata_store.MetadataStore, experiment: str | None) -> list[metadata_store_pb2.Context]:
    # By number and not by time: a clock may be set back between two runs.
    contexts = sorted(store.get_contexts_by_type("pipeline_run"), key=lambda c: c.id)
    return [context for context in contexts if experiment in (None, _experiment_of(context.name))]


def _experiment_of(run_id: str) -> str:
    return run_id.rsplit("-", 2)[0]


def _run(store: metadata_store.MetadataStore, context: metadata_store_pb2.Context) -> Run:
    executions = sorted(store.get_executions_by_context(context.id), key=lambda e: e.id)
    components = [_component_run(store, execution) for execution in executions]
    begin = executions[0].create_time_since_epoch if executions else context.create_time_since_epoch
    return Run(context.name, _time(begin), components)


def _time(milliseconds: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.timezone.utc)


def _component_run(store: metadata_store.MetadataStore, execution: Execution) -> ComponentRun:
    outputs = {}
    for event in store.get_events_by_execution_ids([execution.id]):
        if event.type == metadata_store_pb2.Event.OUTPUT and event.path.steps:
            outputs[event.path.steps[0].key] = store.get_artifacts_by_id([event.artifact_id])[0]
    milliseconds = execution.last_update_time_since_epoch - execution.create_time_since_epoch
    state = STATES.get(execution.last_known_state, "unknown")
    return ComponentRun(
        name=_component_name(store, execution),
        state=state,
        started=_time(execution.create_time_since_epoch),
        seconds=0.0 if _DIED in execution.custom_properties else milliseconds / 1000,
        outputs=outputs,
        checkpoints=_custom_config(execution).get("checkpoints", ""),
    )


def trained_network(execution: Execution) -> dict[str, Any]:
    """Returns the network that an execution of the trainer built, as its job says; nothing of another execution."""
    return _custom_config(execution).get("job", {}).get("network", {})


def _custom_config(execution: Execution) -> dict[str, Any]:
    """Returns what the trainer was told beside TFX's own parameters; nothing of another component."""
    try:
        config = json.loads(execution.custom_properties["custom_config"].string_value)
    except ValueError:
        return {}
    return config if isinstance(config, dict) and "checkpoints" in config else {}


def _component_name(store: metadata_store.MetadataStore, execution: Execution) -> str:
    nodes = [context for context in store.get_contexts_by_execution(execution.id) if context.type == "node"]
    return nodes[0].name.rpartition(".")[2] if nodes else execution.type


def folder(artifact: metadata_store_pb2.Artifact | None) -> Path | None:
    """Returns an artifact's folder, if there is an artifact and its folder is still there."""
    return Path(artifact.uri) if artifact is not None and Path(artifact.uri).is_dir() else None
