"""`conveyor schedule` as a process: one run at a time, a memory, and nothing that a kill leaves behind."""

import contextlib
import json
import os
import re
import signal
import sqlite3
import time

from tests.end_to_end.test_run import wait_for
from tests.serving.server_process import eventually


def scheduled(conveyor, *more, cron="0 3 1 1 *"):
    """Starts a scheduler, by default of something that is due once a year."""
    return conveyor.start("schedule", conveyor.experiment, "--cron", cron, "--data", conveyor.data, *more)


def state(conveyor):
    return json.loads((conveyor.home / "schedules" / "digits.json").read_text())


def listed(conveyor):
    code, out = conveyor("schedule", "--list", "--json")
    assert code == 0
    return json.loads(out)["schedules"]


def running(conveyor):
    """Returns the components that ML Metadata take for running."""
    connecting = sqlite3.connect(f"file:{conveyor.home}/metadata.db?mode=ro", uri=True)
    with contextlib.closing(connecting) as database:
        return database.execute("SELECT COUNT(*) FROM Execution WHERE last_known_state = 2").fetchone()[0]


def test_killed_in_the_middle_of_a_run_and_started_again(conveyor):
    settings = ("--set", "training.steps=400", "--set", "training.precision=float32")
    with scheduled(conveyor, "--now", *settings) as scheduler:
        checkpoints = conveyor.home / "checkpoints" / "digits"
        eventually(lambda: len(list(checkpoints.glob("*/ckpt-*.index"))) >= 2, 90)
        (row,) = listed(conveyor)
        assert (row["state"], row["process"]) == ("running", scheduler.pid)
        with scheduled(conveyor) as second:
            assert f"Process {scheduler.pid} schedules digits in {conveyor.home} already." in second.stdout.read()
        assert second.returncode == 1
        scheduler.send_signal(signal.SIGKILL)
    time.sleep(2)  # its run, and that one's trainer, end by themselves
    before = len(list(checkpoints.glob("*/*")))
    (row,) = listed(conveyor)
    assert row["state"] == "stopped"
    assert running(conveyor) == 1  # as a killed process leaves it
    time.sleep(1)
    assert len(list(checkpoints.glob("*/*"))) == before  # nobody trains on

    with scheduled(conveyor, *settings) as scheduler:
        wait_for(scheduler, "digits: the last run was cut off; it continues now")
        out = wait_for(scheduler, "exit code 0")
        assert "An earlier run was stopped in Trainer" in out
        assert "Continuing from the checkpoint at step" in out
        scheduler.terminate()
        assert "digits: stopped\n" in scheduler.stdout.read()
    assert scheduler.returncode == 0
    assert running(conveyor) == 0
    assert conveyor.versions() == ["1"]
    (row,) = listed(conveyor)
    assert (row["state"], row["verdict"], row["exit_code"], row["runs"]) == ("stopped", "pushed", 0, 1)


def test_stopped_in_the_middle_of_a_run(conveyor):
    settings = (
        "--set",
        "training.steps=4000",
        "--set",
        "training.log_every=4000",
        "--set",
        "training.checkpoint_every=4000",
    )
    with scheduled(conveyor, "--now", *settings) as scheduler:
        wait_for(scheduler, "step 0,")
        scheduler.terminate()
        out = scheduler.stdout.read()
    assert scheduler.returncode == 0, out
    assert "with a checkpoint" in out
    assert re.search(r"digits: stopped, run digits-\w+-\w+, because .*, exit code 130", out)
    assert running(conveyor) == 0
    assert state(conveyor)["runs"][-1]["verdict"] == "stopped"


def test_a_time_that_passed_meanwhile_is_made_up_for_once_and_told_of(pushed, tmp_path):
    with scheduled(pushed) as scheduler:
        wait_for(scheduler, "the first run is at")
        scheduler.terminate()
        scheduler.stdout.read()
    missed = state(pushed) | {"next": "2020-01-01T03:00:00+00:00"}
    (pushed.home / "schedules" / "digits.json").write_text(json.dumps(missed))
    hook = ("--hook", f"cp /dev/stdin {tmp_path / 'told'}", "--json")
    with scheduled(pushed, *hook) as scheduler:
        out = wait_for(scheduler, "exit code")
        assert "digits: the run of 2020-01-01T03:00:00+00:00 was missed; it is made up for now" in out
        assert re.search(r"digits: nothing new, run digits-.*, exit code 4; the next run is at 20\d\d-", out)
        eventually(lambda: listed(pushed)[0]["state"] == "waiting")
        (row,) = listed(pushed)
        assert row["next"] > "2026"
        eventually((tmp_path / "told").exists)
        os.killpg(scheduler.pid, signal.SIGTERM)
        out = scheduler.stdout.read()
    (line,) = (line for line in out.splitlines() if line.startswith("{"))
    told = json.loads(line)
    assert (told["experiment"], told["verdict"], told["exit_code"]) == ("digits", "nothing new", 4)
    assert told["next"] == state(pushed)["next"]
    assert json.loads((tmp_path / "told").read_text())["verdict"] == "nothing new"
    assert [run["verdict"] for run in state(pushed)["runs"]] == ["nothing new"]


def test_wrong_use_is_told(pushed):
    at_data = ("--data", pushed.data)
    code, out = pushed("schedule", pushed.experiment)
    assert code == 2
    assert "Give an EXPERIMENT and --cron" in out
    code, out = pushed("schedule", pushed.experiment, "--cron", "0 25 * * *")
    assert code == 2
    assert "the hour is 25" in out
    code, out = pushed(
        "schedule", pushed.experiment, "--cron", "0 2 * * *", *at_data, "--notify", "nope://user:s3cret@x"
    )
    assert code == 2
    assert "--data" not in out
    assert "s3cret" not in out
    assert not (pushed.home / "schedules").exists()
    code, out = pushed("schedule", "--list")
    assert code == 0
    assert "Nothing is scheduled" in out
