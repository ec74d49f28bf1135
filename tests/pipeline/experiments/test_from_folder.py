from pathlib import Path

import pytest

from components.image_example_gen.dataset import HashedSplits, NamedSplits
from conveyor.errors import ConfigError
from pipeline.experiments.from_folder import _fewer_mistakes, experiment_of, unused_folders
from tests.pictures import draw_classes


def test_classes_are_the_folders_with_pictures(tmp_path):
    folder = draw_classes(tmp_path / "my flowers!", {"rose": 3, "daisy": 5, "Ärger": 2})
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "a.png").touch()
    (folder / "empty").mkdir()
    (folder / "notes.txt").touch()
    (folder / "rose" / "Thumbs.db").touch()
    draw_classes(folder / "span-1", {"tulip": 2})
    experiment = experiment_of(folder).experiment
    assert experiment.name == experiment.serving.model_name == experiment.dataset.name == "my-flowers"
    assert experiment.dataset.classes == ("daisy", "rose", "Ärger")
    assert experiment.dataset.splits == HashedSplits(eval_share=0.25, test_share=0.25)
    assert unused_folders(folder) == ["empty (no picture in it)"]
    assert experiment.gate.min_accuracy == 0.55  # five of ten are daisies, and a tenth fewer mistakes are made
    assert experiment.training.steps == 300
    assert experiment.training.batch_size == 2  # of the eight that are trained on


@pytest.mark.parametrize(
    ("size", "mode", "shape"),
    [
        ((28, 20), "L", (20, 28, 1)),
        ((64, 64), "RGB", (64, 64, 3)),
        ((65, 10), "RGB", (32, 32, 3)),
        ((16, 16), "P", (16, 16, 3)),
        ((16, 16), "LA", (16, 16, 1)),
    ],
)
def test_the_shape_is_that_of_small_pictures_of_one_size(tmp_path, size, mode, shape):
    assert experiment_of(draw_classes(tmp_path / "x", {"a": 2, "b": 1}, size, mode)).dataset.shape == shape


def test_pictures_of_many_kinds_become_small_ones_in_colour(tmp_path):
    draw_classes(tmp_path / "x", {"a": 2}, (28, 28), "L")
    draw_classes(tmp_path / "x", {"b": 2}, (200, 100))
    (tmp_path / "x" / "b" / "broken.jpg").write_text("no picture")
    experiment = experiment_of(tmp_path / "x")
    assert experiment.dataset.shape == (32, 32, 3)
    assert experiment.dataset.resize == "pad"


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("train", "test"), NamedSplits("train/*/*", "test/*/*", eval_examples=2)),
        (("Training", "Testing", "valid"), NamedSplits("Training/*/*", "Testing/*/*", eval="valid/*/*")),
    ],
)
def test_splits_that_the_folder_has_are_taken(tmp_path, folders, splits):
    for name in folders:
        draw_classes(tmp_path / "x" / name, {"a": 10, "b": 10} if name == folders[0] else {"a": 2, "b": 2})
    experiment = experiment_of(tmp_path / "x")
    assert experiment.dataset.classes == ("a", "b")
    assert experiment.dataset.splits == splits
    assert experiment.training.batch_size == 5


@pytest.mark.parametrize(
    ("folder", "name"), [("flowers.py", "flowers-py"), ("_my flöwers_", "my-flowers"), ("a" * 120, "a" * 100)]
)
def test_a_name_is_one_that_an_experiment_can_have(tmp_path, folder, name):
    assert experiment_of(draw_classes(tmp_path / folder, {"a": 2, "b": 2})).experiment.name == name


def test_every_picture_is_looked_at(tmp_path):
    draw_classes(tmp_path / "x", {"a": 250, "b": 250}, (4, 4), "L")
    draw_classes(tmp_path / "colour", {"a": 1}, (4, 4))
    (tmp_path / "colour" / "a" / "0000.png").rename(tmp_path / "x" / "a" / "0101.png")
    assert experiment_of(tmp_path / "x").dataset.shape == (4, 4, 3)


def test_many_pictures_are_trained_on_for_as_many_epochs(tmp_path):
    experiment = experiment_of(draw_classes(tmp_path / "x", {"a": 900, "b": 900}, (4, 4)))
    assert experiment.dataset.splits == HashedSplits(eval_share=0.1, test_share=0.1)
    assert (experiment.training.steps, experiment.training.batch_size) == (421, 64)


@pytest.mark.parametrize(
    ("counts", "message"),
    [({}, "of classes, found none"), ({"a": 2}, r"of classes, found one \(a\)")],
)
def test_less_than_two_classes_are_refused(tmp_path, counts, message):
    folder = draw_classes(tmp_path / "x", counts)
    folder.mkdir(exist_ok=True)
    with pytest.raises(ConfigError, match=message):
        experiment_of(folder)


def test_a_folder_that_is_none_or_has_no_name_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="there is no such folder"):
        experiment_of(tmp_path / "nowhere")
    (tmp_path / "???").mkdir()
    with pytest.raises(ConfigError, match="no letter or digit that could name an experiment"):
        experiment_of(tmp_path / "???")


def test_folders_beside_train_and_test_are_not_used(tmp_path):
    for name in ("train", "test", "daisy"):
        draw_classes(tmp_path / "x" / name, {"a": 2, "b": 2})
    assert unused_folders(tmp_path / "x") == ["daisy (beside train and test)"]


def test_the_gate_is_above_the_most_frequent_class_of_what_it_is_measured_on(tmp_path):
    draw_classes(tmp_path / "x" / "train", {"ok": 4, "broken": 4})
    draw_classes(tmp_path / "x" / "test", {"ok": 19, "broken": 1})
    assert experiment_of(tmp_path / "x").experiment.gate.min_accuracy == 0.955


@pytest.mark.parametrize(
    ("most", "count", "floor"), [(9_992, 10_000, 0.99928), (19_990, 20_000, 0.99955), (2, 3, 0.7), (5, 5, 1.0)]
)
def test_a_floor_has_as_many_digits_as_it_needs(most, count, floor):
    paths = [Path("x")] * count
    found = _fewer_mistakes({"a": paths[:most], "b": paths[most:]})
    assert found == pytest.approx(floor, abs=1e-9)
    assert most / count < found or most == count
