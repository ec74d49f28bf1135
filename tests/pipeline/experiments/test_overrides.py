import pytest

from conveyor.errors import ConfigError
from pipeline.experiments import load
from pipeline.experiments.config import HashedSplits
from pipeline.experiments.overrides import override


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
        ("steps=3", r"experiment has no field 'steps'\. Did you mean training\.steps\?"),
        ("zzz=3", r"experiment has no field 'zzz'\. There are: name, dataset"),
        ("training.steps=many", "--set training.steps=many: it should be a valid integer"),
        ("training.steps=2.5", "it should be a valid integer"),
        ("training.steps=true", "it should be a valid integer"),
        ("training.steps=0", "it should be greater than or equal to 1"),
        ("training.precision=float16", "it should be 'auto', 'float32' or 'mixed_bfloat16'"),
        ("training=3", "name one of the fields of training: batch_size, steps"),
        ("training.steps.more=3", "steps has no fields of its own"),
        ("gate.min_accuracy=98.3", "it should be less than or equal to 1"),
        ("dataset.shape=28", "it should be a valid array"),
        ("dataset.shape=[28, 28]", r"dataset.shape=\[28, 28\]: it has too few values"),
        ("dataset.shape=[28, 28, 1, 1]", "it should have at most 3 items"),
        ("dataset.shape=[28, 28, 0]", "it must be three positive numbers"),
        ("network.learning_rate=fast", "network.learning_rate is 'fast'; it should be a valid number"),
        (
            "network.filters=3",
            "network has no parameter 'filters': build has input_scale, initial_stddev",
        ),
        ("network.build=3", "network has no parameter 'build'"),
        ("network.learning_rate.more=3", "network has no parameter 'learning_rate.more'"),
        ("network=3", "name one of the fields of network: input_scale"),
        ("training.learning_rate=1", r"batch_size, .*\. Did you mean network\.learning_rate\?"),
        ("learning_rate=1", r"experiment has no field 'learning_rate'\. Did you mean network\.learning_rate\?"),
        ("name=../x", "it should hold letters, digits, '_', '-' and '.', and begin with a letter or a digit"),
        ("name=_x", "it should hold letters"),
        ("name=größe", "it should hold letters"),
        ("name=", "it should hold letters"),
        ("serving.model_name=a/b", "it should hold letters"),
        ("dataset.name=.hidden", "it should hold letters"),
        (f"name={'x' * 101}", "it should have at most 100 characters"),
        ("network.learning_rate=Infinity", "it should be a finite number"),
        ("training.seed=4294967296", "it should be less than 4294967296"),
        ("spans.window=-1", "it should be greater than or equal to 0"),
        ('dataset.splits={"files": "*/*", "test_share": 0.9}', "1 together; they must leave a share to train"),
    ],
)
def test_wrong_setting_is_explained(setting, message):
    with pytest.raises(ConfigError, match=message):
        override(load("mnist"), (setting,))


def test_a_whole_object_is_given_as_json():
    changed = override(load("mnist"), ('dataset.splits={"files": "*/*", "test_share": 0.2}',))
    assert changed.dataset.splits == HashedSplits("*/*", test_share=0.2)


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)], ids=["as given", "reversed"])
def test_settings_that_are_only_right_together_may_come_in_any_order(order):
    start = override(load("mnist"), ('dataset.splits={"files": "*/*"}',))
    settings = ("dataset.splits.eval_share=0.95", "dataset.splits.test_share=0.01")[order]
    assert override(start, settings).dataset.splits == HashedSplits("*/*", eval_share=0.95, test_share=0.01)


def test_a_whole_object_and_one_of_its_fields():
    changed = override(load("mnist"), ('dataset.splits={"files": "*/*"}', "dataset.splits.test_share=0.3"))
    assert changed.dataset.splits == HashedSplits("*/*", test_share=0.3)
