import dataclasses
import errno
import fcntl
import json
import shutil
from pathlib import Path

import pytest

from conveyor.errors import ConfigError, StorageError
from pipeline.home.folders import Home
from pipeline.release import rollout, server_files
from pipeline.release.rollout import Followed, Rollout, Settled
from pipeline.release.server_files import Served
from pipeline.release.server_folder import RECORD, ServerFolder, ServerRecord, known_servers, running_servers
from serving.model_store import Labels
from serving.model_store.store import LABELS


def label(home, labels):
    (home.serving / "m" / LABELS).write_text(json.dumps(dataclasses.asdict(labels)))


def folder(home):
    return ServerFolder.of(home, 8500)


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path)
    for version in (1, 2, 3):
        (home.serving / "m" / str(version)).mkdir(parents=True)
    label(home, Labels(3, None, 2))
    folder(home).path.mkdir(parents=True)
    server_files.write(home, folder(home).path, {"m": server_files.labelled(home, "m")})
    return home


class Server:
    """Stands for a server: what it has loaded, and where its labels are."""

    def __init__(self, monkeypatch):
        self.loaded, self.labels = {3}, {"stable": 3}
        monkeypatch.setattr(rollout, "answering", self.answering)

    def answering(self, target, model, label=None):
        return self.loaded if label is None else {self.labels[label]} & self.loaded


def test_a_change_takes_three_steps_each_when_the_one_before_was_made(home, monkeypatch):
    server = Server(monkeypatch)
    said = []
    served = {"m": Served((3,), {"stable": 3})}
    following = Rollout(home, folder(home).path, "", ("m",), served, said.append)
    following.step()
    assert following.current["m"] == Served((3,), {"stable": 3})
    label(home, Labels(2, None, 3))
    following.step()
    assert following.current["m"] == Served((2, 3), {"stable": 3})  # load
    following.step()
    assert following.current["m"] == Served((2, 3), {"stable": 3})  # it loads
    server.loaded = {2, 3}
    following.step()
    assert following.current["m"] == Served((2, 3), {"stable": 2})  # move the label
    following.step()
    assert following.current["m"] == Served((2, 3), {"stable": 2})  # the server has not read that yet
    server.labels = {"stable": 2}
    following.step()
    assert following.current["m"] == Served((2,), {"stable": 2})  # let the old one go
    assert not said
    following.step()
    following.step()
    assert said == [Followed("m", {"stable": 2})]  # once
    assert "versions: 2 }" in (folder(home).path / server_files.MODELS).read_text()


def test_a_canary_is_told_of_when_its_label_answers(home, monkeypatch):
    server, said = Server(monkeypatch), []
    served = {"m": Served((2,), {"stable": 2})}
    server.loaded, server.labels = {2, 3}, {"stable": 2, "canary": 2}
    following = Rollout(home, folder(home).path, "", ("m",), served, said.append)
    label(home, Labels(2, 3, None))
    for _ in range(4):
        following.step()
    assert following.current["m"] == Served((2, 3), {"stable": 2, "canary": 3})
    assert not said
    server.labels = {"stable": 2, "canary": 3}
    following.step()
    assert said == [Followed("m", {"stable": 2, "canary": 3})]


def test_a_version_that_cannot_be_loaded_takes_nothing_away(home, monkeypatch):
    Server(monkeypatch)
    following = Rollout(home, folder(home).path, "", ("m",), {"m": Served((3,), {"stable": 3})}, print)
    label(home, Labels(2, None, 3))
    for _ in range(5):
        following.step()
    assert following.current["m"] == Served((2, 3), {"stable": 3})


def test_damaged_labels_and_deleted_versions_change_nothing(home, monkeypatch):
    Server(monkeypatch)
    following = Rollout(home, folder(home).path, "", ("m",), {"m": Served((3,), {"stable": 3})}, print)
    (home.serving / "m" / LABELS).write_text("{")
    following.step()
    shutil.rmtree(home.serving / "m")
    following.step()
    assert following.current["m"] == Served((3,), {"stable": 3})


def test_without_a_server_the_files_are_written_for_one(home):
    folder(home).write_record(ServerRecord("localhost:8500", ("m",)))
    label(home, Labels(2, 3, None))
    assert rollout.settle(home, "m") == []
    text = (folder(home).path / server_files.MODELS).read_text()
    assert "versions: 2 versions: 3" in text
    assert 'key: "canary" value: 3' in text


def test_a_server_that_was_left_behind_is_told_of(home, monkeypatch):
    server = Server(monkeypatch)
    monkeypatch.setattr(rollout, "LEFT_SECONDS", 0.3)
    folder(home).write_record(ServerRecord("localhost:8500", ("m",)))
    assert rollout.settle(home, "m") == [Settled("localhost:8500", made=True)]
    label(home, Labels(2, None, 3))
    (stays,) = rollout.settle(home, "m")
    assert (stays.made, stays.runs) == (False, True)
    assert "no `conveyor serve` of this home looks after it" in stays.problem
    server.loaded = set()
    assert rollout.settle(home, "m") == []  # nobody answers


def test_a_server_with_versions_of_its_own_choice_is_left_alone(home):
    before = (folder(home).path / server_files.MODELS).read_text()
    folder(home).write_record(ServerRecord("localhost:8500", (), {"m": (3,)}))
    label(home, Labels(1, None, None))
    assert rollout.settle(home, "m") == []
    assert (folder(home).path / server_files.MODELS).read_text() == before


def test_a_running_server_that_does_not_follow_by_choice_is_told_of(home):
    folder(home).write_record(ServerRecord("localhost:8500", (), {"m": (3,)}))
    with folder(home).held():
        (stays,) = rollout.settle(home, "m")
    assert (stays.made, stays.runs) == (False, False)
    assert stays.problem == "localhost:8500 was started with --versions or --label, and does not follow."


def test_a_running_server_is_waited_for(home, monkeypatch):
    Server(monkeypatch)
    folder(home).write_record(ServerRecord("localhost:8500", ("m",)))
    with folder(home).held():
        assert rollout.endpoint(home, "m") == "localhost:8500"
        assert rollout.endpoint(home, "another") is None
        assert rollout.settle(home, "m") == [Settled("localhost:8500", made=True)]
        assert rollout.settle(home, "another") == []  # which that server does not serve: nothing to wait for
    assert rollout.endpoint(home, "m") is None


def test_a_canarys_label_is_waited_for(home, monkeypatch):
    server = Server(monkeypatch)
    server.loaded, server.labels = {2, 3}, {"stable": 2, "canary": 2}  # it has loaded it, and not moved the label
    monkeypatch.setattr(rollout, "WAIT_SECONDS", 0.5)
    folder(home).write_record(ServerRecord("localhost:8500", ("m",)))
    label(home, Labels(2, 3, None))
    with folder(home).held():
        assert rollout.settle(home, "m") == [Settled("localhost:8500", made=False)]
        server.labels["canary"] = 3
        assert rollout.settle(home, "m") == [Settled("localhost:8500", made=True)]


def test_a_server_that_does_not_follow_is_said_not_to(home, monkeypatch):
    Server(monkeypatch)
    monkeypatch.setattr(rollout, "WAIT_SECONDS", 0.5)
    folder(home).write_record(ServerRecord("localhost:8500", ("m",)))
    with folder(home).held():
        label(home, Labels(2, None, 3))
        assert rollout.settle(home, "m") == [Settled("localhost:8500", made=False)]


def test_another_models_damage_is_told_of_and_hinders_no_other_server(home):
    folder(home).write_record(ServerRecord("localhost:8500", ("m", "damaged")))
    other = ServerFolder.of(home, 9500)
    other.path.mkdir()
    other.write_record(ServerRecord("localhost:9500", ("m",)))
    (home.serving / "damaged" / "1").mkdir(parents=True)
    (home.serving / "damaged" / LABELS).write_text("{")
    label(home, Labels(1, None, 3))
    (settled,) = rollout.settle(home, "m")
    assert (settled.target, settled.made, settled.runs) == ("localhost:8500", False, False)
    assert "damaged/labels.json is damaged" in settled.problem
    assert "versions: 1 }" in (other.path / server_files.MODELS).read_text()


def test_a_server_whose_folder_cannot_be_read_is_told_of(home, monkeypatch):
    folder(home).write_record(ServerRecord("localhost:8500", ("m",)))

    def denied(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", denied)  # root may read everything
    with pytest.raises(StorageError, match=r"What the server on .*/8500 serves cannot be read"):
        folder(home).record()
    (settled,) = rollout.settle(home, "m")
    assert (settled.target, settled.made, settled.runs) == (str(folder(home).path), False, True)
    assert "cannot be read" in settled.problem


def test_a_running_server_whose_files_are_another_users_is_waited_for(home, monkeypatch):
    Server(monkeypatch)
    folder(home).write_record(ServerRecord("localhost:8500", ("m",)))
    with folder(home).held():
        monkeypatch.setattr(ServerFolder, "held", lambda self: pytest.fail("its lock is not ours to open"))
        assert rollout.settle(home, "m") == [Settled("localhost:8500", made=True)]


def test_a_followed_model_without_versions_is_left_out(home):
    folder(home).write_record(ServerRecord("localhost:8500", ("m", "gone")))
    assert rollout.settle(home, "m") == []
    assert '"gone"' not in (folder(home).path / server_files.MODELS).read_text()


def test_those_that_look_do_not_see_each_other(home):
    with folder(home).held():
        pass
    with (folder(home).path / "serve.lock").open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        assert not folder(home).is_held


def test_each_server_has_files_of_its_own(home):
    other = ServerFolder.of(home, 9500)
    folder(home).write_record(ServerRecord("localhost:8500", ("m",)))
    with folder(home).held(), other.held():
        other.write_record(ServerRecord("localhost:9500", (), {"m": (1,)}, "1"))
        assert [server.target for server in running_servers(home)] == ["localhost:8500", "localhost:9500"]
        with (
            pytest.raises(ConfigError, match="Another `conveyor serve` of this home has --port 8500"),
            folder(home).held(),
        ):
            pass


def test_a_record_without_a_choice_is_of_versions_that_were_named(home):
    (folder(home).path / RECORD).write_text('{"target": "localhost:8500", "followed": [], "pinned": {"m": [1]}}')
    with folder(home).held():
        (record,) = running_servers(home)
    assert record.served("m", [1, 2, 3]) == {1}


@pytest.mark.parametrize("text", ["", "[]", '{"target": 1}', '{"target": "x", "followed": [], "pinned": 3}'])
def test_a_server_with_a_damaged_record_serves_nobody_knows_what(home, text):
    (folder(home).path / RECORD).write_text(text)
    assert running_servers(home) == []
    other = ServerFolder.of(home, 9500)
    with folder(home).held(), other.held():
        other.write_record(ServerRecord("localhost:9500", ("m",)))
        with pytest.raises(ConfigError, match=r"the server on .*/8500 serves is not known: stop it"):
            running_servers(home)
        assert [server.target for server in known_servers(home)] == ["localhost:9500"]  # which can be asked
        assert rollout.endpoint(home, "m") == "localhost:9500"
