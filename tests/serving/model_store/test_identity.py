import dataclasses

import pytest

from conveyor.files import tree_digest
from pipeline.experiments import load
from serving.model_store.identity import model_identity
from trainer import export, networks


@pytest.fixture
def exported(tmp_path):
    def make(name, job, change=0.0):
        network = networks.build(job, "float32")
        network.set_weights([weight + change for weight in network.get_weights()])
        (tmp_path / name).mkdir()
        export.save(network, job, tmp_path / name / "model", tmp_path / name)
        return tmp_path / name / "model"

    return make


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["mnist", "cifar10"])
def test_two_exports_of_one_model_are_the_same(exported, experiment):
    job = load(experiment).training_job()
    first, second = exported("first", job), exported("second", job)
    assert (first / "saved_model.pb").read_bytes() != (second / "saved_model.pb").read_bytes()  # other names
    assert model_identity(first) == model_identity(second)


def cut(path):
    path.write_bytes(path.read_bytes()[:5000])


def flip(path):
    path.write_bytes(path.read_bytes()[:500] + b"damaged" + path.read_bytes()[507:])


@pytest.mark.slow
@pytest.mark.parametrize("damage", [cut, flip])
@pytest.mark.parametrize("name", ["saved_model.pb", "variables/variables.data-00000-of-00001"])
def test_a_damaged_export_is_its_files(exported, damage, name):
    folder = exported("one", load("mnist").training_job())
    before = model_identity(folder)
    damage(folder / name)
    assert model_identity(folder) == tree_digest(folder) != before


@pytest.mark.slow
def test_weights_computation_and_classes_make_another_model(exported):
    job = load("mnist").training_job()
    brighter = job.network.parameters | {"input_scale": 1.0}
    scaled = dataclasses.replace(job, network=dataclasses.replace(job.network, parameters=brighter))
    named = dataclasses.replace(job, classes=tuple("abcdefghij"))
    folders = [exported("one", job), exported("two", job, 1e-6), exported("three", scaled), exported("four", named)]
    assert len({model_identity(folder) for folder in folders}) == 4


def test_a_folder_without_a_fingerprint_is_its_files(tmp_path):
    for name, text in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "saved_model.pb").write_text(text)
    assert model_identity(tmp_path / "a") == model_identity(tmp_path / "b") != model_identity(tmp_path / "c")
