import dataclasses
import shutil
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
from pipeline.report.gate_decisions import Evaluation, Measured, _reasons, measured_before, read_evaluation
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
    models.network(tmp_path / "model")
    home.models.model("mnist").push(tmp_path / "model", provenance.version_record("r1"))
    evaluation = metadata_store_pb2.Artifact(uri=str(tmp_path))
    run = SimpleNamespace(output=lambda *_: evaluation)
    monkeypatch.setattr(metadata_store, "run_by_id", lambda _, run_id: {"r1": run}[run_id])
    found = Evaluation(0.9, 10, [0.9] * 10, None, [], None, [])
    monkeypatch.setattr(gate_decisions, "read_evaluation", lambda *_: found)
    return home, provenance


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
def test_what_is_damaged_is_measured_again(pushed, monkeypatch, tmp_path, files):
    monkeypatch.setattr(gate_decisions, "read_evaluation", read_evaluation)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert measured_before(None, *pushed, 1) is None
