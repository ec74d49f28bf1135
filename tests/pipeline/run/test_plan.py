import contextlib
import dataclasses
import json
import shutil

import numpy as np
import pytest

from components.code_digest import whole_digest
from components.image_example_gen.dataset import HashedSplits
from components.image_example_gen.shards import training_images
from components.image_example_gen.spans import BASE, Part
from conveyor.errors import ConfigError
from pipeline.data.inputs import read_inputs
from pipeline.experiments import load
from pipeline.experiments.overrides import override
from pipeline.home.folders import Home
from pipeline.home.provenance import trainer_digest
from pipeline.run.plan import make_plan
from serving.model_store import VersionRecord
from tests.digits import write_idx


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "data"
    write_idx(root, "train", np.zeros((2, 28, 28)), np.zeros(2))
    write_idx(root, "t10k", np.zeros((2, 28, 28)), np.zeros(2))
    write_idx(root / "span-1", "a", np.zeros((2, 28, 28)), np.zeros(2))
    return root


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


@pytest.fixture
def pushed(home, tmp_path):
    """A home in which version 1 is stable."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "saved_model.pb").write_text("a")
    home.models.model("mnist").push(tmp_path / "model", VersionRecord(parts={"base": "d"}))
    return home


@pytest.fixture
def plan(root, home):
    return lambda *settings: make_plan(override(load("mnist"), ("training.batch_size=1", *settings)), home, root)


def test_without_a_version_training_is_from_scratch(plan):
    made = plan("training.warm_steps=5")
    assert (made.baseline, made.warm_start, made.job.training.steps) == (None, False, 3000)
    assert made.provenance.warm_start is None


def test_a_warm_start_is_from_the_stable_version(pushed, plan):
    made = plan("training.warm_steps=5")
    assert (made.baseline.version, made.warm_start, made.job.training.steps) == (1, True, 5)
    assert made.provenance.warm_start == 1


def test_without_warm_steps_the_stable_version_is_only_the_baseline(pushed, plan):
    made = plan()
    assert (made.baseline.version, made.baseline.parts) == (1, {"base": "d"})
    assert (made.warm_start, made.provenance.warm_start) == (False, None)


def test_what_a_model_comes_from_is_known_before_it_is_made(pushed, plan):
    made = plan()
    assert made.provenance.trainer_digest == trainer_digest()
    assert made.provenance.pipeline_digest == whole_digest()
    assert made.provenance.baseline == pushed.models.model("mnist").record(1).digest


def test_without_a_version_there_is_no_baseline(plan):
    assert plan().provenance.baseline == ""


def test_another_stable_version_is_another_start_of_a_warm_training(pushed, plan, tmp_path):
    warm, cold = plan("training.warm_steps=5").checkpoints, plan().checkpoints
    (tmp_path / "model" / "saved_model.pb").write_text("b")
    pushed.models.model("mnist").push(tmp_path / "model", VersionRecord())
    assert plan("training.warm_steps=5").checkpoints != warm
    assert plan().checkpoints == cold


def test_a_run_is_named_after_experiment_time_and_fingerprint(plan):
    made = plan()
    assert made.run_id.startswith("mnist-2")
    assert made.run_id.endswith(f"-{made.provenance.fingerprint}")


@pytest.mark.parametrize("setting", ["training.seed=1", "gate.min_accuracy=0.5", "serving.keep_versions=9"])
def test_the_fingerprint_changes_with_any_setting(plan, setting):
    assert plan(setting).provenance.fingerprint != plan().provenance.fingerprint


def test_the_data_digest_changes_with_what_is_trained_on(plan):
    whole = plan().provenance.data_digest
    assert plan("spans.window=1").provenance.data_digest != whole
    assert plan("spans.window=2").provenance.data_digest == whole


@pytest.fixture
def spans(root):
    """Three spans; the digest of each part by its name."""
    for number in (2, 3):
        write_idx(root / f"span-{number}", "a", np.full((2, 28, 28), number), np.zeros(2))
    return {source.part.name: source.digest for source in read_inputs(root, load("mnist"))}


def sides(made):
    return tuple([source.part.name for source in side] for side in made.drift_sides)


def stable(home, tmp_path, parts):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "saved_model.pb").write_text("a")
    home.models.model("mnist").push(tmp_path / "model", VersionRecord(parts=parts))


@pytest.mark.parametrize(
    ("trained_on", "window", "expected"),
    [
        pytest.param([], 0, (["base"], ["span-1", "span-2", "span-3"]), id="nobody wrote it down"),
        pytest.param(["base", "span-1"], 0, (["base", "span-1"], ["span-2", "span-3"]), id="all parts"),
        pytest.param(["span-2"], 1, (["span-2"], ["span-3"]), id="what it was trained on has left the window"),
        pytest.param(["span-1", "span-2"], 2, (["span-2", "span-1"], ["span-3"]), id="the window has moved"),
        pytest.param(["span-3"], 1, (["span-3"], []), id="nothing has arrived"),
        pytest.param(["span-3"], 0, (["span-3"], []), id="the window has grown: older spans are no news"),
        pytest.param(["span-2"], 3, (["span-2"], ["span-3"]), id="the base files are no news either"),
    ],
)
def test_what_has_arrived_is_compared_with_what_the_baseline_was_trained_on(
    home, plan, spans, tmp_path, trained_on, window, expected
):
    stable(home, tmp_path, {name: spans[name] for name in trained_on})
    assert sides(plan(f"spans.window={window}")) == expected


def test_a_span_with_other_content_has_arrived_again(home, plan, spans, tmp_path):
    stable(home, tmp_path, {"base": spans["base"], "span-1": "another", "span-2": spans["span-2"]})
    assert sides(plan()) == (["base", "span-2"], ["span-1", "span-3"])


def test_spans_that_are_gone_are_compared_with_nothing(home, plan, spans, root, tmp_path):
    stable(home, tmp_path, {"span-2": spans["span-2"]})
    shutil.rmtree(root / "span-2")
    assert sides(plan("spans.window=1")) == ([], ["span-3"])


def test_a_span_that_was_damaged_is_compared_with_nothing(home, plan, spans, root, tmp_path):
    stable(home, tmp_path, {name: spans[name] for name in ("base", "span-2")})
    (root / "span-2" / "span.json").write_text(json.dumps({"files": {"a-images-idx3-ubyte": "as it was added"}}))
    (root / "span-2" / "a-images-idx3-ubyte").write_bytes(b"damaged")
    made = plan("spans.window=1")
    assert sides(made) == (["base"], ["span-3"])
    assert made.missing == ("span-2",)


def test_spans_that_are_only_compared_are_no_part_of_what_the_model_comes_from(home, plan, spans, tmp_path):
    alone = plan("spans.window=1").provenance.data_digest
    stable(home, tmp_path, {"span-2": spans["span-2"]})
    assert plan("spans.window=1").provenance.data_digest == alone


def test_the_fingerprint_changes_with_the_code(plan):
    provenance = plan().provenance
    assert dataclasses.replace(provenance, pipeline_digest="x").fingerprint != provenance.fingerprint


def test_checkpoints_of_what_determines_the_same_weights_lie_together(plan):
    assert plan("gate.min_accuracy=0.5", "serving.canary=true").checkpoints == plan().checkpoints


def test_checkpoints_of_other_weights_lie_elsewhere(pushed, plan, root):
    settings = [(), ("training.seed=1",), ("dataset.splits.eval_examples=1",), ("training.warm_steps=3000",)]
    folders = {plan(*assignments).checkpoints for assignments in settings}
    (root / "span-1" / "a-labels-idx1-ubyte").unlink()
    folders.add(plan().checkpoints)
    assert len(folders) == len(settings) + 1


def test_a_version_says_what_it_comes_from(pushed, plan):
    made = plan("training.warm_steps=5", "spans.window=1")
    record = made.provenance.version_record("r1")
    assert (record.run, record.warm_start) == ("r1", 1)
    assert list(record.parts) == ["span-1"]
    assert record.experiment_name == "mnist"
    assert record.trainer_digest == made.provenance.trainer_digest


@pytest.mark.parametrize(("batch", "holds"), [(30, True), (31, False), (100_000, False)])
def test_a_batch_larger_than_the_data_is_refused_before_anything_starts(tmp_path, home, batch, holds):
    root = tmp_path / "many"
    write_idx(root, "train", np.zeros((25, 28, 28)), np.zeros(25))
    write_idx(root, "t10k", np.zeros((99, 28, 28)), np.zeros(99))
    write_idx(root / "span-1", "a", np.zeros((10, 28, 28)), np.zeros(10))
    experiment = override(load("mnist"), ("dataset.splits.eval_examples=5", f"training.batch_size={batch}"))
    with (
        contextlib.nullcontext()
        if holds
        else pytest.raises(
            ConfigError, match=rf"training\.batch_size is {batch:,}, and there are about 30 images to train on"
        )
    ):
        make_plan(experiment, home, root)


def test_the_images_of_hashed_splits_are_counted_by_their_shares(tmp_path, mnist_dataset):
    write_idx(tmp_path, "x", np.zeros((50, 28, 28)), np.zeros(50))
    dataset = dataclasses.replace(mnist_dataset, splits=HashedSplits("*-ubyte", eval_share=0.2, test_share=0.3))
    assert training_images(Part(BASE, tmp_path, dataset)) == 25
