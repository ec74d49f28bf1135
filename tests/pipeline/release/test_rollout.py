import dataclasses
import json
import shutil

import pytest

from pipeline.home.folders import Home
from pipeline.release import rollout, server_files
from pipeline.release.rollout import Rollout
from pipeline.release.server_files import Served
from serving.model_store import Labels
from serving.model_store.store import LABELS


def label(home, labels):
    (home.serving / "m" / LABELS).write_text(json.dumps(dataclasses.asdict(labels)))


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path)
    for version in (1, 2, 3):
        (home.serving / "m" / str(version)).mkdir(parents=True)
    label(home, Labels(3, None, 2))
    server_files.write(home, {"m": server_files.labelled(home, "m")})
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
    following = Rollout(home, "", ("m",), {"m": Served((3,), {"stable": 3})})
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
    assert "versions: 2 }" in (home.server / server_files.MODELS).read_text()


def test_a_version_that_cannot_be_loaded_takes_nothing_away(home, monkeypatch):
    Server(monkeypatch)
    following = Rollout(home, "", ("m",), {"m": Served((3,), {"stable": 3})})
    label(home, Labels(2, None, 3))
    for _ in range(5):
        following.step()
    assert following.current["m"] == Served((2, 3), {"stable": 3})


def test_damaged_labels_and_deleted_versions_change_nothing(home, monkeypatch):
    Server(monkeypatch)
    following = Rollout(home, "", ("m",), {"m": Served((3,), {"stable": 3})})
    (home.serving / "m" / LABELS).write_text("{")
    following.step()
    shutil.rmtree(home.serving / "m")
    following.step()
    assert following.current["m"] == Served((3,), {"stable": 3})


def test_without_a_server_the_files_are_written_for_one(home):
    rollout.announce(home, ("m",))
    label(home, Labels(2, 3, None))
    assert rollout.settle(home, "m") is None
    text = (home.server / server_files.MODELS).read_text()
    assert "versions: 2 versions: 3" in text
    assert 'key: "canary" value: 3' in text
    rollout.announce(home, ())  # a server with versions of its own choice is left alone
    label(home, Labels(1, None, None))
    assert rollout.settle(home, "m") is None
    assert (home.server / server_files.MODELS).read_text() == text


def test_where_the_server_is_is_known_while_it_is_followed(home, monkeypatch):
    Server(monkeypatch)
    current = {"m": Served((3,), {"stable": 3})}
    with rollout.following(home, "localhost:1", ("m",), current):
        assert rollout.endpoint(home) == "localhost:1"
        rollout.announce(home, ("m",))
        assert json.loads((home.server / rollout.FOLLOWED).read_text()) == ["m"]
        assert rollout.settle(home, "m") == "localhost:1"
        assert rollout.settle(home, "another") is None  # which that server does not serve: nothing to wait for
    assert rollout.endpoint(home) is None
