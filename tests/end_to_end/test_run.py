"""The whole pipeline on real images, with few steps."""

import json
import os
import re
import shutil
import signal
import socket
import time

import numpy as np
import PIL.Image
import pytest

from tests.digits import read_idx, write_idx

COMPONENTS = {
    "ImageExampleGen",
    "ScalarStatisticsGen",
    "DatasetSchemaGen",
    "ExampleValidator",
    "AnomalyGate",
    "Trainer",
    "Evaluator",
    "ServabilityCheck",
    "AtomicPusher",
}


def test_a_first_run_is_pushed_and_reported(pushed):
    assert pushed.versions() == ["1"]
    assert set(pushed.states()[0]) >= COMPONENTS
    report = pushed.reports()[0]
    assert report["outcome"]["verdict"] == "pushed"
    assert report["outcome"]["baseline"] is None
    assert report["evaluation"]["examples"] == 500
    assert max(report["servability"]["differences"].values()) < 1e-4

    page = (pushed.home / "reports" / f"{report['outcome']['run']}.html").read_text()
    assert f"{100 * report['outcome']['accuracy']:.2f} %" in page
    assert page.count("<svg") == 5
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)  # opens without a network


def test_a_second_run_finds_all_up_to_date(pushed):
    code, out = pushed.run()
    assert code == 0
    assert "up to date" in out
    assert "1 (stable)" in out
    assert len(pushed.states()) == 1  # nothing ran


def test_exactly_the_floor_is_enough_and_the_same_model_is_not_pushed_twice(pushed):
    accuracy = round(500 * pushed.reports()[0]["outcome"]["accuracy"]) / 500
    code, out = pushed.run(f"gate.min_accuracy={accuracy}")
    assert code == 0, out
    assert pushed.versions() == ["1"]
    code, out = pushed.run(f"gate.min_accuracy={accuracy + 0.002:.3f}")
    assert code == 3, out


def test_a_better_model_is_pushed_and_weaker_ones_are_rejected(pushed):
    code, out = pushed.run("training.steps=60")
    assert code == 0, out
    assert re.search(r"ImageExampleGen +cached", out)
    assert re.search(r"Trainer +done", out)
    assert "step 60, training accuracy" in out
    assert pushed.versions() == ["1", "2"]
    first, second = (report["outcome"] for report in pushed.reports())
    assert second["baseline"] == pytest.approx(first["accuracy"])

    code, out = pushed.run("training.steps=60", "gate.min_accuracy=0.99", "gate.min_class_accuracy=0.98")
    assert code == 3
    assert re.search(r"test accuracy 0\.\d+ is below the floor of 0\.99", out)
    assert re.search(r"class \d: test accuracy 0\.\d+ is below the floor of 0\.98 for a class", out)
    assert re.search(r"Trainer +cached", out)
    assert pushed.versions() == ["1", "2"]

    code, out = pushed.run("training.steps=10")
    assert code == 3
    assert re.search(r"below the 0\.\d+ of the stable version by more than the tolerance of 0\.05", out)
    assert pushed.versions() == ["1", "2"]

    code, out = pushed("runs", "--json")
    rows = json.loads(out)["runs"]
    assert [row["state"] for row in rows] == ["pushed", "pushed", "rejected", "rejected"]
    assert [row["version"] for row in rows] == [1, 2, None, None]
    code, out = pushed("models", "--json")
    listed = [(row["model"], row["version"], row["state"]) for row in json.loads(out)["models"]]
    assert listed[:2] == [("digits", 1, "previous"), ("digits", 2, "stable")]
    assert listed[2:] == [("digits", None, "rejected")] * 2

    sixty = ("--set", "training.steps=60")
    code, out = pushed("evaluate", pushed.experiment, "--checkpoint", *sixty)
    assert code == 0, out
    assert f"checkpoint at step 60: test accuracy {rows[1]['accuracy']:.4f} on 500 images" in out
    for asked, label in ((), "version 2 (stable)"), (("--version", "1"), "version 1 (previous)"):
        code, out = pushed("evaluate", pushed.experiment, *asked)
        accuracy = rows[1 if "2" in label else 0]["accuracy"]
        assert f"{label}: test accuracy {accuracy:.4f} on 500 images" in out
    code, out = pushed("evaluate", pushed.experiment, "--checkpoint", "--set", "training.steps=61")
    assert code == 2
    assert "There is no checkpoint of digits with these settings, data and code" in out
    shutil.rmtree(pushed.home / "checkpoints")
    code, out = pushed("evaluate", pushed.experiment, "--checkpoint", *sixty)
    assert code == 2
    assert "There is no checkpoint of digits in" in out


def wait_for(process, text):
    """Reads what a process prints up to a line that holds some text, and returns it all."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError(f"{text!r} was never printed:\n{''.join(lines)}")


def test_killed_in_the_trainer_and_run_again_is_as_if_never_killed(conveyor, tmp_path):
    settings = ("training.steps=120", "training.precision=float32")
    with conveyor.start(*conveyor.run_arguments(*settings)) as process:
        wait_for(process, "step 40,")
        os.kill(process.pid, signal.SIGKILL)
    assert conveyor.states()[-1]["Trainer"] == "running"  # as a killed process leaves it
    time.sleep(1)  # its trainer ends by itself

    code, out = conveyor.run(*settings)
    assert code == 0, out
    assert "An earlier run was stopped in Trainer" in out
    continued = re.search(r"Continuing from the checkpoint at step (\d+)\.", out)
    assert continued
    assert int(continued[1]) >= 30
    assert conveyor.states()[0]["Trainer"] == "canceled"
    report = conveyor.reports()[-1]
    assert report["training"]["resumed_from"] == int(continued[1])

    conveyor.home = tmp_path / "another"
    code, _ = conveyor.run(*settings)
    assert code == 0
    whole = conveyor.reports()[-1]
    assert whole["training"]["resumed_from"] == 0
    assert whole["evaluation"]["by_class"] == report["evaluation"]["by_class"]


def test_second_run_at_once_is_told_so_and_a_dead_ones_lock_is_no_obstacle(conveyor):
    with conveyor.start(*conveyor.run_arguments()) as first:
        wait_for(first, "DatasetSchemaGen")
        code, out = conveyor.run()
        assert code == 1
        assert f"Another run (process {first.pid} on {socket.gethostname()}) is using {conveyor.home}" in out
        os.kill(first.pid, signal.SIGKILL)
    code, out = conveyor.run("gate.min_accuracy=1")
    assert code == 3, out


@pytest.fixture
def own_data(conveyor, tmp_path):
    """A copy of the digits that a test may damage."""
    shutil.copytree(conveyor.data, tmp_path / "data")
    conveyor.data = tmp_path / "data"
    return conveyor.data


def test_corrupt_file_and_missing_class_stop_before_training(conveyor, own_data):
    labels = own_data / "train-labels-idx1-ubyte"
    content = labels.read_bytes()
    labels.write_bytes(content[:1000] + b"\x63" + content[1001:])
    code, out = conveyor.run()
    assert code == 1
    assert "ImageExampleGen failed:" in out
    assert f"{labels} at byte 1000: expected a label from 0 to 9, found 99." in out

    labels.write_bytes(content[:-7])
    code, out = conveyor.run()
    assert code == 1
    assert "at byte 2001: expected 2008 bytes, 2000 labels as its header says, found 2001 bytes." in out

    images, digits = read_idx(conveyor.data, "t10k", 500)
    labels.write_bytes(content)
    write_idx(own_data, "t10k", images[digits != 7], digits[digits != 7])
    code, out = conveyor.run()
    assert code == 1
    assert "AnomalyGate failed: The data has anomalies" in out
    assert "split test has images of too few classes" in out
    assert not re.search(r"Trainer +running", out)
    assert "Traceback" not in out
    page = sorted((conveyor.home / "reports").glob("*.html"))[-1].read_text()
    assert "The data has anomalies" in page


def test_loss_that_is_no_number_fails_the_run_and_the_old_version_stays(conveyor):
    assert conveyor.run()[0] == 0
    code, out = conveyor.run("network.learning_rate=3e38", "training.precision=float32")
    assert code == 1
    assert "Trainer failed: Training diverged: the loss was nan" in out
    assert conveyor.versions() == ["1"]
    assert "Traceback" not in out


def test_folders_of_pictures(conveyor, tmp_path):
    """A user's own data: class folders of PNG files of another size, without splits."""
    images, labels = read_idx(conveyor.data, "train", 1600)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = tmp_path / ("pictures" if number < 1500 else "more") / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        picture = PIL.Image.fromarray(image).resize((35, 42))
        picture.convert("RGB").save(folder / f"{number}.{'jpg' if number % 5 == 0 else 'png'}")
    conveyor.data = tmp_path / "pictures"
    settings = ('dataset.splits={"files": "*/*"}', "dataset.format=folders", "training.steps=60")
    code, out = conveyor.run(*settings)
    assert code == 0, out
    report = conveyor.reports()[-1]
    assert 100 < report["evaluation"]["examples"] < 200
    assert report["outcome"]["accuracy"] > 0.6

    sets = [part for setting in settings for part in ("--set", setting)]
    code, out = conveyor.add(tmp_path / "more", *sets)
    assert code == 0, out
    code, out = conveyor.retrain(*settings, "gate.tolerance=1")
    assert code == 0, out
    assert re.search(r"ImageExampleGen +cached", out)
    assert re.search(r"^  span-1 +done", out, re.MULTILINE)


@pytest.mark.usefixtures("cifar10")
def test_cifar10_for_a_few_steps(conveyor, data):
    conveyor.home.mkdir()
    (conveyor.home / "data").symlink_to(data)
    small = [
        "training.steps=4",
        "training.log_every=2",
        "training.checkpoint_every=2",
        "gate.min_accuracy=0.01",
        "serving.check_examples=64",
    ]
    code, out = conveyor("run", "cifar10", "--json", *[part for setting in small for part in ("--set", setting)])
    assert code == 0, out
    assert re.search(r"step 4, training accuracy 0\.\d+, loss", out)
    outcome = json.loads(out[out.index("\n{") :])
    assert outcome["verdict"] == "pushed"
    assert outcome["exit_code"] == 0
    examples = next((conveyor.home / "artifacts" / "cifar10" / "ImageExampleGen" / "examples").iterdir())
    assert sorted(path.name for path in examples.iterdir()) == ["Split-test", "Split-train", "index", "test_sources"]
    scores = next((conveyor.home / "artifacts" / "cifar10" / "Trainer" / "model_run").glob("*/test_scores.npy"))
    assert np.load(scores, allow_pickle=False).shape == (10_000, 10)

    warm = [*small, "training.warm_steps=2", "gate.tolerance=1"]
    code, out = conveyor("retrain", "cifar10", *[part for setting in warm for part in ("--set", setting)])
    assert code == 0, out
    assert conveyor.reports()[-1]["warm_start"] == 1
