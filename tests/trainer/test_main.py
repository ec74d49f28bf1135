import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from trainer.__main__ import _state

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow  # each test is a process of its own that imports TensorFlow


def start(spec):
    return subprocess.Popen(
        [sys.executable, "-m", "trainer", str(spec)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait(process):
    """Waits without closing standard input, which would end it."""
    with process:
        out, err = process.stdout.read(), process.stderr.read()
    return process.returncode, out, err


def test_trains_and_writes_everything(spec, tmp_path):
    code, out, err = wait(start(spec()))
    assert code == 0, err[-2000:]
    assert "Training on" in out
    assert "step 12, training accuracy" in out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    scores = np.load(tmp_path / "run" / "test_scores.npy", allow_pickle=False)
    assert scores.shape == (200, 10)
    assert f"test accuracy {summary['test_accuracy']:.4f}" in out
    assert np.load(tmp_path / "run" / "kernels.npy", allow_pickle=False).shape == (5, 5, 1, 32)
    assert (tmp_path / "model" / "saved_model.pb").exists()


def test_a_warm_start_begins_where_the_other_training_ended(spec, tmp_path):
    assert wait(start(spec(steps=40)))[0] == 0
    ended = json.loads((tmp_path / "run" / "history.json").read_text())[-1]
    (tmp_path / "model").rename(tmp_path / "served")
    shutil.rmtree(tmp_path / "checkpoints")
    code, _, err = wait(start(spec(steps=4, initial=str(tmp_path / "served"))))
    assert code == 0, err[-2000:]
    began = json.loads((tmp_path / "run" / "history.json").read_text())[0]
    assert began["loss"] < 0.8 * 2.3  # that of a guess among ten
    assert began["loss"] == pytest.approx(ended["loss"], rel=0.6)


def test_a_warm_start_from_another_network_is_refused(spec, tmp_path):
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).export(tmp_path / "other", verbose=False)
    code, _, err = wait(start(spec(initial=str(tmp_path / "other"))))
    assert code == 1
    assert "training cannot start from it" in err.strip().splitlines()[-1]
    assert "Traceback" not in err


def test_stopped_by_a_signal_it_writes_a_checkpoint(spec, tmp_path):
    process = start(spec(steps=100_000))
    next(line for line in process.stdout if line.startswith("step 4"))
    process.terminate()
    _, err = process.stdout.read(), process.stderr.read()
    process.stdin.close()
    assert process.wait(30) == 130
    process.stdout.close()
    process.stderr.close()
    step = re.search(r"Stopped at step (\d+), with a checkpoint", err.strip().splitlines()[-1])[1]
    assert (tmp_path / "checkpoints" / f"ckpt-{step}.index").exists()


def test_diverged_training_is_one_sentence_and_exit_code_1(spec):
    code, _, err = wait(start(spec(learning_rate=3e38)))
    assert code == 1
    assert err.strip().splitlines()[-1].startswith("Training diverged: the loss was")
    assert "Traceback" not in err


def test_ends_with_the_process_that_started_it(spec):
    process = start(spec(steps=100_000))
    for line in process.stdout:
        if line.startswith("step 4"):
            break
    process.stdin.close()  # as when that process is killed
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    ended = process.poll()
    if ended is None:
        os.kill(process.pid, signal.SIGKILL)
    process.stdout.close()
    process.stderr.close()
    assert ended == 1


def test_what_a_network_changes_as_it_predicts_is_seen():
    counting = keras.Sequential([keras.Input((28, 28, 1)), Counting(), keras.layers.Flatten(), keras.layers.Dense(10)])
    plain = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)])
    for network, changes in ((counting, True), (plain, False)):
        before = _state(network)
        network(np.zeros((4, 28, 28, 1), np.float32), training=False)
        assert (_state(network) != before) == changes


class Counting(keras.layers.Layer):
    """Counts its calls: nobody may predict with it while it is written."""

    def build(self, _):
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, images):
        self.calls.assign_add(1.0)
        return images
