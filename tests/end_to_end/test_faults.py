"""What goes wrong on machines: killed processes, full disks, read-only folders. None of it changes what serves."""

import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import time

import pytest

from tests.end_to_end.test_serve import Serving

ORDER = (
    "ImageExampleGen", "ScalarStatisticsGen", "ExampleValidator", "AnomalyGate", "Trainer", "Evaluator",
    "ServabilityCheck", "AtomicPusher",
)  # fmt: skip
SETTINGS = ("training.precision=float32",)


def kill_in(conveyor, component):
    """Runs until ML Metadata knows that a component runs, or has just run; kills the process with all it started."""
    database = conveyor.home / "metadata.db"
    before = newest(database)
    with conveyor.start(*conveyor.run_arguments(*SETTINGS)) as process:
        deadline = time.monotonic() + 90
        while not begun(database, component, before) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.stdout.read()


def begun(database, component, before):
    """Whether an execution of a component that is newer than another has begun, ended or come from the cache."""
    query = """
        SELECT COUNT(*) FROM Execution JOIN Type ON Type.id = Execution.type_id
        WHERE (Type.name = ? OR Type.name LIKE '%.' || ?) AND Execution.last_known_state IN (1, 2, 3, 5)
        AND Execution.id > ?
    """
    return asked(database, query, component, component, before) > 0


def newest(database):
    return asked(database, "SELECT MAX(id) FROM Execution")


def asked(database, query, *values):
    """Returns the number that a query finds; 0 where the file is not there yet, or is being written."""
    try:
        connecting = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=0.01)
        with contextlib.closing(connecting) as connection:  # a `with` on the connection itself does not close it
            return connection.execute(query, values).fetchone()[0] or 0
    except sqlite3.OperationalError:
        return 0


def weights(conveyor):
    version = conveyor.home / "serving" / "digits" / "1"
    return (version / "variables" / "variables.data-00000-of-00001").read_bytes()


def test_killed_in_every_component_in_turn_the_model_is_as_if_never_killed(conveyor, tmp_path):
    for component in ORDER:
        kill_in(conveyor, component)
    code, out = conveyor.run(*SETTINGS)
    assert code == 0, out
    assert conveyor.versions() == ["1"]
    states = conveyor.states()
    assert len(states) == len(ORDER) + 1
    assert not any("running" in run.values() for run in states)
    assert sum("canceled" in run.values() for run in states) >= 4  # the short ones may have ended before the kill
    killed = weights(conveyor)

    conveyor.home = tmp_path / "another"
    assert conveyor.run(*SETTINGS)[0] == 0
    assert weights(conveyor) == killed


@pytest.fixture
def small_disk():
    """Makes folders small disks of their own; changes them while they are used."""
    mounted = []

    def mount(folder, options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if folder in mounted:
            command = ["mount", "-o", f"remount,{options}", str(folder)]
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"cannot mount a small disk: {done.stderr}")
        mounted.append(folder)

    yield mount
    for folder in set(mounted):
        subprocess.run(["umount", str(folder)], check=False)


def test_full_disks_and_a_read_only_folder(conveyor, small_disk):
    checkpoints, serving = conveyor.home / "checkpoints", conveyor.home / "serving"
    small_disk(checkpoints, "size=50m")  # one checkpoint takes 39 MB
    small_disk(serving, "size=20m")  # one version takes 13 MB
    code, out = conveyor.run()
    assert code == 1
    assert re.search(r"Trainer failed: .*No space left on device", out), out
    assert conveyor.versions() == []
    assert "running" not in conveyor.states()[-1].values()

    small_disk(checkpoints, "size=1g")
    code, out = conveyor.run()
    assert code == 0, out
    assert re.search(r"StatisticsGen +cached", out)
    with Serving(conveyor.home, "--backend=embedded") as server:
        code, out = conveyor.run("training.steps=40", "gate.tolerance=1")
        assert code == 1
        assert "AtomicPusher failed: The model could not be pushed" in out
        assert "No space left on device" in out
        assert "What was served before stays." in out
        assert_serves(conveyor, server)

        small_disk(serving, "size=20m,ro")
        code, out = conveyor.run("training.steps=40", "gate.tolerance=1")
        assert code == 1
        assert re.search(r"Evaluator +cached", out)
        assert "Read-only file system" in out
        assert_serves(conveyor, server)

        small_disk(serving, "size=64m,rw")
        code, out = conveyor.run("training.steps=40", "gate.tolerance=1")
        assert code == 0, out
        assert re.search(r"Trainer +cached", out)
        assert conveyor.versions() == ["1", "2"]
        assert f"{server.target} serves version 2, as stable" in out
    assert not any("running" in run.values() for run in conveyor.states())


def assert_serves(conveyor, server):
    from serving.client import Client

    assert conveyor.versions() == ["1"]
    assert not list((conveyor.home / "serving" / "digits").glob(".staging/*"))
    with Client(server.target, "digits", label="stable") as client:
        assert client.status()[0].version == 1
