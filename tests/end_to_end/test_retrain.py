"""Data that grows, retraining on it, and the versions that come of it."""

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
from pathlib import Path

import numpy as np
import pytest

from conveyor.files import tree_digest
from tests.digits import read_idx, write_idx
from tests.end_to_end.conftest import COMMAND, ROOT
from tests.end_to_end.test_run import wait_for
from tests.end_to_end.test_serve import Serving
from tests.serving.server_process import eventually

WARM = ("training.warm_steps=20", "spans.holdout_share=0.2")


def content(folder: Path) -> dict[str, bytes]:
    """Returns all files below a folder but for locks, which say who looked last."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("run.lock", "run.pid", ".spans.lock")
    }


def test_add_refuses_a_damaged_file_and_leaves_nothing(pushed, days, tmp_path):
    shutil.copytree(days[0], tmp_path / "short")
    file = tmp_path / "short" / "new-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-5])
    before = content(pushed.data)
    code, out = pushed.add(tmp_path / "short")
    assert code == 1, out
    assert f"{file} at byte 235211: expected 235216 bytes" in out
    assert content(pushed.data) == before


def test_spans_are_added_once_retrained_on_and_traced_back(pushed, days, tmp_path):
    assert pushed.add(days[0])[0] == 0
    code, out = pushed.add(days[0])
    assert code == 4
    assert "span-1 was there already" in out

    code, out = pushed.retrain(*WARM)
    assert code == 0, out
    assert re.search(r"ImageExampleGen +cached", out)
    assert re.search(r"StatisticsGen +cached", out)
    assert re.search(r"^  span-1 +done", out, re.MULTILINE)
    assert re.search(r"DriftGate +done", out)
    assert "step 20, training accuracy" in out
    assert "step 30" not in out
    first, report = pushed.reports()
    assert report["evaluation"]["examples"] == 500  # the same fixed test split
    assert report["evaluation"]["baseline_run"] == first["outcome"]["run"]  # and the stable version's figures on it
    assert report["evaluation"]["baseline_by_class"] == first["evaluation"]["by_class"]
    assert 30 < report["training"]["held_out"]["span-1"]["examples"] < 90
    assert {one["feature"] for one in report["drift"]} == {"label", "image_mean", "image_stddev"}
    first_line = next(line for line in out.splitlines() if line.startswith("step 0,"))
    assert float(re.search(r"held-out accuracy ([\d.]+)", first_line)[1]) > 0.4  # it did not start from nothing
    assert pushed.labels() == {"stable": 2, "canary": None, "previous": 1}

    before = content(pushed.home)
    for name in ("span-1/new-labels-idx1-ubyte", "train-labels-idx1-ubyte"):
        os.utime(pushed.data / name, (1, 1))  # times are no news
    code, out = pushed.retrain(*WARM)
    assert code == 4, out
    assert "nothing new" in out
    assert "2 (stable)" in out
    assert content(pushed.home) == before

    code, out = pushed("models", pushed.experiment, "--json")
    rows = json.loads(out)["models"]
    assert [(row["version"], row["state"], row["data"]) for row in rows] == [
        (1, "previous", "base"),
        (2, "stable", "base, span-1"),
    ]
    assert rows[0]["configuration"] != rows[1]["configuration"]
    assert rows[1]["accuracy"] == report["outcome"]["accuracy"]
    assert rows[1]["megabytes"] > 10

    code, out = pushed("lineage", pushed.experiment, "--json")
    assert code == 0, out
    found = {}

    def walk(origin):
        found.update({(origin["facts"].get("part"), name): digest for name, digest in origin["files"].items()})
        for one in origin["inputs"]:
            walk(one)

    walk(json.loads(out))
    checksums = subprocess.run(
        ["sha256sum", *(str(pushed.data / (part if part != "base" else "") / name) for part, name in found)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert [line.split()[0] for line in checksums.stdout.splitlines()] == list(found.values())
    assert {part for part, _ in found} == {"base", "span-1"}
    assert len(found) == 6

    def versions(origin):
        own = [origin["facts"]["pushed_version"]] if "pushed_version" in origin["facts"] else []
        return [*own, *(number for one in origin["inputs"] for number in versions(one))]

    assert versions(json.loads(out)) == [2, 1]  # the warm start began with version 1

    code, out = pushed.retrain(*WARM, "gate.min_accuracy=0.999")
    assert code == 3, out
    assert pushed.labels() == {"stable": 2, "canary": None, "previous": 1}
    assert pushed.retrain(*WARM, "gate.min_accuracy=0.999")[0] == 4  # a rejection is a verdict too
    code, out = pushed("models", "--json")
    assert [row["state"] for row in json.loads(out)["models"]] == ["previous", "stable", "rejected"]


def test_drift_beyond_its_limit_is_reported_or_stops(pushed, days, tmp_path):
    images, labels = read_idx(days[1], "new", 300)
    few = labels < 3
    write_idx(tmp_path / "skewed", "new", images[few], labels[few])
    assert pushed.add(tmp_path / "skewed")[0] == 0
    code, out = pushed.retrain("drift.stops=true")
    assert code == 5
    (_, run) = json.loads(pushed("runs", "--json")[1])["runs"]
    assert (run["state"], run["component"]) == ("drifted", "DriftGate")
    assert run["reason"].startswith("DriftGate failed: The new spans differ from the training data")
    assert "DriftGate failed: The new spans differ from the training data" in out
    assert re.search(r"label: L-infinity distance 0\.2\d+, above the limit of 0\.1", out)
    assert not re.search(r"Trainer +running", out)
    assert pushed.versions() == ["1"]
    shutil.rmtree(pushed.data / "span-1")
    assert pushed.retrain("drift.stops=true")[0] == 0  # only the settings are new


@pytest.fixture
def three(pushed):
    """A home folder with three versions, of which the third serves, and a server that follows the labels."""
    base = pushed.home / "serving" / "digits"
    for version in (2, 3):  # the same network under other numbers: what moves is what is tested here
        shutil.copytree(base / "1", base / str(version))
    (base / "labels.json").write_text(json.dumps({"stable": 3, "canary": None, "previous": 2}))
    with Serving(pushed.home, "--backend=embedded") as serving:
        yield pushed, serving


def answering(serving, label=None):
    from serving.client import Client

    with Client(serving.target, "digits", label=label) as client:
        return client.predict(np.zeros((1, 28, 28, 1), np.uint8)).version


def test_rollback_canary_and_promotion_move_a_running_server(three):
    conveyor, serving = three
    assert answering(serving) == 3
    code, out = conveyor("rollback", conveyor.experiment)
    assert code == 0, out
    assert "version 2 is stable in place of 3" in out
    assert f"{serving.target} answers with it" in out
    assert answering(serving) == answering(serving, "stable") == 2
    assert json.loads(serving.process.stdout.readline()) == {
        "model": "digits",
        "labels": {"stable": 2},
        "problem": "",
    }
    assert conveyor("rollback", conveyor.experiment, "--to", "1")[0] == 0
    assert answering(serving, "stable") == 1
    code, out = conveyor("rollback", conveyor.experiment, "--to", "7")
    assert code == 2
    assert "There is no version 7 of digits; there are 1, 2, 3" in out
    assert answering(serving, "stable") == 1

    code, out = conveyor("promote", conveyor.experiment)
    assert code == 2
    assert "has no canary" in out
    code, out = conveyor.run("training.steps=40", "serving.canary=true")
    assert code == 0, out
    assert conveyor.labels() == {"stable": 1, "canary": 4, "previous": 2}
    assert (answering(serving, "stable"), answering(serving, "canary")) == (1, 4)
    report = conveyor.reports()[-1]["outcome"]
    assert report["label"] == "canary"

    check = ("promote", conveyor.experiment, "--data", conveyor.data, "--check", "--images", "200", "--json")
    code, out = conveyor(*check, "--set", "gate.tolerance=0")
    assert code == 0, out
    told = json.loads(out[out.index("{") :])
    assert told["sides"]["stable"]["version"] == 1
    assert told["sides"]["canary"]["accuracy"] > told["sides"]["stable"]["accuracy"]
    assert told["sides"]["canary"]["errors"] == 0
    assert conveyor.labels() == {"stable": 4, "canary": None, "previous": 1}
    assert answering(serving) == 4

    labels = conveyor.home / "serving" / "digits" / "labels.json"
    labels.write_text(json.dumps({"stable": 4, "canary": 1, "previous": None}))  # a worse one on trial
    eventually(lambda: conveyor_answers(serving, "canary") == 1)
    code, out = conveyor(*check, "--set", "gate.tolerance=0")
    assert code == 3, out
    assert "Nothing was changed: the canary's accuracy 0." in out
    assert json.loads(labels.read_text())["stable"] == 4


def conveyor_answers(serving, label):
    from serving.client import ServingError

    try:
        return answering(serving, label)
    except ServingError:
        return None


def test_a_rollback_survives_restarts_and_is_what_the_next_model_has_to_beat(pushed):
    assert pushed.run("training.steps=60")[0] == 0
    better = pushed.reports()[-1]["outcome"]["accuracy"]
    assert pushed("rollback", pushed.experiment)[0] == 0
    assert pushed.labels()["stable"] == 1
    with Serving(pushed.home, "--backend=embedded") as serving:
        assert answering(serving) == 1
    assert pushed.retrain("training.steps=60")[0] == 4  # the model that was taken back is not pushed again
    code, out = pushed.retrain("training.steps=60", "serving.keep_versions=9")  # all of it comes from the cache
    assert code == 3, out
    assert "it is version 2 of digits, which was rolled back; `conveyor rollback digits --to 2` makes it stable" in out
    assert pushed.labels() == {"stable": 1, "canary": None, "previous": 2}
    code, out = pushed.retrain("training.steps=45")
    assert code == 0, out
    outcome = pushed.reports()[-1]["outcome"]
    assert outcome["baseline"] == pytest.approx(pushed.reports()[0]["outcome"]["accuracy"])
    assert outcome["baseline"] < better
    assert pushed.labels() == {"stable": 3, "canary": None, "previous": 1}


def test_gc_frees_what_no_kept_version_needs(pushed):
    for steps in (35, 40):
        assert pushed.run(f"training.steps={steps}", "gate.tolerance=1")[0] == 0
    assert pushed("rollback", pushed.experiment, "--to", "3")[0] == 0
    before = content(pushed.home)
    code, out = pushed("gc", "--keep", "1", "--json")
    shown = json.loads(out[out.index("{") : out.rindex("}") + 1])
    assert not shown["removed"]
    assert content(pushed.home) == before
    kinds = {row["kind"] for row in shown["folders"]}
    assert {"version", "artifact", "checkpoints"} <= kinds
    code, out = pushed("gc", "--keep", "1", "--yes")
    assert code == 0, out
    assert pushed.versions() == ["2", "3"]  # the newest, and the one before it, which has a label
    assert not any(Path(row["path"]).exists() for row in shown["folders"])
    assert pushed("gc", "--keep", "1")[1].count("There is nothing to remove") == 1
    assert pushed("lineage", pushed.experiment, "3")[0] == 0
    code, out = pushed.run("training.steps=40", "gate.tolerance=1")
    assert "up to date" in out


def test_stop_signal_in_training_writes_a_checkpoint_and_a_second_run_is_refused_at_once(conveyor):
    settings = ("training.steps=1000000",)  # it cannot end before the signal comes
    with conveyor.start(*conveyor.retrain_arguments(*settings)) as process:
        wait_for(process, "step 0,")
        code, out = conveyor.retrain(*settings)
        assert code == 1
        assert f"Another run (process {process.pid} on {socket.gethostname()}) is using" in out
        os.kill(process.pid, signal.SIGTERM)
        rest = process.stdout.read()
    assert process.returncode == 130, rest
    stopped = re.search(r"Stopped at step (\d+), with a checkpoint", rest)
    assert stopped, rest
    assert int(stopped[1]) > 0
    assert conveyor.states()[-1]["Trainer"] == "canceled"
    assert [run["state"] for run in json.loads(conveyor("runs", "--json")[1])["runs"]] == ["stopped"]
    with conveyor.start(*conveyor.retrain_arguments(*settings)) as process:
        wait_for(process, f"Continuing from the checkpoint at step {stopped[1]}.")
        wait_for(process, "step ")
        os.kill(process.pid, signal.SIGTERM)
        assert "Stopped at step" in process.stdout.read()
    assert process.returncode == 130


def test_stop_signal_lets_another_component_finish(conveyor):
    with conveyor.start(*conveyor.retrain_arguments()) as process:
        wait_for(process, "ImageExampleGen ")
        os.kill(process.pid, signal.SIGTERM)
        rest = process.stdout.read()
    assert process.returncode == 130, rest
    assert re.search(r"Stopped before \w+\. Run again to continue from there\.", rest)
    assert set(conveyor.states()[-1].values()) == {"done"}


def test_locked_and_damaged_metadata(pushed, days):
    database = pushed.home / "metadata.db"
    assert pushed.retrain("training.steps=10", "gate.min_accuracy=0")[0] in (0, 3)  # makes a copy first
    before = tree_digest(pushed.home / "serving")
    holder = sqlite3.connect(database)
    holder.execute("BEGIN EXCLUSIVE")
    code, out = pushed.retrain()
    holder.rollback()
    holder.close()
    assert code == 1
    assert "cannot be used: database is locked. Nothing was changed. Another process holds the file" in out

    whole = database.read_bytes()
    database.write_bytes(whole[:8192] + os.urandom(len(whole) - 8192))
    code, out = pushed.retrain()
    assert code == 1
    assert "is damaged" in out
    assert "`conveyor doctor --restore-metadata` returns to the copy metadata-" in out
    assert "Traceback" not in out
    assert tree_digest(pushed.home / "serving") == before
    code, out = pushed("doctor", "--restore-metadata")
    assert "The metadata are those of metadata-" in out
    assert len(list(pushed.home.glob("metadata.db.damaged-*"))) == 1

    assert pushed.add(days[0])[0] == 0
    code, out = pushed.retrain(*WARM)  # the copy is of before the last run: what that left is in the way
    assert code == 0, out
    assert re.search(r"Removed \d+ outputs of runs that ML Metadata knows nothing of", out)
    assert re.search(r"ImageExampleGen +cached", out)
    assert not any("running" in states.values() for states in pushed.states())


def test_a_served_version_deleted_by_hand(pushed):
    with Serving(pushed.home, "--backend=embedded") as serving:
        assert answering(serving) == 1
        shutil.rmtree(pushed.home / "serving" / "digits" / "1")
        assert answering(serving) == 1  # from memory
        code, out = pushed.retrain()
        assert code == 0, out
        assert re.search(r"Trainer +cached", out)
        assert pushed.versions() == ["2"]  # a number is never given twice
        assert answering(serving) == answering(serving, "stable") == 2
    assert pushed.labels()["stable"] == 2


@pytest.mark.skipif(not shutil.which("faketime"), reason="needs faketime")
def test_a_clock_that_was_set_back(pushed, days):
    assert pushed.add(days[0])[0] == 0
    command = ["faketime", "-f", "-2d", *COMMAND, *map(str, pushed.retrain_arguments(*WARM))]
    environment = os.environ | {"CONVEYOR_HOME": str(pushed.home), "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert pushed.versions() == ["1", "2"]
    assert pushed.labels() == {"stable": 2, "canary": None, "previous": 1}
    runs = json.loads(pushed("runs", "--json")[1])["runs"]
    assert runs[0]["started"] > runs[1]["started"]
    assert [row["version"] for row in runs] == [1, 2]
    assert pushed.retrain(*WARM)[0] == 4  # the last run is the last one made
