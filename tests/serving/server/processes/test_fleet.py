import errno
import multiprocessing
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

    def __init__(self, folder, size=2, lost=lambda: None, **given):
        self.folder = folder
        given = SimpleNamespace(**{"folder": folder, "cannot_start": False} | given)
        self.fleet = Fleet(size, toy.run, given, {"question": lambda: "answered"}, lost)

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


def test_what_ends_one_process_on_loading_ends_no_other_however_often_it_is_tried(told):
    (last,) = (name for name in told.each() if name.startswith("1."))
    for _ in range(3):
        with pytest.raises(StatusError, match=r"Process 0 ended while it loaded this version\."):
            told.fleet.load("m", 1, told.path("deadly"))
    assert psutil.pid_exists(int(last.split(".")[1]))
    told.fleet.load("m", 3, told.path("good"))
    eventually(lambda: len(told.fleet._living()) == 2)
    assert all("offer m 3" in lines for lines in told.living())


def test_the_end_of_another_process_meanwhile_does_not_fail_a_version(told):
    told.fleet.load("m", 2, told.path("deadly to the second"))
    eventually(lambda: len(told.fleet._living()) == 2)
    assert all("offer m 2" in lines for lines in told.living())
    assert len(told.each()) == 3


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


def test_a_version_that_was_loaded_anew_meanwhile_is_so_in_the_process_that_comes(told):
    told.fleet.load("m", 1, told.path("1"))
    first = set(told.each())
    held = told.path("slow one")
    held.touch()
    told.fleet.unload("m", 1)
    told.fleet.load("m", 1, held)
    held.unlink()  # so that who comes now waits
    os.kill(int(next(name for name in first if name.startswith("0.")).split(".")[1]), signal.SIGKILL)
    eventually(lambda: len(told.each()) == 3)
    told.fleet.unload("m", 1)
    told.fleet.load("m", 1, told.path("other"))
    held.touch()
    eventually(lambda: len(told.fleet._living()) == 2)
    (new,) = set(told.each()) - first
    loaded = [line.split()[0] for line in told.each()[new] if line.endswith("m 1")]
    assert loaded in (["prepare", "offer", "unload", "prepare", "offer"], ["prepare", "offer"])
    assert told.fleet._living()[0].has == told.fleet._living()[1].has


def test_a_stop_does_not_wait_for_a_process_that_takes_a_place(tmp_path):
    told = Told(tmp_path)
    told.fleet.start()
    held = told.path("slow one")
    held.touch()
    told.fleet.load("m", 1, held)
    held.unlink()
    first = set(told.each())
    os.kill(int(next(iter(first)).split(".")[1]), signal.SIGKILL)
    eventually(lambda: len(told.each()) == 3)
    closing = threading.Thread(target=told.fleet.close)
    closing.start()
    closing.join(10)
    assert not closing.is_alive()
    assert told.living() == []


def test_a_process_that_cannot_be_started_is_tried_again(told, monkeypatch):
    spawn = multiprocessing.get_context("spawn").Process
    real, failures = spawn.start, []

    def start(process):
        if not failures:
            failures.append(1)
            raise OSError(errno.EAGAIN, "no more processes")
        real(process)

    monkeypatch.setattr(spawn, "start", start)
    os.kill(int(next(iter(told.each())).split(".")[1]), signal.SIGKILL)
    eventually(lambda: failures and len(told.fleet._living()) == 2)


def test_a_fleet_that_is_lost_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PAUSES", (0,))
    lost = threading.Event()
    told = Told(tmp_path, lost=lost.set)
    told.fleet.start()
    held = told.path("here")
    told.fleet.load("m", 1, held)
    with told.fleet._changed:  # its files are damaged now
        told.fleet._offered["m", 1] = (told.fleet._offered["m", 1][0], told.path("bad"))
    for name in set(told.each()):
        os.kill(int(name.split(".")[1]), signal.SIGKILL)
    assert lost.wait(30)
    told.fleet.close()


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
    assert failed == ["Process 0 ended while it loaded this version."]
    eventually(lambda: len(told.living()) == 2)
    told.path("slow").touch()
    told.fleet.load("m", 1, told.path("slow"))
    told.fleet.load("m", 2, told.path("2"))
    told.fleet.unload("m", 1)
    eventually(lambda: all("offer m 2" in lines for lines in told.living()))
    for lines in told.living():
        loaded = [line.split()[0] for line in lines if line.endswith("m 1")]
        assert loaded in (["prepare", "offer", "unload"], [])  # the latter of one that took its place after that


def test_a_process_that_hangs_while_it_loads_keeps_no_version_back(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PROMPT", 0.5)
    monkeypatch.setattr(module, "PING", 0.1)
    told = Told(tmp_path)
    told.fleet.start()
    (last,) = (name for name in told.each() if name.startswith("1."))
    os.kill(int(last.split(".")[1]), signal.SIGSTOP)
    told.fleet.load("m", 1, told.path("1"))
    eventually(lambda: len(told.fleet._living()) == 2)
    assert all("offer m 1" in lines for lines in told.living())
    told.fleet.close()


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
