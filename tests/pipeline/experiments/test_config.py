import dataclasses

import pytest

from pipeline.experiments import load
from pipeline.experiments.config import ConfigError, override


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
        ("training.stepz=3", r"Training has no field 'stepz'\. Did you mean steps\?"),
        ("zzz=3", r"Experiment has no field 'zzz'\. There are: name, dataset"),
        ("training.steps=many", "must be of type int"),
        ("training.steps=2.5", "must be of type int"),
        ("training.steps=true", "must be of type int"),
        ("training.steps=0", "training.steps is 0; it must be at least 1"),
        ("training.precision=float16", "must be one of auto, float32, mixed_bfloat16"),
        ("training=3", "name one of its fields"),
        ("training.steps.more=3", "steps has no fields of its own"),
        ("gate.min_accuracy=98.3", "it must be from 0 to 1"),
        ("dataset.shape=28", "must be a JSON list"),
        ("network.dropout=1", "network.dropout is 1.0"),
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


def test_experiment_of_a_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import dataclasses\nfrom pipeline.experiments import load\n"
        "EXPERIMENT = dataclasses.replace(load('mnist'), name='mine')\n"
    )
    assert load(str(path)).name == "mine"
    path.write_text("EXPERIMENT = 3\n")
    with pytest.raises(ConfigError, match="must set EXPERIMENT"):
        load(str(path))
    with pytest.raises(ConfigError, match="There is no file"):
        load("nowhere.py")
    with pytest.raises(ConfigError, match=r"There is no experiment 'imagenet'\. There are mnist, cifar10"):
        load("imagenet")
