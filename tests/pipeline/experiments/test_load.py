import sys

import pytest

from conveyor.errors import ConfigError
from pipeline.experiments import load

FILE = "import dataclasses\nfrom conveyor import Gate, load_experiment\nMNIST = load_experiment('mnist')\n"


def test_experiment_of_a_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE + "EXPERIMENT = dataclasses.replace(MNIST, name='mine')\n")
    assert load(str(path)).name == "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("EXPERIMENT = 3\n", "must set EXPERIMENT", id="no experiment"),
        pytest.param(
            FILE + "EXPERIMENT = Gate(3.0)\n", r"mine.py, line 4: gate.min_accuracy is 3.0; it", id="a wrong value"
        ),
        pytest.param("x = 1\nx / 0\n", r"mine.py, line 2: ZeroDivisionError: division by zero", id="an exception"),
        pytest.param("import sys\nsys.exit(0)\n", r"mine.py, line 2: SystemExit: 0", id="an exit"),
        pytest.param("EXPERIMENT = (\n", r"mine.py: SyntaxError: .* \(mine.py, line 1\)", id="no Python"),
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


def test_a_file_may_import_its_siblings_which_hide_nothing(tmp_path):
    (tmp_path / "my_siblings_name.py").write_text("NAME = 'of_a_sibling'\n")
    (tmp_path / "json.py").write_text("1 / 0\n")
    path = tmp_path / "mine.py"
    path.write_text(
        FILE + "import json\nfrom my_siblings_name import NAME\nEXPERIMENT = dataclasses.replace(MNIST, name=NAME)\n"
    )
    before = list(sys.path)
    assert load(str(path)).name == "of_a_sibling"
    assert sys.path == before


def test_a_sibling_that_is_wrong_is_told_of_with_its_line(tmp_path):
    (tmp_path / "my_wrong_sibling.py").write_text("x = 1\nx / 0\n")
    path = tmp_path / "mine.py"
    path.write_text("import my_wrong_sibling\n")
    with pytest.raises(ConfigError, match=r"mine\.py, line 1: ZeroDivisionError: division by zero \(in my_wrong_sib"):
        load(str(path))
    path.write_text("import my_missing_sibling\n")
    with pytest.raises(ConfigError, match=r"mine\.py, line 1: ModuleNotFoundError: No module named 'my_missing"):
        load(str(path))


def test_siblings_of_the_same_name_are_each_ones_own(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "my_common.py").write_text(f"NAME = 'experiment_{name}'\n")
        (tmp_path / name / "own.py").write_text(
            FILE + "from my_common import NAME\nEXPERIMENT = dataclasses.replace(MNIST, name=NAME)\n"
        )
    names = [load(str(tmp_path / name / "own.py")).name for name in ("one", "two", "one")]
    assert names == ["experiment_one", "experiment_two", "experiment_one"]
