"""A network of a user's own, from `conveyor new` to a served answer, and one that no server could serve."""

import json
import os
import subprocess

import pytest

from tests.end_to_end.conftest import COMMAND
from tests.end_to_end.test_serve import Serving
from tests.pictures import draw_classes
from tests.serving.server_process import ROOT

BLOCKS = """
from keras import layers


def squeezed(inputs, width):
    outputs = layers.Conv2D(width, 3, padding="same", activation="relu")(inputs)
    return layers.BatchNormalization(momentum=0.8)(outputs)
"""
UNSERVABLE = """

class Random(__import__("keras").layers.Layer):
    def __init__(self):
        super().__init__()
        import keras

        self.seeds = keras.random.SeedGenerator()

    def call(self, inputs):
        import keras

        return inputs + keras.random.normal(keras.ops.shape(inputs), dtype=inputs.dtype, seed=self.seeds)
"""


@pytest.fixture
def conveyor(tmp_path):
    environment = os.environ | {"CONVEYOR_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}

    def run(*arguments):
        command = [*COMMAND, *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return run


def test_a_network_of_ones_own_from_new_to_an_answer(conveyor, tmp_path):
    draw_classes(tmp_path / "flowers", {"daisy": 60, "rose": 60, "tulip": 60}, (12, 12))
    done = conveyor("new", "flowers")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "Run it with: conveyor run flowers.py --data flowers"
    file = tmp_path / "flowers.py"
    (tmp_path / "blocks.py").write_text(BLOCKS)
    stem = "    outputs = layers.ReLU()(convolution(outputs, width))\n"
    assert stem in file.read_text()
    file.write_text(
        file.read_text()
        .replace(stem, "    outputs = blocks.squeezed(outputs, width)\n")
        .replace("    from keras import layers\n", "    from keras import layers\n    import blocks\n")
    )

    run = ("run", "flowers.py", "--data", "flowers", "--set", "training.steps=40", "--set", "network.width=4")
    done = conveyor(*run)
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = (tmp_path / "home" / "reports").glob("*.json")
    network = json.loads(record.read_text())["experiment"]["network"]
    assert (network["build"], network["parameters"]["width"]) == ("flowers.build", 4)
    (copied,) = (tmp_path / "home" / "artifacts").glob("flowers/Trainer/model_run/*/network/blocks.py")
    assert copied.read_text() == BLOCKS

    done = conveyor("lineage", "flowers")
    assert "network flowers.build(dropout=0.2, learning_rate=0.002, shift=0.1, width=4), network_digest" in done.stdout
    assert network["digest"] in done.stdout
    assert "up to date" in conveyor(*run).stdout
    (tmp_path / "blocks.py").write_text(BLOCKS.replace("relu", "silu"))
    done = conveyor(*run, "--set", "gate.tolerance=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "  Trainer              done" in done.stdout  # the code of a module beside the file counts

    with Serving(tmp_path / "home", "flowers", "--backend=embedded") as serving:
        picture = tmp_path / "flowers" / "tulip" / "0001.png"
        done = conveyor("predict", "flowers", picture, "--target", serving.target, "--json")
        (prediction,) = json.loads(done.stdout)["predictions"]
    assert prediction["version"] == 2


def test_what_cannot_be_trained_or_served_is_refused_before_the_work(conveyor, tmp_path):
    draw_classes(tmp_path / "flowers", {"daisy": 20, "rose": 20}, (8, 8))
    assert conveyor("new", "flowers").returncode == 0
    file = tmp_path / "flowers.py"
    written = file.read_text()
    run = ("run", "flowers.py", "--data", "flowers")

    file.write_text(written.replace("layers.Dense(classes)", "layers.Dense(classes + 1)"))
    done = conveyor(*run)
    assert done.returncode == 2
    assert "The model of build in flowers.py returns (2, 3) for 2 images; it must return logits" in done.stderr
    assert "ImageExampleGen" not in done.stdout

    file.write_text(
        written.replace("EXPERIMENT =", UNSERVABLE.strip() + "\n\n\nEXPERIMENT =").replace(
            "layers.Dense(classes)(outputs)", "Random()(layers.Dense(classes)(outputs))"
        )
    )
    for steps in (30, 1_000_000):  # which is proved at its end, and after its first step
        done = conveyor(*run, "--set", f"training.steps={steps}")
        assert done.returncode == 1, done.stdout + done.stderr
        assert "Trainer failed: The network cannot be served: " in done.stderr
