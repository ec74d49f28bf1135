import json

import pytest

from pipeline.home import gc
from pipeline.home.folders import Home
from serving.model_store import StoredModel, VersionRecord
from serving.model_store.records import RECORD


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
    assert names(home, gc.plan(home, keep=1, pinned={"m": {3}})) == versions(home, 1, 4)  # 2 is stable, 5 previous


def test_another_experiments_versions_stay(home):
    assert gc.plan(home, keep=1, experiment="another") == []
    record = VersionRecord(run="n-1-a", experiment={"name": "n"}, version=1)
    (home.serving / "m" / "1" / RECORD).write_text(json.dumps(vars(record)))
    assert names(home, gc.plan(home, keep=4, experiment="n")) == {("version", "serving/m/1")}


def test_a_label_that_moves_meanwhile_keeps_its_version_and_what_that_needs(home, monkeypatch):
    remove = StoredModel.remove

    def after_a_rollback(model, version):
        if version == 1:
            model.rollback(1)
        return remove(model, version)

    monkeypatch.setattr(StoredModel, "remove", after_a_rollback)
    assert names(home, gc.collect(home, keep=2)) == versions(home, 2, 3)
    assert home.models.model("m").versions() == [1, 4, 5]
    assert (home.artifacts / "m" / "Baseline" / "1").exists()


def test_a_label_that_leaves_a_version_meanwhile_takes_nothing_from_it(home, monkeypatch):
    home.models.model("m").rollback(1)  # 5 is previous
    remove = StoredModel.remove

    def after_a_rollback(model, version):
        if version == 2:
            model.rollback(4)
            model.rollback(3)  # 1 has no label any more
        return remove(model, version)

    monkeypatch.setattr(StoredModel, "remove", after_a_rollback)
    gc.collect(home, keep=1)
    for version in home.models.model("m").versions():
        assert (home.artifacts / "m" / "Baseline" / str(version)).exists()


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
    gc.collect(home, keep=5)
    assert not (home.serving / "m" / ".removed-1").exists()


def test_a_linked_version_goes_and_what_it_is_linked_to_stays(home, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (home.serving / "m" / "1").rename(elsewhere)
    (home.serving / "m" / "1").symlink_to(elsewhere)
    gc.collect(home, keep=2)
    assert home.models.model("m").versions() == [4, 5]
    assert home.models.model("m").remains() == []
    assert (elsewhere / RECORD).exists()
