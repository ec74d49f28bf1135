import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from pipeline.experiments import load
from serving import warmup
from serving.servability import NotServable, check
from serving.server.models.bundle import SavedModelBundle
from serving.signatures import SIGNATURES
from tests.digits import read_idx
from trainer import export, loop, networks

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def images(mnist):
    return read_idx(mnist, "t10k", 70)[0][..., np.newaxis]


@pytest.fixture(scope="module")
def model(tmp_path_factory, images):
    job = load("mnist").training_job()
    folder = tmp_path_factory.mktemp("servable")
    network = export.save(networks.build(job, "float32"), job, folder / "model", folder)
    warmup.write(folder / "model", images, (1, 32))
    return folder / "model", loop.predictor(network, job.shape)(images)


def test_every_signature_answers_as_the_trainer_does(model, images):
    differences = check(*model[:1], images, model[1])
    assert set(differences) == set(SIGNATURES)
    assert max(differences.values()) < 1e-5


def test_warmup_requests_cover_every_signature_and_size(model):
    requests = warmup.read(model[0])
    sizes = [(r.model_spec.signature_name, tf.make_ndarray(next(iter(r.inputs.values()))).shape[0]) for r in requests]
    assert sizes == [(name, size) for name in SIGNATURES for size in (1, 32)]
    bundle = SavedModelBundle(model[0])
    for request in requests:
        inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        assert "scores" in bundle.ask(request.model_spec.signature_name, inputs)


def test_answers_other_than_the_trainers_are_refused(model, images):
    with pytest.raises(NotServable, match="serving_default differs from the trainer by up to"):
        check(model[0], images, np.roll(model[1], 1, axis=1))


def test_unloadable_model_is_refused(tmp_path, images):
    (tmp_path / "saved_model.pb").write_bytes(b"nothing of the kind")
    with pytest.raises(NotServable, match="the server's loader refuses it"):
        check(tmp_path, images, np.zeros((70, 10), np.float32))


def test_keras_model_that_loads_in_python_only_is_refused(tmp_path, images):
    """The trap that the check is for: a plain save of a Keras 3 model."""
    network = networks.build(load("mnist").training_job(), "float32")
    tf.saved_model.save(network, str(tmp_path))
    tf.saved_model.load(str(tmp_path))
    with pytest.raises(NotServable):
        check(tmp_path, images, np.zeros((70, 10), np.float32))


@pytest.mark.slow
def test_process_prints_one_json_object(model, images, tmp_path):
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "scores.npy", model[1] + np.float32(0.1))
    command = [
        sys.executable,
        "-m",
        "serving.servability",
        str(model[0]),
        tmp_path / "images.npy",
        tmp_path / "scores.npy",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    outcome = json.loads(done.stdout)
    assert outcome["ok"] is False
    assert "at most 0.0001 is rounding" in outcome["reason"]
