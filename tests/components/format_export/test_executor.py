"""Which formats are accurate enough, and what the converter makes of a trained network."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from components.format_export.executor import SAVED_MODEL, ConversionFailed, Limits, convert, shortfalls
from components.image_example_gen.executor import serialize
from conveyor.settings import to_json
from pipeline.experiments import load
from pipeline.experiments.network import copy_code
from serving.tflite import FLOAT16, INT8, LiteModel, file_of
from trainer import export, loop, networks
from trainer.examples import Split
from trainer.settings import SPEC, TrainingSpec


def measured(name, correct, examples=1000):
    return {"format": name, "correct": correct, "examples": examples, "accuracy": correct / examples}


@pytest.mark.parametrize(
    ("int8", "reasons"),
    [
        (975, []),  # as many as the floor, and fewer by just the tolerance
        (974, ["tflite_int8: test accuracy 0.9740 is below the floor of 0.975"]),
        (980, []),
    ],
)
def test_a_format_must_reach_the_floor(int8, reasons):
    rows = [measured(SAVED_MODEL, 980), measured(INT8, int8)]
    assert shortfalls(rows, Limits(0.975, 0.005)) == reasons


def test_a_format_may_lie_below_the_saved_model_by_the_tolerance():
    limits = Limits(min_accuracy=0.5, tolerance=0.003)  # 0.003 * 1000 is 3, and in floats less
    rows = [measured(SAVED_MODEL, 980), measured(FLOAT16, 977), measured(INT8, 976)]
    assert shortfalls(rows, limits) == [
        "tflite_int8: test accuracy 0.9760 is below the 0.9800 of the SavedModel by more than the tolerance of 0.003"
    ]


def test_the_saved_model_is_not_judged_here():
    assert shortfalls([measured(SAVED_MODEL, 1), measured(INT8, 1)], Limits(0.0, 0.0)) == []


def write_examples(folder, images, labels):
    folder.mkdir(parents=True)
    with tf.io.TFRecordWriter(str(folder / "data")) as writer:
        for record in serialize(images, labels):
            writer.write(record.content)


def exported(folder, network_settings, job, digits, network):
    """Writes a model, the trainer's other outputs, and examples, as a run leaves them."""
    write_examples(folder / "examples" / "Split-train", digits.images[:100], digits.labels[:100])
    write_examples(folder / "examples" / "Split-test", digits.images[100:300], digits.labels[100:300])
    (folder / "run").mkdir()
    made = export.save(network, job, folder / "model", folder / "run")
    np.save(folder / "run" / "test_scores.npy", loop.predictor(made, job.shape)(digits.images[100:300]))
    copy_code(network_settings, folder / "run" / "network")
    paths = {name: str(folder / name) for name in ("examples", "checkpoints", "model", "run")}
    gone = dataclasses.replace(job, network=dataclasses.replace(job.network, folder="/a/home/that/was/moved"))
    (folder / "run" / SPEC).write_text(to_json(TrainingSpec(job=gone, train=(), spans={}, initial=None, **paths)))
    return made


@pytest.mark.slow
def test_a_network_becomes_files_that_answer_as_it_does(tmp_path, digits):
    experiment = load("mnist")
    job = experiment.training_job()
    job = dataclasses.replace(job, training=dataclasses.replace(job.training, steps=40, log_every=40))
    from trainer import devices

    digits = Split(digits.images // 8, digits.labels)  # no pixel is white
    trained = loop.train(job, devices.choose("float32"), digits, None, tmp_path / "c", tmp_path / "l", print).model
    network = exported(tmp_path, experiment.network, job, digits, trained)
    folders = (tmp_path / "model", tmp_path / "run", tmp_path / "examples")
    rows = convert(*folders, [FLOAT16, INT8], tmp_path / "files")

    assert [row["format"] for row in rows] == [SAVED_MODEL, FLOAT16, INT8]
    images, labels = digits.images[100:300], digits.labels[100:300]
    scores = loop.predictor(network, job.shape)(images)
    for row, largest in zip(rows[1:], (0.01, 0.2), strict=True):
        lite = LiteModel(tmp_path / "files" / file_of(row["format"]).name)
        answers = lite.scores(images)
        assert np.abs(answers - scores).max() < largest
        assert row["correct"] == np.count_nonzero(answers.argmax(axis=1) == labels)
        assert (row["examples"], row["accuracy"]) == (200, row["correct"] / 200)
        assert row["milliseconds"] > 0
        assert lite._input["quantization"] in ((0.0, 0), (1.0, 0)), "pixels are taken as they are"
    assert rows[0]["correct"] == np.count_nonzero(scores.argmax(axis=1) == labels)
    weights = 4 * network.count_params()
    assert rows[1]["bytes"] == pytest.approx(weights / 2, rel=0.02)
    assert rows[2]["bytes"] == pytest.approx(weights / 4, rel=0.02)


UNCONVERTIBLE = """
import keras


class Median(keras.layers.Layer):
    def call(self, inputs):
        import tensorflow as tf

        return tf.linalg.logdet(inputs[:, :2, :2, 0])[:, None] + keras.ops.zeros((1, 10))


def build(shape, classes):
    inputs = keras.Input(shape)
    outputs = keras.layers.Dense(classes)(keras.layers.Flatten()(inputs))
    return keras.Model(inputs, outputs + Median()(inputs))
"""


@pytest.mark.slow
def test_what_cannot_be_converted_is_told_of(tmp_path, digits):
    from conveyor import modules
    from pipeline.experiments.network import Network

    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "odd.py").write_text(UNCONVERTIBLE)
    with modules.importable(tmp_path / "code"):
        settings = Network(modules.import_file(tmp_path / "code", "odd").build)
        job = dataclasses.replace(load("mnist").training_job(), network=settings.source)
        exported(tmp_path, settings, job, digits, networks.build(job, "float32"))
    folders = (tmp_path / "model", tmp_path / "run", tmp_path / "examples")
    with pytest.raises(ConversionFailed, match=r"cannot be converted to tflite_int8: .* no Cholesky, .*\. Without"):
        convert(*folders, [INT8], tmp_path / "files")
