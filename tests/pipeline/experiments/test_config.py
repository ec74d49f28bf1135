import dataclasses

import pytest

from conveyor.errors import ConfigError
from conveyor.settings import from_json, to_json
from pipeline.experiments import load
from pipeline.experiments.config import Experiment, Gate, HashedSplits, override


def test_settings_are_replaced_and_typed():
    before = load("mnist")
    after = override(
        before,
        ("training.steps=300", "gate.min_accuracy=1", "training.precision=float32", "serving.warmup_batches=[4]"),
    )
    assert (after.training.steps, after.gate.min_accuracy) == (300, 1.0)
    assert (after.training.precision, after.serving.warmup_batches) == ("float32", (4,))
    assert before.training.steps == 3000


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.steps", "expected a field and a value"),
        ("training.stepz=3", r"training has no field 'stepz'\. Did you mean steps\?"),
        ("zzz=3", r"experiment has no field 'zzz'\. There are: name, dataset"),
        ("training.steps=many", "--set training.steps=many: it should be a valid integer"),
        ("training.steps=2.5", "it should be a valid integer"),
        ("training.steps=true", "it should be a valid integer"),
        ("training.steps=0", "it should be greater than or equal to 1"),
        ("training.precision=float16", "it should be 'auto', 'float32' or 'mixed_bfloat16'"),
        ("training=3", "name one of the fields of training: optimizer, learning_rate"),
        ("training.steps.more=3", "steps has no fields of its own"),
        ("gate.min_accuracy=98.3", "it should be less than or equal to 1"),
        ("dataset.shape=28", "it should be a valid array"),
        ("dataset.shape=[28, 28, 0]", "it must be three positive numbers"),
        ("network.dropout=1", "it should be less than 1"),
        ("spans.window=-1", "it should be greater than or equal to 0"),
        ('dataset.splits={"files": "*/*", "test_share": 0.9}', "1 together; they must leave a share to train"),
    ],
)
def test_wrong_setting_is_explained(setting, message):
    with pytest.raises(ConfigError, match=message):
        override(load("mnist"), (setting,))


def test_digest_changes_with_any_field():
    experiment = load("mnist")
    other = override(experiment, ("gate.tolerance=0.006",))
    assert experiment.digest() == load("mnist").digest()
    assert experiment.digest() != other.digest()


def test_experiments_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load("mnist").training.steps = 3


def test_recipes_are_the_tutorials():
    mnist, cifar10 = load("mnist"), load("cifar10")
    assert (mnist.training.optimizer, mnist.training.learning_rate) == ("adam", 1e-4)
    assert (mnist.training.batch_size, mnist.training.steps, mnist.training.log_every) == (50, 3000, 100)
    assert (cifar10.training.optimizer, cifar10.training.learning_rate) == ("rmsprop", 1e-3)
    assert (cifar10.training.batch_size, cifar10.training.steps, cifar10.training.log_every) == (128, 10_000, 100)
    assert (mnist.gate.min_accuracy, cifar10.gate.min_accuracy) == (0.975, 0.60)


@pytest.mark.parametrize("factory", [lambda m: dataclasses.replace(m.training, steps=0), lambda m: Gate(2.0)])
def test_an_object_that_exists_is_valid(factory):
    with pytest.raises(ConfigError, match="it should be"):
        factory(load("mnist"))


def test_a_whole_object_is_given_as_json():
    changed = override(load("mnist"), ('dataset.splits={"files": "*/*", "test_share": 0.2}',))
    assert changed.dataset.splits == HashedSplits("*/*", test_share=0.2)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_settings_survive_json(name):
    experiment = load(name)
    assert from_json(Experiment, to_json(experiment)) == experiment


FILE = "import dataclasses\nfrom conveyor import Gate, load_experiment\nMNIST = load_experiment('mnist')\n"


def test_experiment_of_a_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE + "EXPERIMENT = dataclasses.replace(MNIST, name='mine')\n")
    assert load(str(path)).name == "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("EXPERIMENT = 3\n", "must set EXPERIMENT", id="no experiment"),
        pytest.param(FILE + "EXPERIMENT = Gate(3.0)\n", r"mine.py: gate.min_accuracy is 3.0; it", id="a wrong value"),
        pytest.param(FILE + "Gate(min=1)\n", r"gate.min is no setting; there are min_accuracy", id="a wrong name"),
    ],
)
def test_a_wrong_file_is_explained(tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(str(path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.py", "There is no file"),
        ("imagenet", r"There is no experiment 'imagenet'\. There are mnist, cifar10"),
    ],
)
def test_unknown_experiments_are_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        load(name)


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)], ids=["as given", "reversed"])
def test_settings_that_are_only_right_together_may_come_in_any_order(order):
    start = override(load("mnist"), ('dataset.splits={"files": "*/*"}',))
    settings = ("dataset.splits.eval_share=0.95", "dataset.splits.test_share=0.01")[order]
    assert override(start, settings).dataset.splits == HashedSplits("*/*", eval_share=0.95, test_share=0.01)


def test_a_whole_object_and_one_of_its_fields():
    changed = override(load("mnist"), ('dataset.splits={"files": "*/*"}', "dataset.splits.test_share=0.3"))
    assert changed.dataset.splits == HashedSplits("*/*", test_share=0.3)


def test_too_many_values_are_refused():
    with pytest.raises(ConfigError, match="gate takes 3 values: min_accuracy, tolerance, min_class_accuracy"):
        Gate(0.9, 0.1, 0.1, 5)
