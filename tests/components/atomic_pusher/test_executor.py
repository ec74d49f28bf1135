import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from components.atomic_pusher import executor
from components.atomic_pusher.executor import PushError, push
from serving.model_store import labels
from serving.model_store.files import read_record, tree_digest, versions


@pytest.fixture
def model(tmp_path):
    def make(content: str):
        folder = tmp_path / f"model-{content}"
        (folder / "variables").mkdir(parents=True)
        (folder / "saved_model.pb").write_text(content)
        (folder / "variables" / "variables.index").write_text("weights of " + content)
        return folder

    return make


def test_version_holds_the_model_and_where_it_came_from(model, tmp_path):
    source = model("a")
    pushed = push(source, tmp_path / "serving", {"run": "r1"})
    assert pushed == executor.Pushed(1, tmp_path / "serving" / "1", new=True)
    assert tree_digest(pushed.path) == tree_digest(source)
    assert read_record(pushed.path) == {"run": "r1", "version": 1, "digest": tree_digest(source)}


def test_same_model_is_never_pushed_twice(model, tmp_path):
    base = tmp_path / "serving"
    push(model("a"), base, {})
    push(model("b"), base, {})
    again = push(tmp_path / "model-a", base, {})
    assert (again.version, again.new) == (1, False)
    assert versions(base) == [1, 2]


def test_pushes_in_one_second_and_with_a_clock_set_back_get_rising_versions(model, tmp_path, monkeypatch):
    base = tmp_path / "serving"
    numbers = [push(model(str(i)), base, {}).version for i in range(3)]
    monkeypatch.setattr(time, "time", lambda: 0.0)
    numbers.append(push(model("later"), base, {}).version)
    assert numbers == [1, 2, 3, 4]


def test_number_of_a_deleted_version_is_not_given_again(model, tmp_path):
    base = tmp_path / "serving"
    push(model("a"), base, {})
    shutil.rmtree(push(model("b"), base, {}).path)
    assert push(model("c"), base, {}).version == 3


def test_counts_on_from_another_programs_versions(model, tmp_path):
    (tmp_path / "serving" / "1700000000").mkdir(parents=True)
    assert push(model("a"), tmp_path / "serving", {}).version == 1700000001


@pytest.mark.parametrize("step", ["copytree", "flush_tree", "replace_file", "rename"])
def test_killed_at_any_step_leaves_the_old_state_or_the_new(model, tmp_path, step):
    base = tmp_path / "serving"
    push(model("a"), base, {})
    code = textwrap.dedent(f"""
        import os, pathlib, shutil, signal
        from components.atomic_pusher import executor
        def die(*args, **kwargs):
            os.kill(os.getpid(), signal.SIGKILL)
        owner = {{"copytree": shutil, "rename": pathlib.Path}}.get({step!r}, executor)
        original = getattr(owner, {step!r})
        def then_die(*args, **kwargs):
            original(*args, **kwargs)
            die()
        setattr(owner, {step!r}, then_die)
        executor.push(pathlib.Path({str(model("b"))!r}), pathlib.Path({str(base)!r}), {{}})
    """)
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    assert versions(base) == ([1, 2] if step == "rename" else [1])
    after = push(tmp_path / "model-b", base, {})
    assert after.new == (step != "rename")
    assert tree_digest(after.path) == tree_digest(tmp_path / "model-b")
    assert labels.read(base).stable == after.version
    assert not (base / executor.STAGING).exists()


def test_full_disk_leaves_the_old_state(model, tmp_path, monkeypatch):
    base = tmp_path / "serving"
    push(model("a"), base, {})
    before = sorted(path.name for path in base.iterdir())

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(executor.shutil, "copytree", full)
    with pytest.raises(PushError, match=r"No space left on device.*What was served before stays"):
        push(model("b"), base, {})
    assert sorted(path.name for path in base.iterdir()) == before


def test_damaged_copy_is_not_pushed(model, tmp_path, monkeypatch):
    def damaging(_source, target):
        target.mkdir()
        (target / "saved_model.pb").write_text("flipped")

    monkeypatch.setattr(executor.shutil, "copytree", damaging)
    with pytest.raises(PushError, match="differs"):
        push(model("a"), tmp_path / "serving", {})
    assert versions(tmp_path / "serving") == []
