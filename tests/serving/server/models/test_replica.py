import threading
from pathlib import Path

import pytest
from tensorflow_serving.apis import model_pb2

from serving.server.models.replica import Replica
from serving.server.protocol.errors import StatusError
from tests.serving.server_process import eventually


class FakeBundle:
    """Stands for a loaded model: what is tested here is which one answers, and when it is freed."""

    closed = False

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def loaded():
    return {}


@pytest.fixture
def replica(loaded):
    def load(model, path):
        return loaded.setdefault(path.name, FakeBundle())

    return Replica(load, unloaded=lambda version: loaded.setdefault("unloaded", []).append(version.number))


def used(replica, **choice):
    spec = model_pb2.ModelSpec(name="m")
    if "number" in choice:
        spec.version.value = choice["number"]
    if "label" in choice:
        spec.version_label = choice["label"]
    with replica.use(spec) as version:
        return version.number


def test_what_is_prepared_answers_once_it_is_offered(replica):
    replica.prepare("m", 2, Path("2"))
    assert replica.names() == []
    with pytest.raises(StatusError, match=r"Servable not found for request: Latest\(m\)"):
        used(replica)
    replica.offer("m", 2)
    replica.offer("m", 2)  # a second time changes nothing
    replica.load("m", 1, Path("1"))
    assert replica.names() == ["m"]
    assert used(replica) == 2
    assert used(replica, number=1) == 1


def test_labels_are_those_that_were_set_last(replica):
    replica.load("m", 1, Path("1"))
    replica.label({"m": {"stable": 1, "canary": 2}})
    assert used(replica, label="stable") == 1
    with pytest.raises(StatusError, match=r"Specific\(m, 2\)"):
        used(replica, label="canary")
    replica.label({})
    with pytest.raises(StatusError, match="Unrecognized servable version label: stable"):
        used(replica, label="stable")


def test_a_version_in_use_is_freed_after_its_last_user(replica, loaded):
    replica.load("m", 1, Path("1"))
    with replica.use(model_pb2.ModelSpec(name="m")) as version:
        replica.acquire(version)
        unloading = threading.Thread(target=replica.unload, args=("m", 1))
        unloading.start()
        eventually(lambda: replica.names() == [])
    assert not loaded["1"].closed
    replica.release(version)
    unloading.join(10)
    assert loaded["1"].closed
    assert loaded["unloaded"] == [1]
    assert version.bundle is None


def test_what_was_prepared_and_not_offered_is_freed_as_well(replica, loaded):
    replica.prepare("m", 1, Path("1"))
    replica.unload("m", 1)
    replica.unload("m", 7)  # of what is not there, nothing
    assert loaded["1"].closed
