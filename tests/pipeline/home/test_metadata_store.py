import pytest
from ml_metadata.proto import metadata_store_pb2
from ml_metadata.proto.metadata_store_pb2 import Execution

from pipeline.home import metadata_store
from pipeline.home.folders import Home
from pipeline.home.metadata_store import RunState


@pytest.fixture
def store(tmp_path):
    return metadata_store.connect(Home(tmp_path))


def add(store, run_id, component, state):
    """Adds an execution to the store, as TFX does."""
    kind = store.put_execution_type(metadata_store_pb2.ExecutionType(name=f"tfx.{component}"))
    (number,) = store.put_executions([Execution(type_id=kind, last_known_state=state)])
    contexts = []
    for name, value in (("pipeline_run", run_id), ("node", f"digits.{component}")):
        context_kind = store.put_context_type(metadata_store_pb2.ContextType(name=name))
        known = store.get_context_by_type_and_name(name, value)
        contexts += (
            [known.id] if known else store.put_contexts([metadata_store_pb2.Context(type_id=context_kind, name=value)])
        )
    store.put_attributions_and_associations(
        [], [metadata_store_pb2.Association(execution_id=number, context_id=context) for context in contexts]
    )


def states(store):
    return {run.id: run.state for run in metadata_store.runs(store)}


def test_a_component_that_was_told_to_stop_did_not_fail(store):
    add(store, "digits-1-a", "Trainer", Execution.FAILED)
    add(store, "digits-2-b", "ImageExampleGen", Execution.COMPLETE)
    add(store, "digits-2-b", "Trainer", Execution.FAILED)
    metadata_store.cancel_failed(store, "digits-2-b", "Trainer")
    assert states(store) == {"digits-1-a": RunState.FAILED, "digits-2-b": RunState.UNFINISHED}


def test_nothing_is_stopped_before_a_run_is_known(store):
    add(store, "digits-1-a", "Trainer", Execution.FAILED)
    metadata_store.cancel_failed(store, "digits-2-b", "Trainer")
    assert states(store) == {"digits-1-a": RunState.FAILED}


@pytest.mark.parametrize(
    ("state", "expected"), [(Execution.CANCELED, RunState.UNFINISHED), (Execution.FAILED, RunState.FAILED)]
)
def test_what_is_left_running_is_closed(store, state, expected):
    add(store, "digits-1-a", "Trainer", Execution.RUNNING)
    assert metadata_store.close_abandoned(store, state) == ["Trainer"]
    assert states(store) == {"digits-1-a": expected}
