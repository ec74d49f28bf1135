import os
import signal
import threading
from types import SimpleNamespace

import psutil
import pytest

from serving.server.processes import fleet as module
from serving.server.processes.fleet import Fleet
from serving.server.protocol.errors import StatusError
from tests.serving.server.processes import toy
from tests.serving.server_process import eventually


class Told:
    """A fleet of processes that load nothing, and what each was told, by its files."""

    def __init__(self, folder, size=2, **given):
        self.folder = folder
        given = SimpleNamespace(**{"folder": folder, "cannot_start": False} | given)
        self.fleet = Fleet(size, toy.run, given, {"question": lambda: "answered"})

    def each(self):
        """Returns what each process was told, by its number and id."""
        return {path.name: path.read_text().splitlines() for path in self.folder.glob("[0-9].*")}

    def living(self):
        return [told for name, told in self.each().items() if psutil.pid_exists(int(name.split(".")[1]))]

    def path(self, name):
        return self.folder / name


@pytest.fixture
def told(tmp_path):
    made = Told(tmp_path)
    made.fleet.start()
    yield made
    made.fleet.close()


def test_all_load_before_one_answers_and_all_end_in_order(tmp_path):
    told = Told(tmp_path)
    told.fleet.start()
    told.fleet.label({"m": {"stable": 1}})
    told.fleet.load("m", 1, tmp_path / "1")
    told.fleet.listen()
    told.fleet.unload("m", 1)
    assert sorted(told.fleet.take()) == [0, 1]
    told.fleet.close()
    for lines in told.each().values():
        assert [line for line in lines if "{}" not in line and "asked" not in line] == [
            "label {'m': {'stable': 1}}", "prepare m 1", "offer m 1", "listen", "unload m 1", "end",
        ]  # fmt: skip
    assert len(told.each()) == 2


def test_a_version_that_cannot_be_loaded_is_loaded_by_one_alone(told):
    with pytest.raises(StatusError, match="damaged") as error:
        told.fleet.load("m", 1, told.path("bad"))
    assert error.value.code == "DATA_LOSS"
    with pytest.raises(StatusError, match="ValueError: not ours"):
        told.fleet.load("m", 1, told.path("odd"))
    told.fleet.load("m", 1, told.path("good"))
    assert all(lines.count("prepare m 1") == 1 for lines in told.living())


def test_what_ends_one_process_on_loading_ends_no_other(told):
    with pytest.raises(StatusError, match="1 of 2 processes ended while they loaded it"):
        told.fleet.load("m", 1, told.path("deadly"))
    eventually(lambda: len(told.fleet._living()) == 2)
    with pytest.raises(StatusError, match="1 of 2 processes ended while they loaded it"):
        told.fleet.load("m", 2, told.path("deadly to the second"))
    eventually(lambda: len(told.fleet._living()) == 2)
    told.fleet.load("m", 3, told.path("good"))
    assert all("offer m 3" in lines and "offer m 2" not in lines for lines in told.living())
    assert sum("unload m 2" in lines for lines in told.each().values()) == 1


def test_a_process_that_takes_anothers_place_has_loaded_what_the_others_have(told):
    told.fleet.load("m", 1, told.path("1"))
    told.fleet.load("n", 5, told.path("5"))
    told.fleet.unload("n", 5)
    told.fleet.label({"m": {"stable": 1}})
    told.fleet.listen()
    first = set(told.each())
    os.kill(int(next(iter(first)).split(".")[1]), signal.SIGKILL)
    eventually(lambda: len(told.each()) == 3)
    (new,) = set(told.each()) - first
    eventually(lambda: "listen" in told.each()[new])
    assert [line for line in told.each()[new] if "asked" not in line] == [
        "prepare m 1", "offer m 1", "label {'m': {'stable': 1}}", "listen",
    ]  # fmt: skip


def test_what_is_loaded_and_unloaded_while_a_process_starts_reaches_it(told):
    failed = []

    def load():
        with pytest.raises(StatusError) as error:
            told.fleet.load("m", 1, told.path("slow"))
        failed.append(error.value.message)

    loading = threading.Thread(target=load)
    loading.start()
    for name in told.each():  # the one that is loading it, too
        os.kill(int(name.split(".")[1]), signal.SIGKILL)
    loading.join()
    assert failed == ["1 of 2 processes ended while they loaded it."]
    eventually(lambda: len(told.living()) == 2)
    told.path("slow").touch()
    told.fleet.load("m", 1, told.path("slow"))
    told.fleet.load("m", 2, told.path("2"))
    told.fleet.unload("m", 1)
    for lines in told.living():
        loaded = [line.split()[0] for line in lines if line.endswith("m 1")]
        assert loaded == ["prepare", "offer", "unload"]
        assert "offer m 2" in lines


def test_a_process_that_hangs_is_replaced(told, monkeypatch):
    monkeypatch.setattr(module, "PROMPT", 0.5)
    first = set(told.each())
    told.path("hang").touch()
    told.fleet.label({"m": {"stable": 1}})
    told.path("hang").unlink()
    eventually(lambda: len(set(told.each()) - first) == 2)
    eventually(lambda: len(told.living()) == 2 and all(any("stable" in line for line in v) for v in told.living()))


def test_what_cannot_start_is_told(tmp_path):
    told = Told(tmp_path, cannot_start=True)
    with pytest.raises(StatusError, match="on purpose"):
        told.fleet.start()
    told.fleet.close()
