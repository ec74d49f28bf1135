import json
import os
from pathlib import Path

import pytest
from ml_metadata.proto import metadata_store_pb2
from ml_metadata.proto.metadata_store_pb2 import Artifact, Event, Execution

from conveyor.errors import ConfigError
from pipeline.home import gc, metadata_store
from pipeline.home.folders import Home, MetadataUnavailable
from serving.model_store import StoredModel, VersionRecord
from serving.model_store.records import RECORD
from tests.pipeline.home.test_metadata_store import add


@pytest.fixture
def home(tmp_path):
    """A home with five versions of one model, of which the last is stable, and checkpoints and a baseline of each."""
    home = Home(tmp_path)
    for version in range(1, 6):
        record = home.serving / "m" / str(version) / RECORD
        record.parent.mkdir(parents=True)
        record.write_text(json.dumps({"run": f"m-{version}-a", "experiment": {"name": "m"}, "version": version}))
        link = home.artifacts / "m" / "Baseline" / str(version) / "Format-Serving"
        link.parent.mkdir(parents=True)
        link.symlink_to(home.serving / "m" / str(version))
    return home


def names(home, removals):
    return {(removal.kind, removal.path.removeprefix(f"{home.root}/")) for removal in removals}


def versions(home, *numbers):
    return {("version", f"serving/m/{number}") for number in numbers} | {
        ("baseline", f"artifacts/m/Baseline/{number}") for number in numbers
    }


def test_versions_beyond_the_newest_go_with_what_pointed_to_them(home):
    expected = versions(home, 1, 2, 3)
    assert names(home, gc.plan(home, keep=2)) == expected
    assert names(home, gc.collect(home, keep=2)) == expected
    assert home.models.model("m").versions() == [4, 5]
    assert gc.plan(home, keep=2) == []


def test_labels_and_servers_keep_versions(home):
    home.models.model("m").rollback(2)
    assert names(home, gc.plan(home, keep=1, pinned=lambda: {"m": {3}})) == versions(
        home, 1, 4
    )  # 2 is stable, 5 previous


def test_another_experiments_versions_stay(home):
    assert gc.plan(home, keep=1, experiment="another") == []
    record = VersionRecord(run="n-1-a", experiment={"name": "n"}, version=1)
    (home.serving / "m" / "1" / RECORD).write_text(json.dumps(vars(record)))
    assert names(home, gc.plan(home, keep=4, experiment="n")) == {("version", "serving/m/1")}


def test_a_label_that_moves_meanwhile_keeps_its_version_and_what_that_needs(home, monkeypatch):
    remove = StoredModel.remove

    def after_a_rollback(model, version, unless):
        if version == 1:
            model.rollback(1)
        return remove(model, version, unless)

    monkeypatch.setattr(StoredModel, "remove", after_a_rollback)
    assert names(home, gc.collect(home, keep=2)) == versions(home, 2, 3)
    assert home.models.model("m").versions() == [1, 4, 5]
    assert (home.artifacts / "m" / "Baseline" / "1").exists()


def test_a_label_that_leaves_a_version_meanwhile_takes_nothing_from_it(home, monkeypatch):
    home.models.model("m").rollback(1)  # 5 is previous
    remove = StoredModel.remove

    def after_a_rollback(model, version, unless):
        if version == 2:
            model.rollback(4)
            model.rollback(3)  # 1 has no label any more
        return remove(model, version, unless)

    monkeypatch.setattr(StoredModel, "remove", after_a_rollback)
    gc.collect(home, keep=1)
    for version in home.models.model("m").versions():
        assert (home.artifacts / "m" / "Baseline" / str(version)).exists()


def test_a_server_that_starts_meanwhile_keeps_its_version(home):
    looks = iter([{}, {}, {"m": {2}}])
    gc.collect(home, keep=2, pinned=lambda: next(looks, {}))
    assert home.models.model("m").versions() == [2, 4, 5]
    assert (home.artifacts / "m" / "Baseline" / "2").exists()


def test_while_nobody_knows_what_a_server_serves_versions_stay(home):
    looks = iter([{}, {}])

    def pinned():
        for known in looks:
            return known
        raise ConfigError("a server starts")

    removed = gc.collect(home, keep=2, pinned=pinned)
    assert [removal.path for removal in removed if removal.kind == "version"] == [str(home.serving / "m" / "1")]
    assert home.models.model("m").versions() == [2, 3, 4, 5]


@pytest.mark.parametrize("damage", [b"", b"no database" * 1000, None], ids=["empty", "damaged", "missing"])
def test_without_metadata_that_can_be_read_nothing_goes(lived, damage):
    home, _, _ = lived
    home.database.unlink()
    if damage is not None:
        home.database.write_bytes(damage)
    before = sorted(home.root.rglob("*"))
    with pytest.raises(MetadataUnavailable):
        gc.collect(home, keep=2)
    assert sorted(home.root.rglob("*")) == before


def test_a_model_whose_labels_are_damaged_keeps_all_and_hinders_no_other(home):
    (home.serving / "damaged" / "1").mkdir(parents=True)
    (home.serving / "damaged" / "2").mkdir()
    (home.serving / "damaged" / "labels.json").write_text("{")
    assert names(home, gc.collect(home, keep=1)) == versions(home, 1, 2, 3, 4)
    assert home.models.model("damaged").versions() == [1, 2]


def test_what_a_killed_removal_left_goes(home):
    (home.serving / "m" / "1").rename(home.serving / "m" / ".removed-1")
    assert gc.plan(home, keep=5, experiment="another") == []
    assert ("remains", "serving/m/.removed-1") in names(home, gc.plan(home, keep=5, experiment="m"))
    (home.serving / "m" / ".removed-2").symlink_to(home.serving / "m" / "3")  # somebody linked a version
    gc.collect(home, keep=5)
    assert home.models.model("m").remains() == []
    assert home.models.model("m").versions() == [2, 3, 4, 5]


def test_a_linked_version_goes_and_what_it_is_linked_to_stays(home, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (home.serving / "m" / "1").rename(elsewhere)
    (home.serving / "m" / "1").symlink_to(elsewhere)
    gc.collect(home, keep=2)
    assert home.models.model("m").versions() == [4, 5]
    assert home.models.model("m").remains() == []
    assert (elsewhere / RECORD).exists()


def ran(home, store, experiment, number, pushed):
    """Adds a run of one component to the metadata, with its output's folder, and returns that."""
    add(store, f"{experiment}-{number}-a", "AtomicPusher", Execution.COMPLETE)
    execution = max(e.id for e in store.get_executions())
    kind = store.put_artifact_type(metadata_store_pb2.ArtifactType(name="PushedModel"))
    path = home.artifacts / experiment / "AtomicPusher" / "pushed_model" / str(execution)
    path.mkdir(parents=True)
    artifact = Artifact(type_id=kind, uri=str(path), state=Artifact.LIVE)
    artifact.custom_properties["pushed"].int_value = int(pushed)
    if pushed:
        artifact.custom_properties["pushed_version"].int_value = number
    (identity,) = store.put_artifacts([artifact])
    event = Event(artifact_id=identity, execution_id=execution, type=Event.OUTPUT)
    event.path.steps.add().key = "pushed_model"
    store.put_events([event])
    return path


@pytest.fixture
def lived(home):
    """The home with the metadata of five runs that pushed, of one that was rejected and of one that was stopped."""
    store = metadata_store.connect(home)
    metadata_store.claim(home)
    runs = {number: ran(home, store, "m", number, pushed=True) for number in range(1, 6)}
    runs |= {6: ran(home, store, "m", 6, pushed=False), 7: ran(home, store, "n", 7, pushed=False)}
    add(store, "m-8-a", "Trainer", Execution.CANCELED)
    return home, store, runs


def artifacts(removals):
    return {removal.path for removal in removals if removal.kind == "artifact"}


def test_artifacts_that_no_kept_version_and_no_next_run_needs_go(lived):
    home, store, runs = lived
    # 6 is the last verdict, 8 the last run, 7 another experiment's
    expected = {str(runs[number]) for number in (1, 2, 3)}
    assert artifacts(gc.plan(home, keep=2)) == expected
    assert artifacts(gc.plan(home, keep=2, experiment="n")) == set()
    assert artifacts(gc.plan(home, keep=2, experiment="m")) == expected
    assert artifacts(gc.collect(home, keep=2)) == expected
    states = {artifact.uri: artifact.state for artifact in store.get_artifacts()}
    assert {uri for uri, state in states.items() if state == Artifact.DELETED} == expected
    assert {uri for uri in states if Path(uri).is_dir()} == states.keys() - expected


def test_a_home_that_was_moved_keeps_what_it_needs(lived, tmp_path):
    home, _, runs = lived
    moved = Home(tmp_path / "moved")
    moved.root.mkdir()
    for path in list(tmp_path.iterdir()):
        if path != moved.root:
            path.rename(moved.root / path.name)
    removed = gc.collect(moved, keep=2)
    gone = {str(runs[number]).replace(str(home.root), str(moved.root)) for number in (1, 2, 3)}
    assert artifacts(removed) == gone
    states = {artifact.uri: artifact.state for artifact in metadata_store.connect(moved).get_artifacts()}
    assert {uri for uri, state in states.items() if state == Artifact.DELETED} == {str(runs[n]) for n in (1, 2, 3)}


def test_what_the_last_run_has_done_is_needed_until_there_is_another(lived):
    home, store, _ = lived
    path = ran(home, store, "m", 9, pushed=False)
    for execution in store.get_executions()[-1:]:
        execution.last_known_state = Execution.RUNNING
        store.put_executions([execution])
    assert str(path) not in artifacts(gc.plan(home, keep=2))
    ran(home, store, "m", 10, pushed=False)
    ran(home, store, "m", 11, pushed=False)
    assert str(path) in artifacts(gc.plan(home, keep=2))


def test_the_last_verdict_is_needed_until_there_is_another(lived):
    home, store, runs = lived
    ran(home, store, "m", 9, pushed=False)
    assert str(runs[6]) in artifacts(gc.plan(home, keep=2))


def trained(store, run, state, checkpoints):
    """Adds a run whose trainer has come so far, as TFX writes it down."""
    add(store, run, "Trainer", state)
    (execution,) = store.get_executions()[-1:]
    execution.custom_properties["custom_config"].string_value = json.dumps({"checkpoints": str(checkpoints)})
    store.put_executions([execution])


def test_checkpoints_of_unfinished_trainings_stay(home):
    for name in ("m/old", "m/unfinished", "n/finished", "o/of_no_run"):
        path = home.checkpoints / name
        path.mkdir(parents=True)
        (path / "weights").write_bytes(bytes(2_500_000))
    assert [removal for removal in gc.plan(home, keep=5) if removal.kind == "checkpoints"] == []  # nobody knows
    store = metadata_store.connect(home)
    trained(store, "n-1-a", Execution.CANCELED, home.checkpoints / "n/finished")
    trained(store, "n-2-a", Execution.COMPLETE, home.checkpoints / "n/finished")
    trained(store, "m-1-a", Execution.CANCELED, home.checkpoints / "m/old")
    trained(store, "m-2-a", Execution.FAILED, "/where/the/home/was/checkpoints/m/unfinished")
    add(store, "m-3-a", "ImageExampleGen", Execution.FAILED)  # did not come so far
    found = [removal for removal in gc.plan(home, keep=5) if removal.kind == "checkpoints"]
    assert names(home, found) == {("checkpoints", f"checkpoints/{name}") for name in ("n/finished", "o/of_no_run")}
    assert [removal.megabytes for removal in found] == [2.5, 2.5]
    assert names(home, gc.plan(home, keep=5, experiment="n")) == {("checkpoints", "checkpoints/n/finished")}


def test_each_model_keeps_as_many_versions_as_its_experiment_says(home):
    record = home.serving / "m" / "5" / RECORD
    said = json.loads(record.read_text())
    record.write_text(json.dumps(said | {"experiment": {"name": "m", "serving": {"keep_versions": 4}}}))
    for version in (1, 2):
        other = home.serving / "mnist" / str(version) / RECORD
        other.parent.mkdir(parents=True)
        other.write_text(json.dumps({"experiment": {"name": "mnist", "serving": {"keep_versions": 7}}}))
    home.experiments.change("mnist", ("serving.keep_versions=1",))  # what is set now comes before what was pushed
    home.models.model("mnist").rollback(2)
    assert names(home, gc.plan(home)) == {*versions(home, 1), ("version", "serving/mnist/1")}
    home.experiments.change("mnist", ("serving.keep_versions=0",))
    assert names(home, gc.plan(home)) == versions(home, 1)
    home.experiments.change("mnist", ("serving.keep_versions=1",))
    (home.root / "experiments" / "mnist.json").write_text("{")  # it may have said anything
    assert names(home, gc.plan(home)) == versions(home, 1)


def test_artifacts_that_somebody_else_removed_are_forgotten(home):
    store = metadata_store.connect(home)
    metadata_store.claim(home)
    kind = store.put_artifact_type(metadata_store_pb2.ArtifactType(name="Model"))
    there, gone, elsewhere = (
        home.artifacts / "m" / "T" / "model" / "1",
        home.artifacts / "m" / "T" / "model" / "2",
        "/x/1",
    )
    there.mkdir(parents=True)
    for uri in (there, gone, elsewhere):
        store.put_artifacts([Artifact(type_id=kind, uri=str(uri), state=Artifact.LIVE)])
    store.put_executions([Execution(type_id=store.put_execution_type(metadata_store_pb2.ExecutionType(name="t")))])
    gc.collect(home, keep=5)
    states = {artifact.uri: artifact.state for artifact in store.get_artifacts()}
    assert states[str(gone)] == Artifact.DELETED
    assert states[elsewhere] == Artifact.LIVE


def test_the_size_of_what_goes_is_that_of_its_own_files(home):
    (home.serving / "m" / "5" / "weights").write_bytes(bytes(3_000_000))
    (home.serving / "m" / "1" / "link").symlink_to(home.serving / "m" / "5" / "weights")
    (home.serving / "m" / "1" / "weights").write_bytes(bytes(1_200_000))
    sizes = {removal.kind: removal.megabytes for removal in gc.plan(home, keep=4)}
    assert sizes == {"version": 1.2, "baseline": 0.0}


def test_checkpoints_of_stopped_trials_go_with_a_newer_search(home):
    for number, search in enumerate(("old", "new")):
        (home.tuning / "n" / search / "trial_3" / "checkpoints").mkdir(parents=True)
        os.utime(home.tuning / "n" / search, (number, number))
    (home.tuning / "n" / "newest.json").write_text("{}")
    metadata_store.connect(home)
    found = [removal for removal in gc.plan(home, keep=5) if "tuning" in removal.path]
    assert names(home, found) == {("checkpoints", "tuning/n/old/trial_3/checkpoints")}
    assert [removal for removal in gc.plan(home, keep=5, experiment="m") if "tuning" in removal.path] == []
