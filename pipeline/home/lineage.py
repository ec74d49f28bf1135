"""Follows a version back through ML Metadata, from artifact to execution to artifact, down to its input files."""

import dataclasses
import datetime
import json
from typing import Any

from ml_metadata.metadata_store import MetadataStore
from ml_metadata.proto.metadata_store_pb2 import Artifact, Event, Execution

from conveyor.errors import ConfigError
from pipeline.home import metadata_store

BASE_MODEL = "base_model"  # the trainer's input that a warm start begins with
WARM_STARTS = 10  # that are followed back


@dataclasses.dataclass(frozen=True)
class Origin:
    """An artifact, and what made it.

    Attributes:
      name: the output's name, such as `model`.
      artifact: its number in ML Metadata.
      uri: its folder.
      component: what made it.
      execution: that execution's number in ML Metadata.
      run: the run that this happened in.
      finished: when, ISO 8601, UTC.
      facts: what is worth knowing, such as `blessed`.
      files: SHA-256 of each input file by its name, where the artifact was made from files.
      repeated: whether that execution stands elsewhere in the tree already; files and inputs are left out then.
      inputs: what it was made of.
      further: the version that this warm start began with, where the way back is not followed any more.
    """

    name: str
    artifact: int
    uri: str
    component: str
    execution: int
    run: str
    finished: str
    facts: dict[str, Any]
    files: dict[str, str]
    repeated: bool
    inputs: "list[Origin]"
    further: int | None = None


def of_version(store: MetadataStore, model: str, version: int) -> Origin:
    """Returns the whole way back from a pushed version.

    Raises:
      ConfigError: ML Metadata knows nothing of that version.
    """
    pushed = _pushed(store, model, version)
    if pushed is None:
        raise ConfigError(f"ML Metadata knows nothing of version {version} of {model}; see `conveyor models`.")
    return _origin(store, pushed, model, set())


def _pushed(store: MetadataStore, model: str, version: int) -> Artifact | None:
    for artifact in reversed(store.get_artifacts_by_type("PushedModel")):
        number = metadata_store.property_of(artifact, "pushed_version")
        destination = str(metadata_store.property_of(artifact, "pushed_destination"))
        if number == version and destination.endswith(f"/{model}/{version}"):
            return artifact
    return None


def _origin(
    store: MetadataStore,
    artifact: Artifact,
    model: str,
    seen: set[int],
    warm_starts: int = 0,
    is_warm_start: bool = False,
) -> Origin:
    events = store.get_events_by_artifact_ids([artifact.id])
    # Later runs that took it from their cache have an event of it too; the first is of the execution that made it.
    made = min((event for event in events if event.type == Event.OUTPUT), key=lambda event: event.execution_id)
    (execution,) = store.get_executions_by_id([made.execution_id])
    contexts = {context.type: context.name for context in store.get_contexts_by_execution(execution.id)}
    finished = datetime.datetime.fromtimestamp(execution.last_update_time_since_epoch / 1000, datetime.timezone.utc)
    repeated, facts = execution.id in seen, _facts(artifact) | _network(_output_name(made), execution)
    inputs = []
    if not repeated:
        seen.add(execution.id)
        sources = [e for e in store.get_events_by_execution_ids([execution.id]) if e.type == Event.INPUT]
        artifacts = {a.id: a for a in store.get_artifacts_by_id([event.artifact_id for event in sources])}
        # The model first: what the verdicts on it were made of then stands there.
        sources.sort(key=lambda event: (_output_name(event) != "model", event.artifact_id))
        inputs = [
            _origin(store, artifacts[event.artifact_id], model, seen, warm_starts, _output_name(event) == BASE_MODEL)
            for event in sources
            if event.artifact_id in artifacts
        ]
        if is_warm_start and warm_starts < WARM_STARTS:
            inputs += _version_started_from(store, artifact, model, seen, warm_starts + 1)
    return Origin(
        _output_name(made) or artifact.type,
        artifact.id,
        artifact.uri,
        contexts.get("node", execution.type).rpartition(".")[2],
        execution.id,
        contexts.get("pipeline_run", ""),
        finished.isoformat(timespec="seconds"),
        facts,
        {} if repeated else json.loads(metadata_store.property_of(artifact, "input_files") or "{}"),
        repeated,
        inputs,
        facts.get("served_version") if is_warm_start and warm_starts >= WARM_STARTS else None,
    )


def _version_started_from(
    store: MetadataStore, imported: Artifact, model: str, seen: set[int], warm_starts: int
) -> list[Origin]:
    """Returns where the version that a training started from came from; nothing where that is not known any more."""
    pushed = _pushed(store, model, metadata_store.property_of(imported, "served_version"))
    return [_origin(store, pushed, model, seen, warm_starts)] if pushed else []


def _output_name(event: Event) -> str:
    return event.path.steps[0].key if event.path.steps else ""


def _network(output: str, execution: Execution) -> dict[str, Any]:
    """Returns what a model's network was built of: its function with its parameters, and the digest of its code."""
    network = metadata_store.trained_network(execution) if output == "model" else {}
    if "module" not in network:  # another artifact, or a network of the time when it was one of two
        return {}
    parameters = ", ".join(f"{name}={value!r}" for name, value in network["parameters"].items())
    built = f"{network['module']}.{network['build']}({parameters})"
    return {"network": built, "network_digest": network["digest"]}


def _facts(artifact: Artifact) -> dict[str, Any]:
    names = ("part", "input_digest", "blessed", "pushed_version", "served_version")
    facts = {name: metadata_store.property_of(artifact, name) for name in names}
    return {name: value for name, value in facts.items() if value is not None}
