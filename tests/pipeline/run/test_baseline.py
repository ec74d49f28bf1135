import dataclasses
import json

import pytest

from components.image_example_gen.dataset import HashedSplits
from components.image_example_gen.spans import Part
from conveyor.errors import StorageError
from pipeline.data.inputs import Input
from pipeline.experiments import load
from pipeline.experiments.overrides import override
from pipeline.home.folders import Home
from pipeline.run.baseline import Baseline, BaselineDamaged, find_baseline, other_images
from serving.model_store import VersionRecord


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path / "home")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "saved_model.pb").write_text("a")
    home.models.model("mnist").push(tmp_path / "model", VersionRecord(parts={"base": "d"}))
    return home


def test_the_baseline_is_the_stable_version_with_its_record(home):
    model = home.models.model("mnist")
    assert find_baseline(home, load("mnist")) == (Baseline(1, model.path(1), model.digest(1), {"base": "d"}), "")
    assert find_baseline(home, load("cifar10")) == (None, "")


def test_a_stable_version_that_was_changed_is_not_passed_over(home):
    (home.models.model("mnist").path(1) / "saved_model.pb").write_text("b")
    with pytest.raises(BaselineDamaged, match="The stable version 1 of mnist is not the model that was pushed"):
        find_baseline(home, load("mnist"))


def test_a_version_that_somebody_else_put_there_is_a_baseline_too(home):
    model = home.models.model("cifar10")
    model.path(7).mkdir(parents=True)
    (model.path(7) / "saved_model.pb").touch()
    assert find_baseline(home, load("cifar10")) == (Baseline(7, model.path(7), model.digest(7), {}), "")


def part(name, digest_of):
    source = Input(Part(name, None, load("mnist").dataset), {"file": digest_of})
    return source, source.digest


def test_what_a_baseline_was_trained_on_and_what_has_arrived():
    (base, known), (span, digest), (later, _) = part("base", "a"), part("span-2", "b"), part("span-3", "c")
    (changed, _), (earlier, _) = part("span-2", "x"), part("span-1", "d")
    baseline = Baseline(1, None, "", {"base": known, "span-2": digest})
    assert [baseline.was_trained_on(source) for source in (base, span, later, changed)] == [True, True, False, False]
    arrived = [baseline.has_arrived_since(source) for source in (base, span, later, changed, earlier)]
    assert arrived == [False, False, True, True, False]
    assert not Baseline(1, None, "", {"span-2": digest}).has_arrived_since(base)


def test_a_baseline_looks_to_tfx_like_a_trainers_output(home, tmp_path):
    baseline, _ = find_baseline(home, load("mnist"))
    wrapper = baseline.as_artifact(tmp_path / "Baseline")
    assert wrapper == tmp_path / "Baseline" / f"1-{baseline.digest[:16]}"
    assert (wrapper / "Format-Serving" / "saved_model.pb").read_text() == "a"
    assert baseline.as_artifact(tmp_path / "Baseline") == wrapper  # again, as every run does
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="Format-Serving cannot be made"):
        baseline.as_artifact(tmp_path / "file")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("dataset.resize=crop", "dataset.resize was squash, and is crop now"),
        ("dataset.shape=[32,32,1]", "dataset.shape was [28, 28, 1], and is [32, 32, 1] now"),
        ('dataset.classes=["b","a"]', "dataset.classes were others"),
        ('dataset.splits={"test_share":0.2}', "dataset.splits.test_share was 0.1, and is 0.2 now"),
        ("training.steps=7", ""),
    ],
)
def test_a_version_of_other_images_is_not_compared_with(change, why):
    dataset = dataclasses.replace(load("mnist").dataset, classes=("a", "b"), splits=HashedSplits())
    experiment = dataclasses.replace(load("mnist"), dataset=dataset)
    record = VersionRecord(experiment=json.loads(json.dumps(experiment.to_dict())))
    assert other_images(record, experiment) == ""
    assert other_images(VersionRecord(), experiment) == "", "of before records had it"
    assert other_images(record, override(experiment, (change,))) == why
