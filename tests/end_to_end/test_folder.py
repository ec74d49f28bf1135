"""A folder of pictures, from `conveyor run --data` to a served answer."""

import json
import os
import subprocess

import pytest

from tests.end_to_end.conftest import COMMAND
from tests.end_to_end.test_serve import Serving
from tests.pictures import draw_classes
from tests.serving.server_process import ROOT

COUNTS = {"daisy": 60, "rose": 60, "tulip": 60}


@pytest.fixture
def conveyor(tmp_path):
    environment = os.environ | {"CONVEYOR_HOME": str(tmp_path / "home")}

    def run(*arguments):
        command = [*COMMAND, *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    return run


def test_a_folder_of_pictures_becomes_a_served_model(conveyor, tmp_path):
    folder = draw_classes(tmp_path / "flowers", COUNTS, (12, 12))
    done = conveyor("run", "--data", folder, "--set", "training.steps=30")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        "flowers: 3 classes (daisy, rose, tulip); pictures become 12 x 12 x 3 (pad); a hash holds out 17 % for eval "
        "and 17 % for test; 30 steps of 33; pushed from an accuracy of 40 % on."
    ) in done.stdout.replace("\n", " ")
    (report,) = (tmp_path / "home" / "reports").glob("*.json")
    measured = json.loads(report.read_text())["metrics"]
    assert [row["name"] for row in measured["by_class"]] == list(COUNTS)
    assert sum(bin_["images"] for bin_ in measured["calibration"]) == measured["macro"]["images"] > 5
    assert measured["log_loss"] > 0

    done = conveyor("add", "flowers", draw_classes(tmp_path / "monday", {"rose": 9}, (14, 14)))
    assert done.returncode == 0, done.stderr
    assert "9 images (daisy 0, rose 9, tulip 0)" in done.stdout
    done = conveyor("set", "flowers", "training.warm_steps=2", "gate.tolerance=1")
    assert done.returncode == 0
    done = conveyor("retrain", "flowers", "--set", "gate.min_accuracy=0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(conveyor("models", "flowers", "--json").stdout)["models"][-1]["data"] == "base, span-1"
    done = conveyor("evaluate", "flowers")
    assert "version 2 (stable): test accuracy" in done.stdout

    (folder / "rose" / "0000.png").write_text("no picture")
    done = conveyor("check", "flowers")
    assert done.returncode == 1
    assert f"{folder / 'rose' / '0000.png'}: expected a whole picture: PNG" in done.stderr
    with Serving(tmp_path / "home", "flowers", "--backend=embedded") as serving:
        done = conveyor("predict", "flowers", folder / "tulip" / "0001.png", "--target", serving.target, "--json")
        assert json.loads(done.stdout)["predictions"][0]["version"] == 2


def test_large_pictures_stay_encoded_and_train_the_same(conveyor, tmp_path):
    folder = draw_classes(tmp_path / "flowers", COUNTS, (40, 30))
    run = ("run", "--data", folder, "--set", "training.steps=20", "--set", "gate.min_accuracy=0")
    done = conveyor(*run, "--set", "training.precision=float32")
    assert done.returncode == 0, done.stdout + done.stderr
    encoded = (*run, "--set", "training.precision=float32", "--set", "dataset.keep_encoded=true")
    done = conveyor(*encoded)
    assert done.returncode == 2
    assert "dataset.keep_encoded was false for the stable version 1 of flowers" in done.stderr
    done = conveyor(*encoded, "--set", "serving.model_name=files")
    assert done.returncode == 0, done.stdout + done.stderr
    pixels, files = (json.loads(path.read_text()) for path in sorted((tmp_path / "home" / "reports").glob("*.json")))
    assert files["metrics"] == pixels["metrics"]
    assert files["outcome"]["version"] == 1
    assert files["servability"]["ok"]


def test_mistakes_name_their_file(conveyor, tmp_path):
    folder = tmp_path / "split"
    draw_classes(folder / "train", {"a": 40, "b": 40}, (8, 8))
    draw_classes(folder / "test", {"b": 6, "a": 6}, (8, 8))  # each drawn as the other was
    done = conveyor("run", "--data", folder, "--set", "training.steps=60", "--set", "gate.min_accuracy=0")
    assert done.returncode == 0, done.stdout + done.stderr
    (page,) = (tmp_path / "home" / "reports").glob("*.html")
    assert "<br>test/a/0000.png</span>" in page.read_text()
