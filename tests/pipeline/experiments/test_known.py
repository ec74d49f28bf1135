import dataclasses
import json

import pytest

from conveyor.errors import ConfigError, StorageError
from pipeline.experiments import load
from pipeline.experiments.from_folder import experiment_of
from pipeline.experiments.known import KnownExperiments, Record, Setting
from tests.pictures import draw_classes

OWN = """
import dataclasses
from conveyor import load_experiment

MNIST = load_experiment("mnist")
EXPERIMENT = dataclasses.replace(MNIST, name="own", dataset=dataclasses.replace(MNIST.dataset, name="digits"))
"""


@pytest.fixture
def known(tmp_path):
    return KnownExperiments(tmp_path / "home" / "experiments")


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    return str(tmp_path / "own.py")


def test_what_stands_holds_until_it_is_taken_back(known):
    known.change("mnist", ("training.warm_steps=500", "gate.tolerance = 0.1"))
    experiment = known.choose("mnist").experiment
    assert (experiment.training.warm_steps, experiment.gate.tolerance) == (500, 0.1)
    assert known.choose("mnist", ("training.warm_steps=7",)).experiment.training.warm_steps == 7
    assert known.choose("cifar10").experiment == load("cifar10")
    known.change("mnist", ("gate.min_accuracy=0.5",), ("training.warm_steps",))
    assert known.choose("mnist").record.settings == {"gate.tolerance": "0.1", "gate.min_accuracy": "0.5"}


def test_a_whole_object_takes_the_place_of_its_fields(known):
    known.change("mnist", ("dataset.splits.eval_examples=7",))
    whole = '{"train": "train-*", "test": "t10k-*", "eval_examples": 9}'
    known.change("mnist", (f"dataset.splits={whole}",))
    assert known.choose("mnist").record.settings == {"dataset.splits": whole}


@pytest.mark.parametrize(
    ("assignments", "unset", "message"),
    [
        (("training.stepz=1",), (), "training.stepz=1: training has no field 'stepz'. Did you mean steps"),
        (("training.steps=0",), (), "training.steps=0: it should be greater than or equal to 1"),
        (("training.steps",), (), "training.steps: expected a field and a value, as in training.steps=300"),
        (
            (),
            ("training.steps",),
            "--unset training.steps: no such setting stands for mnist; there are: gate.tolerance",
        ),
    ],
)
def test_a_wrong_setting_changes_nothing(known, assignments, unset, message):
    known.change("mnist", ("gate.tolerance=0.1",))
    with pytest.raises(ConfigError) as error:
        known.change("mnist", ("gate.min_accuracy=0.5", *assignments), unset)
    assert str(error.value).startswith(message)
    assert known.record("mnist").settings == {"gate.tolerance": "0.1"}


def test_a_file_is_known_by_its_name_once_it_was_named(known, own, tmp_path):
    with pytest.raises(
        ConfigError, match=r"There is no experiment 'own'\. There are cifar10, cifar10_best, mnist, mnist_best; or give"
    ):
        known.choose("own")
    assert known.find("own") is None
    assert known.remember(known.choose(own), tmp_path) == []
    assert known.names() == ["own"]
    chosen = known.choose("own")
    assert chosen.experiment == load(own)
    assert chosen.data == tmp_path
    with pytest.raises(ConfigError, match="There are cifar10, cifar10_best, mnist, mnist_best, own; or"):
        known.choose("owl")


def test_what_moves_is_told_of(known, own, tmp_path):
    known.remember(known.choose(own), tmp_path / "a")
    (tmp_path / "new").mkdir()
    moved = (tmp_path / "own.py").rename(tmp_path / "new" / "own.py")
    with pytest.raises(ConfigError, match=r"The file of the experiment own, .*/own\.py, is not there any more"):
        known.choose("own")
    assert known.find("own") is None
    assert known.remember(known.choose(str(moved)), tmp_path / "b") == [
        f"The file of own is now {moved}, and was {own}.",
        f"The data folder of own is now {tmp_path / 'b'}, and was {tmp_path / 'a'}.",
    ]
    assert known.remember(known.choose("own")) == []
    assert known.choose("own").data == tmp_path / "b"


def test_a_file_that_sets_another_name_is_not_the_experiment(known, own, tmp_path):
    known.remember(known.choose(own))
    (tmp_path / "own.py").write_text(OWN.replace('name="own"', 'name="other"'))
    with pytest.raises(ConfigError, match="sets an experiment named other, and set own before"):
        known.choose("own")


def test_nothing_is_remembered_of_a_file_that_sets_a_name_of_conveyors_own(known, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(OWN.replace('name="own", ', ""))
    (sentence,) = known.remember(known.choose(str(mine)), tmp_path)
    assert sentence.startswith(f"{mine} sets an experiment named mnist, as one of Conveyor's own is: nothing is rem")
    with pytest.raises(ConfigError, match="give it a name of its own to keep settings of it"):
        known.change(str(mine), ("training.steps=7",))
    known.change("mnist", ("training.steps=9",))
    assert known.choose(str(mine)).experiment.training.steps == 3000
    assert known.names() == ["mnist"]
    assert known.choose("mnist").record.source == ""


def test_wrong_standing_settings_can_be_replaced(known, own, tmp_path):
    known.change(own, ("dataset.splits.eval_examples=5", "training.steps=5"))
    held_out_by_files = (
        "\nEXPERIMENT = dataclasses.replace(EXPERIMENT, dataset=dataclasses.replace(EXPERIMENT.dataset, "
        "splits=dataclasses.replace(EXPERIMENT.dataset.splits, eval_examples=0, eval='v*')))"
    )
    (tmp_path / "own.py").write_text(OWN + held_out_by_files)
    with pytest.raises(ConfigError, match="`conveyor set own --unset FIELD` takes it back"):
        known.change("own", ("training.seed=1",))
    known.change("own", ("dataset.splits.eval_examples=0",))
    assert known.choose("own").experiment.dataset.splits.eval == "v*"


def test_a_file_that_takes_the_place_of_a_folder_is_told_of(known, tmp_path):
    folder = draw_classes(tmp_path / "own", {"a": 2, "b": 2})
    known.remember(known.of_folder(folder), folder)
    known.change("own", ("training.seed=1",))
    (tmp_path / "own.py").write_text(OWN)
    (sentence,) = known.remember(known.choose(str(tmp_path / "own.py")))
    assert sentence == (
        f"own was made from {folder}, and is what {tmp_path / 'own.py'} says now. Its data folder stays; so do its "
        "standing settings (training.seed)."
    )


def test_what_is_known_may_be_kept(known, own, tmp_path):
    known.remember(known.choose(own), tmp_path / "a", replaces=False)
    other = tmp_path / "other.py"
    other.write_text(OWN)
    assert known.remember(known.choose(str(other)), tmp_path / "b", replaces=False) == []
    assert (known.record("own").source, known.record("own").data) == (own, str(tmp_path / "a"))


def test_a_damaged_record_keeps_no_verb_from_a_built_in_experiment(known, tmp_path):
    known.change("mnist", ("training.seed=1",))
    (tmp_path / "home" / "experiments" / "mnist.json").write_text("{")
    assert known.find("mnist").experiment == load("mnist")
    assert known.is_known("mnist")
    assert known.is_known("cifar10")
    assert not known.is_known("own")


def test_a_standing_setting_that_does_not_fit_any_more_can_be_taken_back(known, own, tmp_path):
    known.change(own, ("dataset.splits.eval_examples=5",))
    (tmp_path / "own.py").write_text(
        OWN + "\nEXPERIMENT = dataclasses.replace(EXPERIMENT, dataset=dataclasses.replace("
        "EXPERIMENT.dataset, splits=dataclasses.replace(EXPERIMENT.dataset.splits, "
        "eval_examples=0, eval='v*')))"
    )
    with pytest.raises(ConfigError, match=r"A standing setting of own is wrong: .*`conveyor set own --unset FIELD`"):
        known.choose("own")
    known.change("own", (), ("dataset.splits.eval_examples",))
    assert known.choose("own").experiment.dataset.splits.eval == "v*"


def test_every_field_has_an_origin(known):
    known.change("mnist", ("training.warm_steps=500",))
    settings = {s.field: s for s in known.choose("mnist", ("spans.window=3", "training.seed=1")).settings()}
    assert settings["training.warm_steps"] == Setting("training.warm_steps", 500, "standing")
    assert settings["spans.window"] == Setting("spans.window", 3, "--set")
    assert settings["training.seed"].origin == "--set"
    assert settings["training.steps"] == Setting("training.steps", 3000, "experiment")
    assert settings["training.log_every"].origin == "default"
    assert settings["dataset.splits.train"].value == "train-*-ubyte"
    assert settings["name"].origin == "experiment"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"settings": {"a": 1}}', '{"definition": {"name": "x"}}'])
def test_a_damaged_record_is_told_of(known, text, tmp_path):
    folder = tmp_path / "home" / "experiments"
    folder.mkdir(parents=True)
    (folder / "mnist.json").write_text(text)
    with pytest.raises(ConfigError, match=r"mnist\.json is damaged: "):
        known.choose("mnist")


@pytest.mark.parametrize("name", ["../x", "/etc/x", "", ".", "a" * 101, "a/b", "ü"])
def test_a_name_is_no_path(known, name, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "x.json").write_text(json.dumps({"source": "/x.py"}))
    assert known.record(name) == Record()
    with pytest.raises(ConfigError, match="There is no experiment"):
        known.choose(name)


def test_a_folder_that_cannot_be_written_is_a_sentence(known, tmp_path):
    (tmp_path / "home").touch()
    with pytest.raises(StorageError, match=r"What is remembered of experiments in .* cannot be written"):
        known.change("mnist", ("training.steps=1",))


def test_a_folder_of_pictures_is_known_by_its_name(known, tmp_path):
    folder = draw_classes(tmp_path / "flowers", {"daisy": 4, "rose": 4})
    chosen = known.of_folder(folder, ("training.steps=9",))
    assert (chosen.name, chosen.experiment.training.steps, chosen.data) == ("flowers", 9, folder)
    known.remember(chosen, folder)
    known.change("flowers", ("gate.min_accuracy=0.9",))
    assert known.choose("flowers").defined == chosen.defined
    assert known.of_folder(folder).experiment.gate.min_accuracy == 0.9
    draw_classes(folder, {"tulip": 4})
    assert known.remember(known.of_folder(folder)) == [
        "The classes of flowers are not what they were; now they are daisy, rose, tulip."
    ]


def test_a_name_that_is_anothers_is_refused(known, own, tmp_path):
    mnist = draw_classes(tmp_path / "mnist", {"a": 2, "b": 2})
    with pytest.raises(ConfigError, match="mnist is an experiment of Conveyor's own, so that this one needs another"):
        known.of_folder(mnist)
    known.remember(known.choose(own))
    with pytest.raises(ConfigError, match=r"an experiment named own is known already \(.*own\.py\)"):
        known.of_folder(draw_classes(tmp_path / "own", {"a": 2, "b": 2}))
    first = draw_classes(tmp_path / "flowers", {"a": 2, "b": 2})
    known.remember(known.of_folder(first), first)
    with pytest.raises(ConfigError, match="conveyor set flowers --data"):
        known.of_folder(draw_classes(tmp_path / "elsewhere" / "flowers", {"a": 2, "b": 2}))


def test_a_record_holds_a_whole_definition(known, tmp_path):
    folder = draw_classes(tmp_path / "flowers", {"daisy": 4, "rose": 4})
    known.remember(known.of_folder(folder), folder)
    assert known.record("flowers") == Record(definition=experiment_of(folder), data=str(folder), settings={}, source="")
    assert dataclasses.is_dataclass(known.record("flowers").definition)


def test_a_record_of_a_folder_of_the_time_before_networks_were_functions_keeps_the_folder(known, tmp_path):
    folder = draw_classes(tmp_path / "flowers", {"daisy": 4, "rose": 4})
    known.remember(known.of_folder(folder), folder)
    (path,) = tmp_path.rglob("flowers.json")
    record = json.loads(path.read_text())
    record["definition"] = {"name": "flowers", "network": {"name": "cifar10_tutorial"}}
    path.write_text(json.dumps(record | {"settings": {"training.learning_rate": "1e-3"}}))
    assert known.record("flowers") == Record(data=str(folder))
    assert known.of_folder(folder).experiment.name == "flowers"
