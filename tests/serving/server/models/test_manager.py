import threading
from pathlib import Path

import pytest
from google.protobuf import text_format
from tensorflow_serving.apis import model_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving.server.models.manager import Manager
from serving.server.models.replica import Replica
from serving.server.models.versions import State
from serving.server.protocol.errors import StatusError
from tests.serving.server_process import eventually


class FakeBundle:
    """Stands for a loaded model: what is tested here is who is loaded when, and that is told by its path."""

    def __init__(self, path: Path) -> None:
        self.path, self.closed = path, False

    def close(self) -> None:
        self.closed = True


class World:
    """Model folders, and a loader that fails for folders that hold a file `bad` and waits for `held`."""

    def __init__(self, root: Path) -> None:
        self.root, self.loaded, self.held, self.attempts = root, [], threading.Event(), []
        self.held.set()

    def load(self, model: str, path: Path) -> FakeBundle:
        self.held.wait(10)
        self.attempts.append(path.name)
        if (path / "bad").exists():
            raise StatusError("INTERNAL", "damaged")
        self.loaded.append(FakeBundle(path))
        return self.loaded[-1]

    def push(self, number: int, bad: bool = False, model: str = "m") -> None:
        path = self.root / model / str(number)
        path.mkdir(parents=True)
        if bad:
            (path / "bad").touch()

    def mend(self, number: int, model: str = "m") -> None:
        (self.root / model / str(number) / "bad").unlink()

    def config(self, text: str = "", *models: str):
        config = model_server_config_pb2.ModelServerConfig()
        config.model_config_list.SetInParent()
        for model in models or ("m",):
            entry = config.model_config_list.config.add(
                name=model, base_path=str(self.root / model), model_platform="tensorflow"
            )
            text_format.Merge(text, entry)
        return config


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


@pytest.fixture
def manager(world):
    made = manager_of(world, max_retries=2, retry_seconds=0.01)
    yield made
    world.held.set()
    made.close()


def manager_of(world, **arguments):
    replica = Replica(world.load)
    made = Manager(replica, poll_seconds=0.02, **arguments)
    made.replica = replica  # which the tests ask, as requests do
    return made


def answering(manager, number=None, label=None, model="m"):
    spec = model_pb2.ModelSpec(name=model)
    if number is not None:
        spec.version.value = number
    if label is not None:
        spec.version_label = label
    with manager.replica.use(spec) as version:
        return version.number


def answers(manager, expected, **choice):
    """Whether a version answers; none may, while it loads."""
    try:
        return answering(manager, **choice) == expected
    except StatusError:
        return False


def state(manager, number):
    spec = model_pb2.ModelSpec(name="m")
    spec.version.value = number
    try:
        return manager.status(spec)[0].state
    except StatusError:
        return None


@pytest.mark.compatible("changes of the file system")
def test_the_latest_version_answers_and_new_ones_take_over(manager, world):
    world.push(1)
    manager.configure(world.config())
    assert answering(manager) == 1
    world.push(2)
    eventually(lambda: answers(manager, 2))
    eventually(lambda: state(manager, 1) == State.END)
    assert world.loaded[0].closed
    with pytest.raises(StatusError, match=r"Servable not found for request: Specific\(m, 1\)"):
        answering(manager, 1)


@pytest.mark.compatible("changes of the file system")
def test_the_old_version_answers_until_the_new_one_is_loaded(manager, world):
    world.push(1)
    manager.configure(world.config())
    world.held.clear()
    world.push(2)
    eventually(lambda: state(manager, 2) == State.LOADING)
    assert answering(manager) == 1
    world.held.set()
    eventually(lambda: answers(manager, 2))


@pytest.mark.compatible("changes of the file system")
def test_a_version_in_use_is_not_freed(manager, world):
    world.push(1)
    manager.configure(world.config())
    with manager.replica.use(model_pb2.ModelSpec(name="m")) as version:
        world.push(2)
        eventually(lambda: state(manager, 1) == State.UNLOADING)
        assert answering(manager) == 2
        assert not version.bundle.closed
    eventually(lambda: world.loaded[0].closed)


@pytest.mark.compatible("warm-up and loading")
def test_a_damaged_version_is_retried_and_reported_and_takes_nothing_away(manager, world):
    world.push(1)
    manager.configure(world.config())
    world.push(2, bad=True)
    eventually(lambda: state(manager, 2) == State.END)
    assert world.attempts.count("2") == 3
    spec = model_pb2.ModelSpec(name="m")
    spec.version.value = 2
    assert manager.status(spec)[0].error.message == "damaged"
    assert answering(manager) == 1
    world.push(3)
    eventually(lambda: answers(manager, 3))
    eventually(lambda: state(manager, 1) == State.END)


@pytest.mark.compatible(
    "warm-up and loading", differs="where the newest version cannot be loaded at a start, the one before is served"
)
def test_a_start_with_a_damaged_newest_version_serves_the_one_before(manager, world):
    world.push(1)
    world.push(2)
    world.push(3, bad=True)
    manager.configure(world.config())
    assert answering(manager) == 2
    assert state(manager, 1) is None
    eventually(lambda: world.attempts.count("3") == 3)
    world.push(4)
    eventually(lambda: answers(manager, 4))
    eventually(lambda: state(manager, 2) == State.END)


@pytest.mark.compatible("warm-up and loading")
def test_a_version_that_failed_is_loaded_when_it_is_asked_for_again(manager, world):
    for number in (1, 2):
        world.push(number, bad=number == 1)
    manager.configure(world.config("model_version_policy { specific { versions: 1 versions: 2 } }"))
    eventually(lambda: state(manager, 1) == State.END and world.attempts.count("1") == 3)
    world.mend(1)
    manager.configure(world.config("model_version_policy { specific { versions: 2 } }"))
    manager.configure(world.config("model_version_policy { specific { versions: 1 versions: 2 } }"))
    eventually(lambda: answers(manager, 1, number=1))


@pytest.mark.compatible("changes of the file system")
def test_rollback_by_taking_the_newest_away(manager, world):
    for number in (1, 2):
        world.push(number)
    manager.configure(world.config())
    assert answering(manager) == 2
    (world.root / "m" / "2").rmdir()
    eventually(lambda: answers(manager, 1))


@pytest.mark.compatible("changes of the file system")
def test_what_is_loaded_stays_when_the_models_folder_goes(manager, world):
    world.push(1)
    manager.configure(world.config())
    (world.root / "m").rename(world.root / "elsewhere")
    threading.Event().wait(0.2)
    assert answering(manager) == 1


@pytest.mark.compatible("changes of the file system")
def test_the_last_version_is_unloaded_with_its_folder(manager, world):
    world.push(1)
    manager.configure(world.config())
    (world.root / "m" / "1").rmdir()
    eventually(lambda: state(manager, 1) == State.END)
    assert world.loaded[0].closed
    world.push(2)
    eventually(lambda: answers(manager, 2))


@pytest.mark.compatible("labels and policies")
def test_a_policy_of_no_version_unloads_all(manager, world):
    world.push(1)
    manager.configure(world.config())
    manager.configure(world.config("model_version_policy { specific {} }"))
    eventually(lambda: state(manager, 1) == State.END)
    manager.configure(world.config("model_version_policy { specific { versions: 1 } }"))
    eventually(lambda: answers(manager, 1))


@pytest.mark.compatible("labels and policies")
def test_policies_and_a_reload(manager, world):
    for number in (1, 2, 3):
        world.push(number)
    manager.configure(world.config("model_version_policy { latest { num_versions: 2 } }"))
    eventually(lambda: state(manager, 2) == State.AVAILABLE and state(manager, 3) == State.AVAILABLE)
    manager.configure(world.config("model_version_policy { specific { versions: 1 } }"))
    eventually(lambda: answers(manager, 1))
    manager.configure(world.config("model_version_policy { all {} }"))
    eventually(lambda: answers(manager, 3) and answers(manager, 2, number=2))


@pytest.mark.compatible("reload of the configuration")
def test_a_model_taken_from_the_configuration_is_unloaded(manager, world):
    world.push(1)
    world.push(1, model="other")
    manager.configure(world.config("", "m", "other"))
    assert answering(manager, model="other") == 1
    manager.configure(world.config())
    eventually(lambda: all(b.closed for b in world.loaded if "other" in str(b.path)))
    with pytest.raises(StatusError, match=r"Latest\(other\)"):
        answering(manager, model="other")
    assert answering(manager) == 1


@pytest.mark.compatible("labels and policies")
def test_labels(manager, world):
    for number in (1, 2):
        world.push(number)
    everything = "model_version_policy { all {} } "
    with pytest.raises(StatusError, match="label to version 1 of model m, which is not currently available") as error:
        manager.configure(world.config(everything + "version_labels { key: 'stable' value: 1 }"))
    assert error.value.code == "FAILED_PRECONDITION"
    manager.configure(world.config(everything))
    eventually(lambda: answers(manager, 1, number=1))
    manager.configure(world.config(everything + "version_labels { key: 'stable' value: 1 }"))
    assert answering(manager, label="stable") == 1
    with pytest.raises(StatusError, match="not currently available"):
        manager.configure(world.config(everything + "version_labels { key: 'stable' value: 9 }"))
    assert answering(manager, label="stable") == 1
    with pytest.raises(StatusError, match="Unrecognized servable version label: canary"):
        answering(manager, label="canary")


@pytest.mark.compatible("labels and policies")
def test_labels_before_loading_where_they_are_allowed(world):
    manager = manager_of(world, early_labels=True)
    world.push(1)
    manager.configure(world.config("version_labels { key: 'stable' value: 1 }"))
    assert answering(manager, label="stable") == 1
    with pytest.raises(StatusError, match="not currently available"):
        manager.configure(world.config("version_labels { key: 'stable' value: 2 }"))
    manager.close()


def test_a_model_that_cannot_be_had_is_told_and_found_later(manager, world):
    with pytest.raises(StatusError, match=r"1 servable\(s\) did not become available: \{m\}; Could not find base path"):
        manager.configure(world.config())
    world.push(1)

    def there():
        try:
            return answering(manager) == 1
        except StatusError:
            return False

    eventually(there)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("name: ''", "needs a name and a base_path"),
        ("base_path: 'models/m'", "to have an absolute path"),
        ("base_path: 'gs://models/m'", "only local folders"),
        ("model_platform: 'pytorch'", "unsupported platform 'pytorch'"),
    ],
)
@pytest.mark.compatible("reload of the configuration")
def test_wrong_configurations_change_nothing(manager, world, change, message):
    world.push(1)
    manager.configure(world.config())
    with pytest.raises(StatusError, match=message):
        manager.configure(world.config(change))
    assert answering(manager) == 1
    twice = world.config()
    twice.model_config_list.config.add().CopyFrom(twice.model_config_list.config[0])
    with pytest.raises(StatusError, match="multiple times"):
        manager.configure(twice)


@pytest.mark.compatible("labels and policies")
def test_requests_without_a_name(manager):
    with pytest.raises(StatusError, match="ModelSpec has no name specified"):
        answering(manager, model="")
