import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from ml_metadata.proto import metadata_store_pb2

from pipeline.experiments import load
from pipeline.home import metadata_store
from pipeline.home.folders import Home
from pipeline.home.provenance import PartDigest, Provenance
from pipeline.report import gate_decisions
from pipeline.report.gate_decisions import Evaluation, Measured, _reasons, measured_before
from serving.model_store.records import RECORD
from tests.serving import models


def evaluation(now, before):
    return Evaluation(0.9, 10, now, 0.9 if before else None, before, None, [])


@pytest.mark.parametrize(
    ("now", "before", "sentence"),
    [
        ([0.9, 0.839], [0.9, 0.9], "class dog fell from 90.00 % to 83.90 %"),
        ([0.8, 0.839], [0.9, 0.9], "class cat fell from 90.00 % to 80.00 %; 1 more fell by less"),
        ([0.9, 0.95], [0.9, 0.9], None),
        ([0.9, 0.1], [], None),
        ([float("nan"), 0.9], [float("nan"), 0.9], None),
    ],
)
def test_the_class_that_fell_most_is_told_of(now, before, sentence):
    assert evaluation(now, before).largest_decline(["cat", "dog"]) == sentence


@pytest.mark.parametrize(
    ("label", "accuracy", "before", "sentences"),
    [
        (None, 0.974, None, ["test accuracy 0.9740 is below the floor of 0.975"]),
        (
            None,
            0.98,
            0.99,
            ["test accuracy 0.9800 is below the 0.9900 of the stable version by more than the tolerance of 0.005"],
        ),
        (
            7,
            0.4,
            0.9,
            [
                "class 7: test accuracy 0.4000 is below the floor of 0.5 for a class",
                "class 7: test accuracy 0.4000 is below the 0.9000 of the stable version by more than the tolerance of "
                "0.03 for a class",
            ],
        ),
        (None, float(np.float32(0.975)), float(np.float32(0.98)), []),  # both limits, as float32 has them
    ],
)
def test_every_limit_has_its_sentence(label, accuracy, before, sentences):
    mnist = load("mnist")
    gate = dataclasses.replace(mnist.gate, min_class_accuracy=0.5, class_tolerance=0.03)
    assert _reasons(dataclasses.replace(mnist, gate=gate), label, accuracy, before) == sentences


@pytest.fixture
def pushed(tmp_path, monkeypatch):
    """A home with a version, whose run measured 0.9, and the provenance of the next model."""
    home, experiment = Home(tmp_path / "home"), load("mnist")
    provenance = Provenance(experiment, (PartDigest("base", "d", True),), None, "t", "p")
    trained = Path(artifact(home, "Trainer").uri)
    models.network(trained / "Format-Serving")
    home.models.model("mnist").push(trained / "Format-Serving", provenance.version_record("r1"))
    Path(artifact(home, "Evaluator").uri).mkdir(parents=True)
    run = SimpleNamespace(output=lambda component, _: artifact(home, component))
    monkeypatch.setattr(metadata_store, "run_by_id", lambda _, run_id: {"r1": run}[run_id])
    monkeypatch.setattr(gate_decisions.tfma, "load_eval_result", lambda *_: result(range(10)))
    return home, provenance


def result(labels):
    """What TFMA has measured of a whole split of 100 images, and of some classes of 10."""
    values = {"sparse_categorical_accuracy": {"doubleValue": 0.9}}
    slices = [((), 100.0), *(((("label", label),), 10.0) for label in labels)]
    return SimpleNamespace(
        slicing_metrics=[(key, {"": {"": values | {"example_count": {"doubleValue": count}}}}) for key, count in slices]
    )


def test_what_was_measured_of_the_stable_version_holds(pushed):
    assert measured_before(None, *pushed, 1) == Measured("r1", 0.9, [0.9] * 10)


@pytest.mark.parametrize(
    "changes",
    [
        {"pipeline_digest": "other code"},
        {"parts": (PartDigest("base", "other files", True),)},
        {"experiment": dataclasses.replace(load("mnist"), dataset=load("cifar10").dataset)},
    ],
    ids=["code", "files", "settings"],
)
def test_what_may_be_another_is_measured_again(pushed, changes):
    home, provenance = pushed
    assert measured_before(None, home, dataclasses.replace(provenance, **changes), 1) is None


def test_what_is_lost_is_measured_again(pushed, monkeypatch, tmp_path):
    home, _ = pushed
    shutil.copytree(home.models.model("mnist").path(1), home.models.model("mnist").path(7))
    (home.models.model("mnist").path(7) / RECORD).unlink()
    assert measured_before(None, *pushed, 7) is None
    monkeypatch.setattr(metadata_store, "run_by_id", mock.Mock(side_effect=KeyError))
    assert measured_before(None, *pushed, 1) is None


@pytest.mark.parametrize("files", [{}, {"validations": "", "metrics": ""}, {"eval_config.json": "{"}], ids=str)
def test_what_is_damaged_is_measured_again(pushed, monkeypatch, files):
    monkeypatch.undo()
    run = SimpleNamespace(output=lambda component, _: artifact(pushed[0], component))
    monkeypatch.setattr(metadata_store, "run_by_id", lambda *_: run)
    for name, text in files.items():
        (Path(artifact(pushed[0], "Evaluator").uri) / name).write_text(text)
    assert measured_before(None, *pushed, 1) is None


def test_what_was_measured_of_another_home_is_measured_again(pushed, tmp_path):
    home, provenance = pushed
    home.root.rename(tmp_path / "moved")
    moved = Home(tmp_path / "moved")
    assert measured_before(None, moved, provenance, 1) is None  # nothing is at the old place
    shutil.copytree(moved.root, home.root)
    assert measured_before(None, moved, provenance, 1) is None  # another home is
    assert measured_before(None, home, provenance, 1)


def test_what_was_measured_of_another_model_is_measured_again(pushed):
    home, provenance = pushed
    trained = Path(artifact(home, "Trainer").uri, "Format-Serving")
    (trained / "saved_model.pb").write_bytes(b"another home was here, with as many runs")
    assert measured_before(None, home, provenance, 1) is None


def test_a_measurement_that_lacks_a_class_is_made_again(pushed, monkeypatch):
    monkeypatch.setattr(gate_decisions.tfma, "load_eval_result", lambda *_: result(range(9)))
    assert measured_before(None, *pushed, 1) is None


def artifact(home, component):
    kind, number = {"Trainer": ("model", "6"), "Evaluator": ("evaluation", "8")}[component]
    return metadata_store_pb2.Artifact(uri=str(home.artifacts / "mnist" / component / kind / number))
