import dataclasses

import pytest
from ml_metadata.proto import metadata_store_pb2
from ml_metadata.proto.metadata_store_pb2 import Execution

from conveyor.errors import ConfigError
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


SERVER = "postgresql://me:s3cret@db.example:5432/conveyor"


def test_a_home_knows_its_own_file(tmp_path):
    home = Home(tmp_path)
    metadata_store.connect(home)
    with pytest.raises(ConfigError, match=r"are in metadata\.db, and not in .*: leave --metadata") as error:
        metadata_store.connect(dataclasses.replace(home, metadata=SERVER))
    assert "s3cret" not in str(error.value)


def test_a_home_knows_its_server(tmp_path):
    home = Home(tmp_path)
    home.store_record.write_text(dataclasses.replace(home, metadata=SERVER).store_name)
    for metadata in ("", SERVER.replace("db.example", "other.example")):
        with pytest.raises(ConfigError, match=r"are in postgresql://db\.example:5432/conveyor, and not in") as error:
            metadata_store.connect(dataclasses.replace(home, metadata=metadata))
        assert "s3cret" not in str(error.value)
    assert home.has_metadata  # so that nobody says that nothing has run
    assert not home.database.exists()


def test_a_home_of_0_1_0_whose_metadata_are_on_a_server_gets_no_file(tmp_path):
    home = Home(tmp_path)
    (home.artifacts / "mnist").mkdir(parents=True)
    with pytest.raises(ConfigError, match="are of metadata that are not here: name their server"):
        metadata_store.connect(home)
    assert not home.database.exists()


def test_a_home_of_0_1_0_with_a_file_keeps_it(tmp_path):
    home = Home(tmp_path)
    metadata_store.connect(home)
    home.store_record.unlink()
    (home.artifacts / "mnist").mkdir(parents=True)
    metadata_store.connect(home)
    assert home.store_record.read_text() == "metadata.db\n"


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
