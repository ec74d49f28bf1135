import json
import shutil
from pathlib import Path

import pytest
from ml_metadata.proto import metadata_store_pb2
from ml_metadata.proto.metadata_store_pb2 import Artifact

from conveyor.errors import ConveyorError
from pipeline.data.add import add
from pipeline.home import metadata_store
from pipeline.home.folders import Home
from pipeline.run import health
from serving.model_store import VersionRecord
from tests.pictures import draw_classes


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path / "home")
    home.root.mkdir()
    return home


def found(home, subject):
    (finding,) = (finding for finding in health.examine(home) if finding.subject == subject)
    return finding


def push(home, text, tmp_path):
    (tmp_path / "model").mkdir(exist_ok=True)
    (tmp_path / "model" / "saved_model.pb").write_text(text)
    return home.models.model("m").push(tmp_path / "model", VersionRecord(run=text)).version


def test_labels_of_versions_that_are_not_there(home, tmp_path):
    for text in ("a", "b"):
        push(home, text, tmp_path)
    assert found(home, "model m") == health.Finding("model m", True, "2 versions, 2 is stable")
    shutil.rmtree(home.serving / "m" / "2")
    finding = found(home, "model m")
    assert (finding.ok, finding.detail) == (False, "labels of versions that are not there: stable is 2")
    assert "version 1 serves" in finding.mend


def test_labels_that_cannot_be_read(home, tmp_path):
    push(home, "a", tmp_path)
    (home.serving / "m" / "labels.json").write_text("{")
    finding = found(home, "labels")
    assert not finding.ok
    assert "labels.json is damaged" in finding.detail


def test_versions_that_are_not_what_was_pushed(home, tmp_path):
    push(home, "a", tmp_path)
    (home.serving / "m" / "1" / "saved_model.pb").write_text("another")
    assert found(home, "model m").detail == "versions that are not what was pushed: 1"


@pytest.fixture
def flowers(home, tmp_path):
    """An experiment that the home knows, with a span."""
    folder = draw_classes(tmp_path / "flowers", {"a": 10, "b": 10}, (4, 4))
    chosen = home.experiments.of_folder(folder)
    home.experiments.remember(chosen, folder)
    add(chosen.experiment, folder, draw_classes(tmp_path / "new", {"a": 2, "b": 2}, (4, 4), "L"))
    return folder


def test_spans_that_are_not_what_was_added(home, flowers):
    assert found(home, "data of flowers").detail == f"{flowers}, 1 span, as added"
    (flowers / "span-1" / "a" / "0000.png").unlink()
    finding = found(home, "data of flowers")
    assert not finding.ok
    assert "expected the file that was added with this span, found missing" in finding.detail
    assert "conveyor remove flowers SPAN" in finding.mend


def test_spans_without_an_order_and_a_folder_that_is_gone(home, flowers):
    (flowers / "2026-11-22").mkdir()
    assert "expected spans named by numbers or by dates" in found(home, "data of flowers").detail
    shutil.rmtree(flowers)
    finding = found(home, "data of flowers")
    assert (finding.ok, finding.detail) == (False, f"{flowers}: there is no such folder")


def test_a_disk_that_will_not_suffice(home, flowers, monkeypatch):
    usage = shutil.disk_usage(home.root)._replace(free=2**30)
    monkeypatch.setattr(health.shutil, "disk_usage", lambda _: usage)
    finding = found(home, "disk")
    assert (finding.ok, finding.detail) == (False, "1.0 GiB free; a run needs about 3.0 GiB")
    assert "free 2.0 GiB" in finding.mend
    monkeypatch.setattr(health, "NEEDED_BYTES", 0)
    home.experiments.change("flowers", ("dataset.shape=[4096,4096,3]",))  # 24 images of 48 MiB
    assert found(home, "disk").detail == "1.0 GiB free; a run needs about 1.1 GiB"


def made(home, store, uri, **properties):
    """Adds an artifact, as TFX does."""
    kind = store.put_artifact_type(metadata_store_pb2.ArtifactType(name="Model"))
    artifact = Artifact(type_id=kind, uri=str(uri), state=Artifact.LIVE)
    for name, value in properties.items():
        artifact.custom_properties[name].string_value = value
    store.put_artifacts([artifact])


def test_artifacts_that_are_not_there(home):
    store = metadata_store.connect(home)
    metadata_store.claim(home)
    there, empty, gone = (home.artifacts / "m" / "Trainer" / "model" / str(number) for number in (1, 2, 3))
    for folder in (there, empty):
        folder.mkdir(parents=True)
        made(home, store, folder)
    (there / "file").touch()
    assert found(home, "artifacts").detail == f"1 artifact of the metadata, not there or empty: {empty}"
    made(home, store, gone)
    assert f"2 artifacts of the metadata, not there or empty: {empty}, {gone}" in found(home, "artifacts").detail
    assert found(home, "metadata").ok


def test_a_home_that_was_moved(home, tmp_path):
    store = metadata_store.connect(home)
    metadata_store.claim(home)
    place = home.artifacts / "m" / "AtomicPusher" / "pushed_model" / "1"
    place.mkdir(parents=True)
    (place / "file").touch()
    made(home, store, place, pushed_destination=str(home.serving / "m" / "7"))
    baseline = home.artifacts / "m" / "Baseline" / "6-0123456789abcdef"
    baseline.mkdir(parents=True)
    (home.serving / "m" / "6").mkdir(parents=True)
    (home.serving / "m" / "7").mkdir()
    (baseline / "Format-Serving").symlink_to(home.serving / "m" / "6")
    made(home, store, baseline)
    made(home, store, "/elsewhere/altogether/m/Trainer/model/9")
    del store
    home.root.rename(tmp_path / "moved")
    moved = Home(tmp_path / "moved")
    finding = found(moved, "moved home")
    assert (finding.ok, finding.mend) == (
        False, "if this home was moved or copied, conveyor doctor --moved writes its new place down",
    )  # fmt: skip
    assert finding.detail.startswith("3 artifacts of the metadata outside of")
    assert health.bring_home(moved) == 2
    assert health.bring_home(moved) == 0
    artifact, imported, other = metadata_store.connect(moved).get_artifacts()
    assert imported.uri == str(moved.artifacts / "m" / "Baseline" / "6-0123456789abcdef")
    assert (Path(imported.uri) / "Format-Serving").resolve() == moved.serving / "m" / "6"
    assert artifact.uri == str(moved.artifacts / "m" / "AtomicPusher" / "pushed_model" / "1")
    assert metadata_store.property_of(artifact, "pushed_destination") == str(moved.serving / "m" / "7")
    assert other.uri == "/elsewhere/altogether/m/Trainer/model/9"
    assert len(list(moved.backups.glob("metadata-*.db"))) == 2


def test_what_is_not_there_yet_is_no_fault(tmp_path):
    home = Home(tmp_path / "new")
    findings = list(health.examine(home))
    assert all(finding.ok for finding in findings if finding.subject not in ("disk", "evaluation"))
    assert not home.root.exists()
    assert health.bring_home(home) == 0


def test_a_check_that_breaks_does_not_keep_the_others_from_looking(home, monkeypatch):
    def broken(_):
        raise ImportError("no library")

    monkeypatch.setattr(health, "stack_versions", lambda: broken(None))
    assert found(home, "stack").detail == "ImportError: no library"
    monkeypatch.setattr(type(home.models), "models", lambda _: (_ for _ in ()).throw(ConveyorError("a sentence")))
    finding = found(home, "labels")
    assert (finding.detail, finding.mend) == ("a sentence", "mend that, and run conveyor doctor again")
    assert json.dumps([vars(one) for one in health.examine(home)])


def test_an_experiment_that_cannot_be_loaded(home, tmp_path):
    own = tmp_path / "own.py"
    own.write_text(
        "import dataclasses\nfrom conveyor import load_experiment\n"
        "EXPERIMENT = dataclasses.replace(load_experiment('mnist'), name='own')\n"
    )
    home.experiments.remember(home.experiments.choose(str(own)))
    assert not [finding for finding in health.examine(home) if finding.subject == "experiment own"]
    own.rename(tmp_path / "moved.py")
    finding = found(home, "experiment own")
    assert not finding.ok
    assert f"The file of the experiment own, {own}, is not there any more" in finding.detail
