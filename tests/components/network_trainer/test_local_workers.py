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
from components.network_trainer.local_workers import _free_ports, _gpus, _shared_out, _telling, tf_config
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


def test_gpus_are_shared_out(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2,3")
    assert _shared_out(_gpus(), 2) == [{"CUDA_VISIBLE_DEVICES": "0,3"}, {"CUDA_VISIBLE_DEVICES": "2"}]
    with pytest.raises(ConfigError, match=r"workers is 4, and this machine has 3 GPUs: each worker needs one"):
        _shared_out(_gpus(), 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert _shared_out(_gpus(), 2) == [{}, {}]


def test_ports_differ():
    assert len(set(_free_ports(8))) == 8


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
        first = next(line for line in process.stdout if line.startswith(("step 8", "TensorFlow's workers listen")))
        if first.startswith("step"):  # they have a network of their own
            listening = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
            assert f":{local_workers.OWN_PORT:04X} " not in listening
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
    with training(spec(workers=17)) as process:
        process.stdout.read()
        assert process.wait() == 2
        assert (
            process.log().strip().splitlines()[-1].startswith("training.batch_size is 16, and 17 devices are to share")
        )


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
