import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from components.network_trainer import local_workers
from components.network_trainer.local_workers import _free_ports, _shared_out, _telling, tf_config
from conveyor.errors import ConfigError

ROOT = Path(__file__).parents[3]
TEMPORARY = os.EX_TEMPFAIL


def test_each_worker_is_told_of_all():
    assert json.loads(tf_config(["a:1", "b:2"], 1)) == {
        "cluster": {"worker": ["a:1", "b:2"]},
        "task": {"type": "worker", "index": 1},
    }


@pytest.mark.parametrize(
    ("codes", "told"),
    [
        ({1: 0, 0: 0}, (0, 0)),
        ({1: TEMPORARY, 0: 0}, (0, 0)),  # the model is written
        ({0: 1, 1: 1}, (0, 1)),
        ({0: TEMPORARY, 1: 1}, (1, 1)),  # the error is the other's
        ({1: -9, 0: TEMPORARY}, (1, -9)),
        ({1: -9, 0: 1}, (0, 1)),
        ({1: 1, 0: 1}, (0, 1)),
        ({0: 130, 1: TEMPORARY}, (0, 130)),
        ({1: 0}, (1, TEMPORARY)),  # the chief was killed, for it did not end
    ],
)
def test_who_tells_how_all_ended(codes, told):
    assert _telling(codes) == told


def test_gpus_are_shared_out_evenly():
    gpus = ["0", "2", "3"]
    assert _shared_out(gpus, 2) == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "2"}]
    assert _shared_out(gpus, 1) == [{"CUDA_VISIBLE_DEVICES": "0,2,3"}]
    with pytest.raises(ConfigError, match=r"workers is 4, and this machine has 3 GPUs: each worker needs one"):
        _shared_out(gpus, 4)
    assert _shared_out([], 2) == [{}, {}]


def test_ports_differ():
    assert len(set(_free_ports(8))) == 8


NETWORK = """
import json
import os

import keras

OPTIMIZER = {optimizer}

class StopsOneWorker(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if json.loads(os.environ["TF_CONFIG"])["task"]["index"] == 1:
            self.model.stop_training = True
            self.model.optimizer.learning_rate = 0.5

class OwnLoss(keras.Sequential):
    def compute_loss(self, x, y, y_pred, *rest, **named):
        return keras.ops.mean(keras.losses.sparse_categorical_crossentropy(y, y_pred, from_logits=True))

def build(shape, classes):
    layers = [keras.Input(shape), keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(classes)]
    model = OwnLoss(layers)
    model.compile(OPTIMIZER)
    return model

def callbacks():
    return [StopsOneWorker()]
"""


def with_network(spec, folder, optimizer="keras.optimizers.SGD(0.1)", callbacks="callbacks"):
    """Gives a training another network, of one's own; returns its file."""
    (folder / "code").mkdir(exist_ok=True)
    (folder / "code" / "own.py").write_text(NETWORK.format(optimizer=optimizer))
    told = json.loads(spec.read_text())
    own = {"folder": str(folder / "code"), "module": "own", "build": "build", "callbacks": callbacks, "parameters": {}}
    told["job"]["network"] |= own
    spec.write_text(json.dumps(told))
    return spec


@contextlib.contextmanager
def training(spec):
    command = [sys.executable, "-m", local_workers.__name__, str(spec)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        log = []
        reader = threading.Thread(target=lambda: log.append(process.stderr.read()))
        reader.start()
        process.log = lambda: (reader.join(), log[0])[1]
        try:
            yield process
        finally:
            process.kill()


def finished(spec):
    """Returns what a training printed, when it has come to its end."""
    with training(spec) as process:
        out = process.stdout.read()
        assert process.wait() == 0, process.log()[-2000:]
    return out


def weights(tmp_path):
    """Returns the numbers in the last checkpoint."""
    reader = tf.train.load_checkpoint(str(tmp_path / "checkpoints"))
    names = sorted(reader.get_variable_to_shape_map())
    return [reader.get_tensor(name) for name in names if name.startswith("variables/")]


def children(process):
    return [int(child) for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


@pytest.mark.slow
def test_two_workers_come_to_the_weights_of_one(spec, tmp_path):
    found, lines = [], []
    for workers in (1, 2, 2):
        out = finished(spec(workers=workers, precision="float32"))
        found.append(weights(tmp_path))
        lines.append([line for line in out.splitlines() if line.startswith("step ")])
        shutil.rmtree(tmp_path / "checkpoints")
    assert "Training on 2 workers, each with CPU" in out
    assert len(lines[0]) == 4
    assert lines[1] == lines[2]
    for one, two, again in zip(*found, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(two, again)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["device"].startswith("2 workers, each with CPU")
    assert f"test accuracy {summary['test_accuracy']:.4f}" in out


@pytest.mark.slow
def test_it_goes_on_when_a_worker_is_killed_and_stops_when_it_is_told(spec, tmp_path):
    with training(spec(steps=100_000, workers=2)) as process:
        until = []
        for line in process.stdout:
            until.append(line)
            if line.startswith("step 8"):
                break
        networks = {Path(f"/proc/{each}/ns/net").readlink() for each in ("self", *children(process))}
        has_own = not any(line.startswith("The workers listen on all addresses") for line in until)
        assert len(networks) == 1 + has_own
        os.kill(children(process)[1], signal.SIGKILL)
        printed = []
        for line in process.stdout:
            printed.append(line)
            if printed[-1].startswith("step") and any(line.startswith("Continuing") for line in printed):
                break
        process.terminate()
        assert process.wait() == 130
        last = process.log().strip().splitlines()[-1]
    assert "Worker 1 was killed by signal 9: all begin anew, from the last checkpoint.\n" in printed
    step = re.search(r"Stopped at step (\d+), with a checkpoint", last)[1]
    assert (tmp_path / "checkpoints" / f"ckpt-{step}.index").exists()


@pytest.mark.slow
def test_an_error_of_theirs_is_one_sentence_and_the_exit_code(spec):
    with training(spec(learning_rate=3e38, workers=2)) as process:
        process.stdout.read()
        assert process.wait() == 1
        assert process.log().strip().splitlines()[-1].startswith("Training diverged: the loss was")
    with training(spec(workers=2, batch_size=1)) as process:
        process.stdout.read()
        assert process.wait() == 2
        assert "training.batch_size is 1, and 2 devices are to share it" in process.log().splitlines()[-1]


@pytest.mark.slow
def test_a_loss_of_ones_own_is_that_of_one_worker(spec, tmp_path):
    found = []
    for workers in (1, 2):
        finished(with_network(spec(workers=workers, precision="float32"), tmp_path, callbacks=""))
        found.append(weights(tmp_path))
        shutil.rmtree(tmp_path / "checkpoints")
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_callbacks_decide_as_the_chiefs_do(spec, tmp_path):
    out = finished(with_network(spec(workers=2, steps=24), tmp_path))  # the other worker's would end it at step 8
    assert "step 24, training accuracy" in out


@pytest.mark.slow
def test_clipped_gradients_are_refused(spec, tmp_path):
    with training(with_network(spec(workers=2), tmp_path, "keras.optimizers.SGD(clipnorm=1.0)")) as process:
        process.stdout.read()
        assert process.wait() == 2
        assert "The optimizer has clipnorm, which is not the same on 2 devices" in process.log().splitlines()[-1]


@pytest.mark.slow
def test_a_stop_before_the_first_step_is_heard(spec):
    with training(spec(steps=100_000, workers=2)) as process:
        next(line for line in process.stdout if line.startswith("Training on 2 workers"))
        process.terminate()
        process.stdout.read()
        assert process.wait() in (130, -signal.SIGTERM)


@pytest.mark.slow
def test_a_proxy_is_not_asked_for_the_workers(spec, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://192.0.2.1:3128")
    assert "Training on 2 workers" in finished(spec(workers=2))


@pytest.mark.slow
def test_the_workers_end_with_the_process_that_started_them(spec):
    with training(spec(steps=100_000, workers=2)) as process:
        next(line for line in process.stdout if line.startswith("step 4"))
        running = [os.pidfd_open(worker) for worker in children(process)]
        process.stdin.close()  # as when that process is killed
        assert process.wait() == 1
        for worker in running:
            assert select.select([worker], [], [], 60)[0]
            os.close(worker)
