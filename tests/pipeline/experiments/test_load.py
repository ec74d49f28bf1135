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
