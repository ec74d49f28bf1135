import dataclasses
import json
import os

import numpy as np
import pytest

from components.image_example_gen.readers import DataError
from pipeline.experiments import load
from pipeline.experiments.config import override
from pipeline.home import provenance
from pipeline.home.folders import Home
from tests.conftest import write_idx


@pytest.fixture
def root(tmp_path):
    write_idx(tmp_path, "train", np.zeros((2, 28, 28)), np.zeros(2))
    write_idx(tmp_path, "t10k", np.zeros((2, 28, 28)), np.zeros(2))
    write_idx(tmp_path / "span-1", "a", np.zeros((2, 28, 28)), np.zeros(2))
    return tmp_path


def digest(root, **changes):
    return provenance.data_digest(provenance.inputs(root, dataclasses.replace(load("mnist").dataset, **changes)))


def test_data_digest_is_of_content_and_names_not_of_times(root):
    file = root / "span-1" / "a-labels-idx1-ubyte"
    first = digest(root)
    os.utime(file, (1, 1))
    assert digest(root) == first
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    os.utime(file, (1, 1))  # TFX's own fingerprint, of size and time, would see no difference
    second = digest(root)
    assert second != first
    file.rename(file.with_name("b-labels-idx1-ubyte"))
    assert digest(root) not in (first, second)


def test_data_digest_changes_with_what_is_trained_on(root):
    assert digest(root, window=1) != digest(root)
    assert digest(root, window=2) == digest(root)


def test_a_span_that_is_not_what_was_added_is_refused(root):
    taken = provenance.inputs(root, load("mnist").dataset)[1]
    (root / "span-1" / "span.json").write_text(json.dumps({"files": taken.files}))
    assert provenance.inputs(root, load("mnist").dataset)[1] == taken
    (root / "span-1" / "a-labels-idx1-ubyte").write_bytes(b"x")
    with pytest.raises(DataError, match=r"a-labels-idx1-ubyte: expected the file that was added.*found another"):
        digest(root)
    (root / "span-1" / "a-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="found missing"):
        digest(root)


def test_code_digest_changes_with_any_module_of_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    for package in ("trainer", "components/x"):
        (tmp_path / package / "deep").mkdir(parents=True)
        (tmp_path / package / "deep" / "module.py").write_text("a = 1\n")
    trainer, component = provenance.code_digest("trainer"), provenance.code_digest("components.x")
    (tmp_path / "trainer" / "deep" / "module.py").write_text("a = 2\n")
    assert provenance.code_digest("trainer") != trainer
    assert provenance.code_digest("components.x") == component


def test_checkpoints_of_another_experiment_or_other_data_lie_elsewhere(tmp_path):
    experiment = load("mnist")

    def folder(*settings, data="data", warm_start=""):
        changed = override(experiment, settings)
        return provenance.checkpoint_folder(Home(tmp_path), changed, changed.job(), data, warm_start)

    assert folder("gate.min_accuracy=0.5") == folder()
    others = [folder("training.seed=1"), folder("dataset.eval_examples=1"), folder(data="x"), folder(warm_start="x")]
    assert len({folder(), *others}) == 5
