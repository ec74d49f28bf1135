import contextlib
import dataclasses
import re
import sqlite3
import time
from pathlib import Path
from unittest import mock

import pytest
from ml_metadata.proto import metadata_store_pb2
from ml_metadata.proto.metadata_store_pb2 import Execution

from conveyor.errors import ConfigError
from pipeline.home import backup, metadata_store
from pipeline.home.folders import Home, MetadataUnavailable
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
    metadata_store.claim(home)
    with pytest.raises(ConfigError, match=r"are in metadata\.db, and not in .*: leave --metadata") as error:
        metadata_store.connect(dataclasses.replace(home, metadata=SERVER))
    assert "s3cret" not in str(error.value)


def test_a_home_knows_its_server(tmp_path):
    home = Home(tmp_path)
    home.store_record.write_text(dataclasses.replace(home, metadata=SERVER).store_name)
    for metadata in ("", SERVER.replace("db.example", "other.example")):
        with pytest.raises(
            ConfigError,
            match=r"are in postgresql://db\.example:5432/conveyor, and not in",
        ) as error:
            metadata_store.connect(dataclasses.replace(home, metadata=metadata))
        assert "s3cret" not in str(error.value)
    assert home.has_metadata  # so that nobody says that nothing has run
    assert not home.database.exists()


def test_a_home_of_0_1_0_whose_metadata_are_on_a_server_gets_no_file(tmp_path):
    home = Home(tmp_path)
    output(home, 1)
    assert home.has_metadata  # so that nobody says that nothing has run
    with pytest.raises(MetadataUnavailable, match="are of metadata that are not here: name their server"):
        metadata_store.connect(home)
    assert not home.database.exists()


def test_a_home_of_0_1_0_with_a_file_keeps_it(tmp_path):
    home = Home(tmp_path)
    metadata_store.connect(home)
    (home.artifacts / "mnist").mkdir(parents=True)
    metadata_store.connect(home)
    metadata_store.claim(home)
    assert home.store_record.read_text() == "metadata.db\n"


def test_a_look_at_a_server_that_does_not_answer_binds_nothing(tmp_path):
    with pytest.raises(MetadataUnavailable):
        metadata_store.connect(Home(tmp_path, "postgresql://me:s3cret@127.0.0.1:1/conveyor"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("postgresql://me:s3cret@db.example/runs", "postgresql://db.example:5432/runs"),
        ("postgresql://me:s3cret@db.example:5432/runs/", "postgresql://db.example:5432/runs"),
        ("mysql://me@[::1]/runs", "mysql://[::1]:3306/runs"),
        ("mysql://me:s%2Fcret@db.example:3307/runs", "mysql://db.example:3307/runs"),
    ],
)
def test_a_server_has_one_name_without_its_password(tmp_path, address, name):
    assert Home.at(str(tmp_path), address).store_name == name


@pytest.mark.parametrize(
    "address",
    [
        "sqlite:///s3cret/runs",
        "postgresql://me:s3c/ret@db.example/runs",
        "postgresql://me:s3cret@db.example",
        "postgresql://me:s3cret@[::1/runs",
        "s3cret",
    ],
)
def test_an_address_that_is_none_is_refused_and_not_repeated(tmp_path, address):
    with pytest.raises(ConfigError, match="must look like mysql://") as error:
        Home.at(str(tmp_path), address)
    assert not {"s3cret", "s3c", "ret@"} & set(re.split(r"[ :/]", str(error.value)))


def output(home, number):
    path = home.artifacts / "digits" / "Trainer" / "model" / str(number)
    path.mkdir(parents=True)
    return path


def test_outputs_of_which_a_copy_knows_nothing_are_removed(store, tmp_path):
    home = Home(tmp_path)
    metadata_store.claim(home)
    add(store, "digits-1-a", "Trainer", Execution.COMPLETE)
    known, orphan = output(home, 1), output(home, 2)
    assert metadata_store.clear_orphans(store, home) == 1
    assert (known.exists(), orphan.exists()) == (True, False)


@pytest.mark.parametrize("known", [0, 2])
def test_artifacts_of_another_store_are_not_taken_for_leftovers(store, tmp_path, known):
    home = dataclasses.replace(Home(tmp_path), metadata=SERVER)
    for _ in range(known):
        add(store, "digits-1-a", "Trainer", Execution.COMPLETE)
    paths = [output(home, number) for number in (1, 2, 3)]
    with pytest.raises(ConfigError, match="know of none of the artifacts in"):
        metadata_store.clear_orphans(store, home)
    assert all(path.exists() for path in paths)


def test_a_homes_own_file_may_be_an_old_copy_that_knows_nothing_yet(store, tmp_path):
    home = Home(tmp_path)
    metadata_store.claim(home)
    path = output(home, 1)
    assert metadata_store.clear_orphans(store, home) == 1
    assert not path.exists()


def test_a_file_that_0_1_0_made_at_a_look_does_not_bind_a_home(tmp_path, monkeypatch):
    home = Home(tmp_path)
    store = metadata_store.connect(home)
    monkeypatch.setattr(metadata_store.metadata_store, "MetadataStore", lambda *_, **__: "the server's")
    server = dataclasses.replace(home, metadata=SERVER)
    assert metadata_store.connect(server) == "the server's"
    add(store, "digits-1-a", "Trainer", Execution.COMPLETE)
    with pytest.raises(ConfigError, match=r"are in metadata\.db, and not in"):
        metadata_store.connect(server)


@pytest.mark.parametrize("text", ["postgresql://db.example/conveyor", "postgresql://db.example:5432/conveyor\n"])
def test_a_record_that_a_person_wrote_is_read(tmp_path, text):
    home = dataclasses.replace(Home(tmp_path), metadata=SERVER)
    home.store_record.write_text(text)
    assert home.own_store == home.store_name


def test_a_record_that_is_none_is_refused(tmp_path):
    home = Home(tmp_path)
    home.store_record.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="it must name the metadata's store"):
        metadata_store.connect(home)


def without_tables(path):
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE t (x)")
        database.execute("DROP TABLE t")
    assert path.stat().st_size > 0


@pytest.mark.parametrize(
    "lose", [Path.unlink, lambda path: path.write_bytes(b""), without_tables], ids=["missing", "empty", "no tables"]
)
def test_artifacts_whose_file_is_gone_are_not_given_to_a_new_one(store, tmp_path, lose):
    home = Home(tmp_path)
    metadata_store.claim(home)
    output(home, 1)
    backup.save(home)
    lose(home.database)
    assert home.has_metadata
    for look in (backup.check, backup.save):
        with (
            contextlib.nullcontext() if not home.has_database else pytest.raises(MetadataUnavailable, match="is empty")
        ):
            look(home)
    with pytest.raises(MetadataUnavailable, match=r"not here: `conveyor doctor --restore-metadata` returns to a copy"):
        metadata_store.connect(home)
    (copy,) = backup.copies(home)
    copy.unlink()
    with pytest.raises(MetadataUnavailable, match=r"not here: bring .*metadata\.db back"):
        metadata_store.connect(home)
    assert not home.has_database or backup.has_no_tables(home.database)


@pytest.mark.parametrize("left", [b"", None])
def test_a_file_with_nothing_in_it_is_no_store_of_a_home(tmp_path, monkeypatch, left):
    home = Home(tmp_path)
    home.database.touch()
    if left is None:
        without_tables(home.database)
    output(home, 1)
    monkeypatch.setattr(metadata_store.metadata_store, "MetadataStore", lambda *_, **__: "the server's")
    assert metadata_store.connect(dataclasses.replace(home, metadata=SERVER)) == "the server's"


def test_a_file_that_another_process_holds_is_not_to_be_removed(store, tmp_path, monkeypatch):
    monkeypatch.setattr(backup, "LOCKED_SECONDS", 0.1)
    home = Home(tmp_path)
    failed = RuntimeError("Concurrent writes aborted after max number of retries.")
    monkeypatch.setattr(metadata_store.metadata_store, "MetadataStore", mock.Mock(side_effect=failed))
    with contextlib.closing(sqlite3.connect(home.database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(MetadataUnavailable, match=r"is locked\. Nothing was changed\. Another process holds"):
            metadata_store.connect(home)
    with pytest.raises(MetadataUnavailable, match="Another process may have held the file: run again"):
        metadata_store.connect(home)


def states(store):
    return {run.id: run.state for run in metadata_store.runs(store)}


def test_a_component_that_was_told_to_stop_did_not_fail(store):
    add(store, "digits-1-a", "Trainer", Execution.FAILED)
    add(store, "digits-2-b", "ImageExampleGen", Execution.COMPLETE)
    add(store, "digits-2-b", "Trainer", Execution.FAILED)
    metadata_store.cancel_failed(store, "digits-2-b", "Trainer")
    assert states(store) == {"digits-1-a": RunState.FAILED, "digits-2-b": RunState.STOPPED}


def test_nothing_is_stopped_before_a_run_is_known(store):
    add(store, "digits-1-a", "Trainer", Execution.FAILED)
    metadata_store.cancel_failed(store, "digits-2-b", "Trainer")
    assert states(store) == {"digits-1-a": RunState.FAILED}


@pytest.mark.parametrize(
    ("state", "expected"), [(Execution.CANCELED, RunState.STOPPED), (Execution.FAILED, RunState.FAILED)]
)
def test_what_is_left_running_is_closed(store, state, expected):
    add(store, "digits-1-a", "Trainer", Execution.RUNNING)
    assert metadata_store.close_abandoned(store, state) == ["Trainer"]
    assert states(store) == {"digits-1-a": expected}


def test_how_long_a_component_took_whose_process_died_is_not_known(store):
    add(store, "digits-1-a", "Trainer", Execution.RUNNING)
    time.sleep(0.1)
    assert metadata_store.close_abandoned(store, died=True) == ["Trainer"]
    (run,) = metadata_store.runs(store)
    assert (run.state, run.seconds) == (RunState.STOPPED, 0)
