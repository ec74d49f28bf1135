import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from components.image_example_gen.executor import serialize
from components.network_trainer import executor
from components.network_trainer.executor import TrainerKilled, TrainingFailed, run_fn
from components.network_trainer.local_workers import tf_config
from conveyor.errors import ConfigError
from conveyor.settings import from_json, to_json
from pipeline.experiments import load
from trainer.settings import SPEC, TrainingSpec


@pytest.fixture
def arguments(tmp_path):
    """TFX's arguments for base files and two spans, handed over in another order."""

    def folder(component):
        split = tmp_path / component / "examples" / "7" / "Split-train"
        split.mkdir(parents=True)
        return f"{split}/*"

    names = ("ImageExampleGen-span-2", "ImageExampleGen", "ImageExampleGen-span-1")
    patterns = [folder(name) for name in names]
    test = tmp_path / "ImageExampleGen" / "examples" / "7" / "Split-test"
    test.mkdir()
    with tf.io.TFRecordWriter(str(test / "data")) as writer:
        for record in serialize(np.zeros((40, 28, 28, 1), np.uint8), np.zeros(40, np.int64)):
            writer.write(record.content)
    parts = [
        {"name": "base", "component": "ImageExampleGen", "trained_on": False},
        {"name": "span-1", "component": "ImageExampleGen-span-1", "trained_on": True},
        {"name": "span-2", "component": "ImageExampleGen-span-2", "trained_on": True},
    ]
    config = {
        "parts": parts, "job": json.loads(to_json(load("mnist").training_job())),
        "checkpoints": str(tmp_path / "checkpoints"), "warmup_batches": [1, 4],
    }  # fmt: skip
    (tmp_path / "model").mkdir()
    return SimpleNamespace(
        custom_config=config, train_files=patterns, base_model=None,
        serving_model_dir=str(tmp_path / "model"), model_run_dir=str(tmp_path / "run"),
    )  # fmt: skip


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    """Puts a program in the trainer's place."""

    def make(code):
        (tmp_path / "stand_in.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(executor, "PROGRAM", "stand_in")

    return make


def test_the_trainer_is_told_which_parts_to_train_on(arguments, trainer, tmp_path):
    trainer("")
    run_fn(arguments)
    spec = from_json(TrainingSpec, (tmp_path / "run" / SPEC).read_bytes())
    job = load("mnist").training_job()
    code = tmp_path / "run" / "network"
    assert spec.job == dataclasses.replace(job, network=dataclasses.replace(job.network, folder=str(code)))
    assert (code / "mnist_tutorial.py").read_text() == Path(job.network.folder, "mnist_tutorial.py").read_text()
    assert spec.examples == str(tmp_path / "ImageExampleGen" / "examples" / "7")
    spans = [str(tmp_path / f"ImageExampleGen-span-{number}" / "examples" / "7") for number in (1, 2)]
    assert list(spec.train) == spans
    assert spec.spans == {"span-1": spans[0], "span-2": spans[1]}
    assert (spec.initial, spec.checkpoints) == (None, str(tmp_path / "checkpoints"))
    assert (tmp_path / "model" / "assets.extra" / "tf_serving_warmup_requests").stat().st_size > 5 * 784


def test_the_last_line_of_a_trainer_that_fails_says_why(arguments, trainer):
    trainer("import sys; sys.exit('first\\nTraining diverged')")
    with pytest.raises(TrainingFailed, match=r"^Training diverged$"):
        run_fn(arguments)


def test_a_trainer_that_is_killed_is_said_to_be(arguments, trainer):
    trainer("import os; os.kill(os.getpid(), 9)")
    with pytest.raises(TrainingFailed, match=r"killed by signal 9, most likely because memory ran out: a smaller tr"):
        run_fn(arguments)


def test_a_trainer_that_was_told_to_stop_is_one_that_goes_on(arguments, trainer):
    trainer("import sys; print('Stopped at step 60, with a checkpoint.', file=sys.stderr); sys.exit(130)")
    with pytest.raises(TrainerKilled, match="Stopped at step 60, with a checkpoint"):
        run_fn(arguments)


def test_a_machine_has_no_more_workers_than_processors(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    assert executor.placed(1) == executor.PROGRAM
    assert executor.placed(2) == executor.ON_THIS_MACHINE
    with pytest.raises(ConfigError, match=r"training\.workers is 3, and this machine has 2 processors"):
        executor.placed(3)


def test_workers_are_where_tf_config_or_ray_says(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", tf_config(["a:1", "b:1"], 0))
    assert executor.placed(1) == executor.placed(2) == executor.PROGRAM
    with pytest.raises(ConfigError, match=r"training\.workers is 3, and TF_CONFIG tells of 2 workers"):
        executor.placed(3)
    monkeypatch.delenv("TF_CONFIG")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    for address in ("127.0.0.1:1", "127.0.0.1:99999"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(TrainingFailed, match=f"There is no Ray cluster at {address}, as RAY_ADDRESS says"):
            executor.placed(2)
    for address in ("auto", "ray://head:10001"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert executor.placed(2) == executor.ON_RAY
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TrainingFailed, match="there is no Ray here: pip install"):
        executor.placed(2)
