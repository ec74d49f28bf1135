import re

import numpy as np
import pytest
import tensorflow as tf

from components.image_example_gen.executor import serialize
from components.servability_check.executor import CheckFailed, check
from conveyor import processes
from conveyor.settings import to_json
from pipeline.experiments import load
from serving.signatures import SIGNATURES
from trainer import export, loop, networks
from trainer.settings import SPEC, TrainingSpec

pytestmark = pytest.mark.slow  # each check is a process of its own that imports TensorFlow


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model with the trainer's other outputs, and ten test images."""
    folder = tmp_path_factory.mktemp("exported")
    job = load("mnist").training_job()
    images = np.random.default_rng(0).integers(0, 256, (10, 28, 28, 1), np.uint8)
    (folder / "examples" / "Split-test").mkdir(parents=True)
    with tf.io.TFRecordWriter(str(folder / "examples" / "Split-test" / "data")) as writer:
        for record in serialize(images, np.zeros(10, np.int64)):
            writer.write(record.content)
    (folder / "run").mkdir()
    network = export.save(networks.build(job, "float32"), job, folder / "model", folder / "run")
    np.save(folder / "run" / "test_scores.npy", loop.predictor(network, job.shape)(images), allow_pickle=False)
    paths = {name: str(folder / name) for name in ("examples", "checkpoints", "model", "run")}
    spec = TrainingSpec(job=job, train=(), spans={}, initial=None, **paths)
    (folder / "run" / SPEC).write_text(to_json(spec))
    return folder


def checked(folder, count=10, model="model"):
    return check(folder / model, folder / "run", folder / "examples", count)


def test_a_model_that_answers_as_the_trainer_can_be_served(exported):
    outcome = checked(exported, count=4)
    assert (outcome["ok"], outcome["reason"]) == (True, "")
    assert set(outcome["differences"]) == set(SIGNATURES)
    assert max(outcome["differences"].values()) < 1e-4


def test_a_model_that_answers_otherwise_cannot(exported):
    scores = np.load(exported / "run" / "test_scores.npy", allow_pickle=False)
    try:
        np.save(exported / "run" / "test_scores.npy", scores[::-1], allow_pickle=False)
        outcome = checked(exported)
    finally:
        np.save(exported / "run" / "test_scores.npy", scores, allow_pickle=False)
    assert not outcome["ok"]
    assert "differ" in outcome["reason"]


def test_what_cannot_be_loaded_cannot_be_served(exported):
    outcome = checked(exported, model="run")
    assert not outcome["ok"]
    assert "the server's loader refuses it" in outcome["reason"]


@pytest.mark.parametrize(
    ("code", "last_line"),
    [
        *((code, "it said nothing") for code in (-9, -15, 1, 120)),
        (-6, "Thread tf_Compute creation via pthread_create() failed."),  # with too few threads left
        (-6, "what():  std::bad_alloc"),
    ],
)
def test_a_process_that_comes_to_no_verdict_says_nothing_of_the_model(exported, monkeypatch, code, last_line):
    monkeypatch.setattr(processes, "run", lambda *_: (code, last_line))
    sentence = f"ended with {code}: {last_line.rstrip('.')}. Run again to check it."
    with pytest.raises(CheckFailed, match=re.escape(sentence)):
        checked(exported)


def test_a_process_that_crashed_does(exported, monkeypatch):
    monkeypatch.setattr(processes, "run", lambda *_: (-11, "it said nothing"))
    assert checked(exported)["reason"] == "the process that loaded it ended with -11: it said nothing"
