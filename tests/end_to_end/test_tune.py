"""A search for settings, stopped and gone on with; its winner in three formats; how robust that is."""

import json
import signal
import time

import pytest

from components.network_tuner import trials

RANGES = '{"network.learning_rate": {"values": [0.0001, 0.003]}, "training.batch_size": {"values": [20, 60]}}'
SETTINGS = (f"tuning.ranges={RANGES}", "training.steps=40")


def tune(conveyor, count, *options):
    _, *arguments = conveyor.run_arguments(*SETTINGS)
    return ["tune", *arguments, "--trials", str(count), *options]


def found(conveyor):
    (folder,) = [path for path in (conveyor.home / "tuning" / "digits").iterdir() if path.is_dir()]
    return trials.read(folder)


@pytest.fixture
def searched(conveyor):
    """A home whose search was stopped in its second trial, and went on to its end."""
    with conveyor.start(*tune(conveyor, 3)) as process:
        while not list(conveyor.home.glob("tuning/digits/*/trial_1/checkpoints/checkpoint")):
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        out = process.stdout.read()
    assert process.returncode == 130, out
    assert len(found(conveyor)) == 1
    code, out = conveyor(*tune(conveyor, 3))
    assert code == 0, out
    return conveyor


def test_a_search_goes_on_after_a_stop_and_its_winner_is_run(searched):
    conveyor = searched
    first, second, third = found(conveyor)
    (output,) = conveyor.home.glob("tuning/digits/*/trial_1/output.txt")
    assert "Continuing from the checkpoint at step" in output.read_text()
    assert len({tuple(trial.settings.items()) for trial in (first, second, third)}) == 3
    best = max((first, second, third), key=lambda trial: trial.accuracy)

    code, out = conveyor(*tune(conveyor, 3, "--json"))
    assert code == 0, out
    answer = json.loads(out[out.index("{\n") :])
    assert answer["trials"][0]["settings"] == best.settings
    assert "digits: 3 trials" in (conveyor.home / "reports" / f"{answer['run']}.html").read_text()
    assert conveyor.states()[-1] == {"ImageExampleGen": "cached", "Tuner": "done"}
    assert [trial.seconds for trial in found(conveyor)] == [t.seconds for t in (first, second, third)]  # none anew
    assert conveyor("runs", "digits")[1].count("tuned") == 2  # the first one was stopped

    formats = 'serving.formats=["tflite_float16","tflite_int8"]'
    code, out = conveyor(*conveyor.run_arguments("training.steps=40", formats), "--best")
    assert code == 0, out
    assert f"best of 3 trials, with a held-out accuracy of {best.accuracy:.4f}: {' '.join(best.assignments)}" in out
    assert "--best         held for this run alone; to keep it: conveyor set digits" in out
    *_, report = conveyor.reports()
    for name, value in best.settings.items():
        part, field = name.split(".")
        settings = report["experiment"][part]
        assert (settings["parameters"] if part == "network" else settings)[field] == value
    accuracies = {row["format"]: row["accuracy"] for row in report["formats"]}
    assert set(accuracies) == {"saved_model", "tflite_float16", "tflite_int8"}
    held_out = report["training"]
    assert held_out["steps"] == 40

    version = conveyor.home / "serving" / "digits" / "1"
    assert {path.name for path in (version / "assets.extra" / "tflite").iterdir()} >= {"float16.tflite", "int8.tflite"}
    code, out = conveyor("evaluate", conveyor.experiment, "--format", "tflite_int8", "--json")
    assert code == 0, out
    assert json.loads(out[out.index("{\n") :])["accuracy"] == pytest.approx(accuracies["tflite_int8"])
    code, out = conveyor("evaluate", conveyor.experiment, "--robustness", "--json")
    assert code == 0, out
    answer = json.loads(out[out.index("{\n") :])
    plain, mirrored, *_ = answer["robustness"]
    assert plain["accuracy"] == answer["accuracy"] == pytest.approx(accuracies["saved_model"])
    assert mirrored["accuracy"] < plain["accuracy"]
    assert answer["report"] == str(conveyor.home / "reports" / "digits-1-robustness.html")


COARSE = """
import dataclasses

import keras

from conveyor import Network, Serving
from digits import EXPERIMENT as DIGITS
from pipeline.experiments.built_in import mnist_tutorial


def build(shape, classes, learning_rate: float = 1e-3):
    network = mnist_tutorial.build(shape, classes, learning_rate=learning_rate)
    inputs = keras.Input(shape)
    # The same for all classes: nothing to a softmax of floats, and all that eight bits can hold.
    model = keras.Model(inputs, keras.layers.Rescaling(1.0, offset=10_000.0)(network(inputs)))
    model.compile(keras.optimizers.Adam(learning_rate), network.loss)
    return model


EXPERIMENT = dataclasses.replace(DIGITS, network=Network(build))
"""


def test_a_format_that_is_not_accurate_enough_keeps_the_model_from_being_pushed(pushed):
    file = pushed.folder / "coarse.py"
    file.write_text(COARSE)
    arguments = ["run", file, "--data", pushed.data, "--set", "gate.tolerance=0.2", "--set"]
    code, out = pushed(*arguments, 'serving.formats=["tflite_float16", "tflite_int8"]')
    assert code == 3, out
    (reason,) = pushed.reports()[-1]["outcome"]["reasons"]
    assert reason.startswith("tflite_int8: test accuracy")
    assert reason in out.replace("\n", " ")
    assert pushed.versions() == ["1"]
    code, out = pushed(*arguments, 'serving.formats=["tflite_float16"]')
    assert code == 0, out
    assert (pushed.home / "serving" / "digits" / "2" / "assets.extra" / "tflite" / "float16.tflite").exists()
