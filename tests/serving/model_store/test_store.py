import dataclasses
import datetime
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from conveyor.errors import ConfigError, StorageError
from conveyor.files import tree_digest
from serving.model_store import (
    Labels,
    LabelsDamaged,
    ModelStore,
    ModelWithdrawn,
    Pushed,
    StableMove,
    StoredModel,
    VersionRecord,
    store,
)
from serving.model_store.identity import model_identity
from serving.model_store.records import RECORD

ROOT = Path(__file__).parents[3]


@pytest.fixture
def model(tmp_path):
    def make(content: str):
        folder = tmp_path / f"model-{content}"
        (folder / "variables").mkdir(parents=True, exist_ok=True)
        (folder / "saved_model.pb").write_text(content)
        (folder / "variables" / "variables.index").write_text("weights of " + content)
        return folder

    return make


@pytest.fixture
def stored(tmp_path):
    return ModelStore(tmp_path / "serving").model("m")


@pytest.fixture
def three(stored):
    """A model with the versions 1, 2 and 3, which nobody labelled."""
    for version in (1, 2, 3):
        stored.path(version).mkdir(parents=True)
    return stored


def label(stored, *values):
    (stored.folder / store.LABELS).write_text(json.dumps(dataclasses.asdict(Labels(*values))))


def push(stored, source, **options):
    return stored.push(source, VersionRecord(run="r1"), **options)


def test_version_holds_the_model_and_where_it_came_from(model, stored):
    source = model("a")
    pushed = push(stored, source)
    assert pushed == Pushed(1, stored.folder / "1", new=True)
    assert stored.digest(1) == tree_digest(source)
    assert stored.record(1) == VersionRecord(
        run="r1",
        version=1,
        pushed=stored.record(1).pushed,
        digest=tree_digest(source),
        model_digest=tree_digest(source),
        identity=model_identity(source),
    )


def test_version_says_when_it_was_pushed(model, stored):
    before = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    push(stored, model("a"))
    pushed = datetime.datetime.fromisoformat(stored.record(1).pushed)
    assert before <= pushed <= datetime.datetime.now(datetime.timezone.utc)


def test_what_is_damaged_does_not_become_stable(model, stored):
    push(stored, model("a"))
    push(stored, model("b"))
    (stored.path(1) / "saved_model.pb").write_text("damaged")
    with pytest.raises(ConfigError, match=r"Version 1 of m is not the model that was pushed: .* Nothing was changed"):
        stored.rollback()
    assert stored.stable() == 2


def test_same_files_are_never_pushed_twice(model, stored):
    push(stored, model("a"))
    push(stored, model("b"))
    again = push(stored, model("a"))
    assert (again.version, again.new) == (1, False)
    assert stored.versions() == [1, 2]


def test_another_export_of_the_same_model_is_not_pushed(model, stored, monkeypatch):
    monkeypatch.setattr(store, "model_identity", lambda folder: (folder / "saved_model.pb").read_text())
    push(stored, model("a"))
    source = model("a")
    (source / "fingerprint.pb").write_text("a random number")
    again = push(stored, source)
    assert (again.version, again.new) == (1, False)


def test_a_damaged_version_does_not_stand_for_its_model(model, stored):
    push(stored, model("a"))
    (stored.path(1) / "saved_model.pb").write_text("damaged")
    assert push(stored, model("a")) == Pushed(2, stored.path(2), new=True)


@pytest.fixture
def rolled_back(model, stored):
    """A model whose version 2, `b`, was taken back."""
    push(stored, model("a"))
    push(stored, model("b"))
    stored.rollback()
    return stored


@pytest.mark.parametrize("as_canary", [False, True])
def test_a_model_that_was_rolled_back_gets_no_label_by_a_push(model, rolled_back, as_canary):
    with pytest.raises(
        ModelWithdrawn, match="it is version 2 of m, which was rolled back; `conveyor rollback m --to 2`"
    ):
        push(rolled_back, model("b"), as_canary=as_canary)
    assert (rolled_back.stable(), rolled_back.versions()) == (1, [1, 2])


def test_a_model_that_was_rolled_back_is_remembered_without_its_version(model, rolled_back):
    shutil.rmtree(rolled_back.path(2))
    (identity,) = rolled_back.labels().withdrawn
    with pytest.raises(
        ModelWithdrawn, match=f"a version of m that was rolled back, .*; train another, or take {identity}"
    ):
        push(rolled_back, model("b"))


def test_another_model_is_pushed_after_a_rollback_and_the_one_taken_back_stays_so(model, rolled_back):
    assert push(rolled_back, model("c")).version == 3
    with pytest.raises(ModelWithdrawn):
        push(rolled_back, model("b"))
    assert rolled_back.stable() == 3


def test_a_person_may_return_to_what_was_taken_back(model, rolled_back):
    rolled_back.rollback(2)
    assert push(rolled_back, model("b")) == Pushed(2, rolled_back.path(2), new=False)
    assert rolled_back.stable() == 2
    assert push(rolled_back, model("a")) == Pushed(1, rolled_back.path(1), new=False)  # nothing was wrong with it


def test_only_a_way_back_takes_a_model_back(model, stored):
    """However often a person goes back and forth."""
    for name in ("a", "b", "c"):
        push(stored, model(name))
    identities = {number: stored.identity(number) for number in (1, 2, 3)}
    for target, withdrawn in ((2, {3}), (1, {3, 2}), (None, {3}), (3, set()), (None, {3})):
        stored.rollback(target)
        assert set(stored.labels().withdrawn) == {identities[number] for number in withdrawn}, target
    assert stored.stable() == 2


def test_a_model_is_taken_back_also_where_its_version_is_lower(model, stored):
    for name in ("a", "b", "a"):  # settings that were tried, and given up
        push(stored, model(name))
    assert stored.labels() == Labels(1, None, 2)
    stored.rollback()
    with pytest.raises(ModelWithdrawn):
        push(stored, model("a"))
    assert stored.stable() == 2


def test_the_label_of_a_version(three):
    label(three, 2, 3, None)
    assert [three.label_of(version) for version in (1, 2, 3)] == [None, "stable", "canary"]


def test_a_later_return_takes_back_what_was_stable_meanwhile(model, rolled_back):
    push(rolled_back, model("c"))
    rolled_back.rollback(2)
    with pytest.raises(ModelWithdrawn):
        push(rolled_back, model("c"))
    assert rolled_back.stable() == 2


def test_a_version_that_cannot_be_read_can_be_rolled_back(model, stored, monkeypatch):
    push(stored, model("a"))
    push(stored, model("b"))
    (stored.path(2) / RECORD).unlink()

    def unreadable(folder):
        if folder == stored.path(2):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return "a"

    monkeypatch.setattr(store, "model_identity", unreadable)
    assert stored.rollback() == StableMove("m", 2, 1)


def test_a_person_may_promote_what_was_taken_back(model, rolled_back):
    taken_back = rolled_back.labels().withdrawn
    push(rolled_back, model("c"), as_canary=True)
    (rolled_back.folder / store.LABELS).write_text(json.dumps(dataclasses.asdict(Labels(3, 2, None, taken_back))))
    rolled_back.promote()
    assert rolled_back.labels() == Labels(2, None, 3, ())


def test_labels_of_0_1_0_are_read(three):
    (three.folder / store.LABELS).write_text('{"stable": 2, "canary": null, "previous": 1}')
    assert three.labels() == Labels(2, None, 1)


def test_pushes_in_one_second_and_with_a_clock_set_back_get_rising_versions(model, stored, monkeypatch):
    numbers = [push(stored, model(str(i))).version for i in range(3)]
    monkeypatch.setattr(time, "time", lambda: 0.0)
    numbers.append(push(stored, model("later")).version)
    assert numbers == [1, 2, 3, 4]


def test_number_of_a_deleted_version_is_not_given_again(model, stored):
    push(stored, model("a"))
    shutil.rmtree(push(stored, model("b")).path)
    assert push(stored, model("c")).version == 3


def test_counts_on_from_another_programs_versions(model, stored):
    stored.path(1700000000).mkdir(parents=True)
    assert push(stored, model("a")).version == 1700000001


@pytest.mark.parametrize("step", ["copytree", "flush_tree", "replace_file", "rename"])
def test_killed_at_any_step_leaves_the_old_state_or_the_new(model, stored, step):
    push(stored, model("a"))
    code = textwrap.dedent(f"""
        import os, pathlib, shutil, signal
        from serving.model_store import StoredModel, VersionRecord, store
        owner = {{"copytree": shutil, "rename": pathlib.Path}}.get({step!r}, store)
        original = getattr(owner, {step!r})
        def then_die(*args, **kwargs):
            original(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)
        setattr(owner, {step!r}, then_die)
        StoredModel(pathlib.Path({str(stored.folder)!r})).push(pathlib.Path({str(model("b"))!r}), VersionRecord())
    """)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert stored.versions() == ([1, 2] if step == "rename" else [1])
    after = push(stored, model("b"))
    assert after.new == (step != "rename")
    assert stored.digest(after.version) == tree_digest(model("b"))
    assert stored.stable() == after.version
    assert not (stored.folder / store.STAGING).exists()


@pytest.mark.parametrize("step", ["copytree", "replace_file", "flush_tree", "rename"])
def test_full_disk_leaves_the_old_state(model, stored, monkeypatch, step):
    push(stored, model("a"))
    before, labels = sorted(path.name for path in stored.folder.iterdir()), stored.labels()

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    source = model("b")
    monkeypatch.setattr({"copytree": store.shutil, "rename": Path}.get(step, store), step, full)
    with pytest.raises(StorageError, match=r"No space left on device.*What was served before stays"):
        push(stored, source)
    monkeypatch.undo()
    assert sorted(path.name for path in stored.folder.iterdir()) == before
    assert stored.labels() == labels


def test_damaged_copy_is_not_pushed(model, stored, monkeypatch):
    def damaging(_source, target):
        target.mkdir()
        (target / "saved_model.pb").write_text("flipped")

    monkeypatch.setattr(store.shutil, "copytree", damaging)
    with pytest.raises(StorageError, match="differs"):
        push(stored, model("a"))
    assert stored.versions() == []


def test_a_version_is_intact_while_its_files_are_those_that_were_pushed(model, stored):
    version = push(stored, model("a")).version
    assert stored.is_intact(version)
    (stored.path(version) / "saved_model.pb").write_text("another")
    assert not stored.is_intact(version)


def test_a_version_whose_record_is_damaged_is_not_as_it_was_pushed(model, stored):
    version = push(stored, model("a")).version
    assert stored.is_as_pushed(version)
    (stored.path(version) / RECORD).write_text("{")
    assert not stored.is_as_pushed(version)


def test_records_of_0_1_0_are_read(three):
    (three.path(1) / RECORD).parent.mkdir()
    (three.path(1) / RECORD).write_text('{"run": "r", "code": "c", "digest": "d"}')
    assert three.record(1) == VersionRecord(run="r", trainer_digest="c", digest="d")


@pytest.mark.parametrize("fields", ['{"parts": null}', '{"version": "1"}', '{"experiment": []}', '{"warm_start": "2"}'])
def test_a_record_whose_fields_are_of_another_type_is_none(three, fields):
    (three.path(1) / RECORD).parent.mkdir()
    (three.path(1) / RECORD).write_text(fields)
    assert three.record(1) is None


def test_files_beside_those_of_a_model_make_no_other_model(stored, model):
    source = model("a")
    version = push(stored, source).version
    (stored.path(version) / ".DS_Store").touch()
    (stored.path(version) / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"others")
    (stored.path(version) / "notes.txt").write_text("seen by me")
    assert stored.is_as_pushed(version)
    (stored.path(version) / "variables" / "variables.index").write_text("flipped")
    assert not stored.is_as_pushed(version)


def test_a_damaged_version_that_is_rolled_back_bans_not_its_model(stored, model):
    push(stored, model("a"))
    push(stored, model("b"))
    (stored.path(2) / "saved_model.pb").write_text("damaged")
    stored.rollback()
    assert stored.labels().withdrawn == ()
    assert (push(stored, model("b")).version, stored.stable()) == (3, 3)


def test_a_version_whose_record_cannot_be_read_is_not_intact(stored, model):
    version = push(stored, model("a")).version
    (stored.path(version) / RECORD).write_text("{")
    assert not stored.is_intact(version)


def test_a_record_of_0_1_0_is_held_against_all_files(stored, model):
    version = push(stored, model("a")).version
    fields = json.loads((stored.path(version) / RECORD).read_text()) | {"model_digest": ""}
    (stored.path(version) / RECORD).write_text(json.dumps(fields))
    assert stored.is_as_pushed(version)
    (stored.path(version) / ".DS_Store").touch()
    assert not stored.is_as_pushed(version)


def test_a_canary_whose_push_dies_before_its_label_is_not_stable(model, stored, monkeypatch):
    push(stored, model("a"))
    (stored.folder / store.LABELS).unlink()  # as one is told to where it is damaged

    def dying(self, labels):
        if labels.canary:
            raise KeyboardInterrupt
        write(self, labels)

    write = StoredModel._write
    monkeypatch.setattr(StoredModel, "_write", dying)
    with pytest.raises(KeyboardInterrupt):
        stored.push(model("b"), VersionRecord(), as_canary=True)
    assert stored.versions() == [1, 2]
    assert stored.stable() == 1


def test_a_version_that_is_gone_is_not_intact(stored):
    assert not stored.is_intact(1)


def test_a_version_of_another_program_has_no_record_and_is_intact(three):
    assert three.record(2) is None
    assert three.is_intact(2)


@pytest.mark.parametrize("text", ["", "[1]", "{", "3"])
def test_a_damaged_record_is_none(three, text):
    (three.path(1) / RECORD).parent.mkdir()
    (three.path(1) / RECORD).write_text(text)
    assert three.record(1) is None


def test_a_version_says_what_images_it_takes(three):
    (three.path(1) / "assets").mkdir()
    (three.path(1) / "assets" / "dataset.json").write_text('{"shape": [28, 28, 1], "classes": ["a", "b"]}')
    assert three.dataset(1) == store.ModelDataset((28, 28, 1), ("a", "b"), "", "")
    fields = {"shape": [8, 6, 3], "classes": ["a"], "resize": "pad", "background": "black"}
    (three.path(1) / "assets" / "dataset.json").write_text(json.dumps(fields))
    assert three.dataset(1) == store.ModelDataset((8, 6, 3), ("a",), "pad", "black")
    assert three.dataset(2) is None


def test_written_labels_are_read(three):
    label(three, 2, 3, 1)
    assert three.labels() == Labels(2, 3, 1)


@pytest.mark.parametrize("text", ["{", "[]", '{"stable": 1}'])
def test_damaged_labels_are_no_reason_to_serve_something_else(three, text):
    (three.folder / store.LABELS).write_text(text)
    with pytest.raises(LabelsDamaged, match="Delete it: the newest version serves then"):
        three.labels()


def test_the_same_model_pushed_again_gets_the_label_that_a_killed_push_did_not_set(model, three):
    push(three, model("a"))
    label(three, 3, None, 2)  # as it was before the label was moved
    assert not push(three, model("a")).new
    assert three.labels() == Labels(4, None, 3)


def test_a_canary_is_not_stable(model, three):
    label(three, 2, None, 1)
    assert push(three, model("a"), as_canary=True).version == 4
    assert three.labels() == Labels(2, 4, 1)


def test_rollback_returns_to_the_previous_version_and_again_to_the_later_one(three):
    label(three, 3, None, 1)
    assert three.rollback() == StableMove("m", 3, 1)
    assert three.labels() == Labels(1, None, 3)
    assert three.rollback() == StableMove("m", 1, 3)


def test_rollback_without_a_previous_version_takes_the_next_lower_one(three):
    assert three.rollback() == StableMove("m", 3, 2)


def test_rollback_below_the_lowest_version_is_refused(three):
    label(three, 1)
    with pytest.raises(ConfigError, match="There is no earlier version of m; there are 1, 2, 3"):
        three.rollback()


def test_rollback_to_an_unknown_version_is_refused(three):
    with pytest.raises(ConfigError, match="There is no version 9 of m"):
        three.rollback(9)


def test_the_only_version_is_said_to_be_the_only_one(stored):
    stored.path(4).mkdir(parents=True)
    with pytest.raises(ConfigError, match="There is no version 9 of m; there is only 4"):
        stored.require(9)


def test_a_folder_that_cannot_be_read_is_not_empty(three, monkeypatch):
    def denied(_path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "iterdir", denied)
    with pytest.raises(StorageError, match=r"cannot be read: .*Permission denied"):
        three.versions()
    with pytest.raises(StorageError, match=r"cannot be read: .*Permission denied"):
        ModelStore(three.folder.parent).models()


def test_rollback_gives_the_canary_up(three):
    label(three, 2, 3, 1)
    three.rollback(1)
    assert three.labels() == Labels(1, None, 2)


def test_promote_makes_the_canary_stable(three):
    label(three, 2, 3, 1)
    assert three.promote(compared=3) == StableMove("m", 2, 3)
    assert three.labels() == Labels(3, None, 2)


def test_promote_without_a_canary_is_refused(three):
    with pytest.raises(ConfigError, match="m has no canary"):
        three.promote()


def test_promote_takes_no_other_canary_than_the_one_that_was_compared(three):
    label(three, 1, 3)
    with pytest.raises(ConfigError, match="version 3 by now; version 2 was compared"):
        three.promote(compared=2)
    assert three.labels() == Labels(1, 3, None)


def test_a_folder_that_cannot_be_written_is_an_error_in_a_sentence(three, monkeypatch):
    def read_only(*_args):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(store, "replace_file", read_only)
    with pytest.raises(StorageError, match=r"The versions of m in .* cannot be changed: .*Read-only file system"):
        three.rollback()


def test_a_model_that_was_never_pushed_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="No model n has been pushed"):
        ModelStore(tmp_path / "serving").pushed("n")


def test_a_version_with_a_label_is_not_removed(three):
    label(three, 2, None, 1)
    assert [three.remove(version) for version in (1, 2, 3)] == [False, False, True]
    assert three.versions() == [1, 2]


def test_a_removal_that_is_killed_leaves_no_half_version(three, monkeypatch):
    label(three, 3)
    (three.path(1) / "saved_model.pb").touch()

    def killed(_path, **_options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store.shutil, "rmtree", lambda path, **options: None if options else killed(path))
        with pytest.raises(KeyboardInterrupt):
            three.remove(1)
    assert three.versions() == [2, 3]
    assert three.remove(2)
    assert sorted(path.name for path in three.folder.iterdir() if path.is_dir()) == ["3"]


def test_models_are_the_folders_in_the_store(three, tmp_path):
    assert ModelStore(tmp_path / "serving").models() == [StoredModel(three.folder)]


def test_what_lies_beside_a_model_appears_with_it(stored, model, tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "int8.tflite").write_text("small")
    beside = {Path("assets.extra", "tflite"): tmp_path / "files"}
    (model("a") / "assets.extra").mkdir()
    (model("a") / "assets.extra" / "warm-up").write_text("requests")

    assert stored.push(model("a"), VersionRecord()) == Pushed(1, stored.path(1), new=True)
    pushed = stored.push(model("a"), VersionRecord(), beside=beside)
    assert (pushed.version, pushed.new) == (2, True)  # the first one lacks the files
    assert (stored.path(2) / "assets.extra" / "tflite" / "int8.tflite").read_text() == "small"
    assert (stored.path(2) / "assets.extra" / "warm-up").read_text() == "requests"
    assert stored.digest(2) == stored.record(2).digest
    assert stored.is_as_pushed(2)
    assert not stored.push(model("a"), VersionRecord(), beside=beside).new
    (tmp_path / "files" / "formats.json").write_text("when it was measured")
    assert not stored.push(model("a"), VersionRecord(), beside=beside).new
    assert stored.push(model("a"), VersionRecord()).version == 2  # which is stable, and holds what is asked for
    (tmp_path / "files" / "float16.tflite").write_text("larger")
    third = stored.push(model("a"), VersionRecord(), beside=beside)
    assert (third.version, third.new) == (3, True)  # the second one has not all of them
    (stored.path(3) / "assets.extra" / "tflite" / "float16.tflite").write_text("dam")
    assert stored.push(model("a"), VersionRecord(), beside=beside).version == 4

    stored.push(model("b"), VersionRecord(), beside=beside)
    stored.rollback(1)
    with pytest.raises(ModelWithdrawn):  # without the files it is the model that was taken back all the same
        stored.push(model("b"), VersionRecord())
