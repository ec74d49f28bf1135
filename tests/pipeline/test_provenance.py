import dataclasses
import os

from pipeline import provenance
from pipeline.config import Dataset, override
from pipeline.experiments import load
from pipeline.home import Home


def dataset(**changes):
    return dataclasses.replace(load("mnist").dataset, splits=(("train", "span-{SPAN}/*"),), **changes)


def test_data_digest_is_of_content_and_names_not_of_times(tmp_path):
    (tmp_path / "span-1").mkdir()
    file = tmp_path / "span-1" / "a"
    file.write_bytes(b"one")
    first = provenance.data_digest(tmp_path, dataset())
    os.utime(file, (1, 1))
    assert provenance.data_digest(tmp_path, dataset()) == first
    os.utime(file, (1, 1))
    file.write_bytes(b"two")
    os.utime(file, (1, 1))  # TFX's own fingerprint, of size and time, would see no difference
    second = provenance.data_digest(tmp_path, dataset())
    assert second != first
    file.rename(file.with_name("b"))
    assert provenance.data_digest(tmp_path, dataset()) not in (first, second)


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
    home, experiment = Home(tmp_path), load("mnist")
    assert isinstance(experiment.dataset, Dataset)
    here = provenance.checkpoint_folder(experiment, home, "data")
    assert provenance.checkpoint_folder(override(experiment, ("gate.min_accuracy=0.5",)), home, "data") == here
    assert provenance.checkpoint_folder(override(experiment, ("training.seed=1",)), home, "data") != here
    assert provenance.checkpoint_folder(override(experiment, ("dataset.eval_examples=1",)), home, "data") != here
    assert provenance.checkpoint_folder(experiment, home, "other data") != here
