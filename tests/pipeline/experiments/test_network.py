import dataclasses
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from conveyor.errors import ConfigError
from conveyor.settings import to_json
from pipeline.experiments import load
from pipeline.experiments.network import Network, copy_code
from pipeline.experiments.overrides import override

EXPERIMENT = """
'''Words about it.'''
import dataclasses
from conveyor import Network, load_experiment
from layers_of_mine.blocks import block

def build(shape, classes, *, steps, width: int = 8, widths=(4, 8), rate=0.1, name=None):
    import late
    return block(shape, classes, width)

EXPERIMENT = dataclasses.replace(load_experiment("mnist"), name="mine", network=Network(build))
"""


@pytest.fixture
def mine(tmp_path):
    """An experiment's file whose network uses modules beside it, one of which is imported late."""
    files = {
        "mine.py": EXPERIMENT,
        "layers_of_mine/__init__.py": "",
        "layers_of_mine/blocks.py": "from .deep import DEPTH\ndef block(*given):\n    return given\n",
        "layers_of_mine/deep.py": "DEPTH = 3\n",
        "layers_of_mine/unused.py": "1 / 0\n",
        "late.py": "",
        "other.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    return tmp_path


def digest(folder: Path) -> str:
    return load(str(folder / "mine.py")).network.source.digest


@pytest.mark.parametrize(
    ("name", "old", "new", "counts"),
    [
        ("mine.py", "width: int = 8", "width: int = 9", True),
        ("mine.py", "Words about it", "Other words", False),
        ("mine.py", "    import late", "    import late  # a comment", False),
        ("mine.py", '("mnist"), name="mine"', '("mnist"), name="yours"', False),
        ("layers_of_mine/blocks.py", "return given", "return list(given)", True),
        ("layers_of_mine/deep.py", "3", "4", True),
        ("layers_of_mine/__init__.py", "", "A = 1", True),
        ("late.py", "", "A = 1", True),
        ("other.py", "", "A = 1", False),
        ("layers_of_mine/unused.py", "1", "2", False),
    ],
)
def test_all_code_of_the_network_counts_and_nothing_else(mine, name, old, new, counts):
    before = digest(mine)
    path = mine / name
    path.write_text(path.read_text().replace(old, new, 1))
    assert (digest(mine) != before) == counts


def test_a_file_that_the_code_reads_counts(mine):
    path = mine / "mine.py"
    path.write_text(path.read_text().replace("Network(build)", "Network(build, files=('data/names.txt',))"))
    with pytest.raises(ConfigError, match=r"network\.files: there is no file data/names\.txt below"):
        digest(mine)
    (mine / "data").mkdir()
    (mine / "data" / "names.txt").write_text("a")
    before = digest(mine)
    (mine / "data" / "names.txt").write_text("b")
    assert digest(mine) != before


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/hostname", "data"])
def test_a_file_is_one_below_the_code(mine, name):
    (mine / "data").mkdir()
    (mine.parent / "outside.txt").write_text("a")
    network = load(str(mine / "mine.py")).network
    with pytest.raises(ConfigError, match=r"network\.files: there is no file"):
        dataclasses.replace(network, files=(name,))


def test_the_place_of_the_code_does_not_count(mine, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "place"
    other.parent.joinpath("place").symlink_to(mine)
    assert digest(other) == digest(mine)


def test_a_copy_is_all_that_another_process_needs(mine, tmp_path_factory):
    target = tmp_path_factory.mktemp("copy") / "network"
    copy_code(load(str(mine / "mine.py")).network, target)
    names = sorted(str(path.relative_to(target)) for path in target.rglob("*.py"))
    assert names == [
        "late.py", "layers_of_mine/__init__.py", "layers_of_mine/blocks.py", "layers_of_mine/deep.py", "mine.py"
    ]  # fmt: skip
    code = (
        "import sys; from pathlib import Path; from conveyor import modules\n"
        "folder = Path(sys.argv[1])\n"
        "with modules.importable(folder): print(modules.import_file(folder, 'mine').build((1, 1, 1), 2, steps=3))"
    )
    arguments = [sys.executable, "-c", code, str(target)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    assert done.stdout.strip() == "((1, 1, 1), 2, 8)", done.stderr


def test_code_that_changes_while_it_is_copied_is_refused(mine, tmp_path):
    network = load(str(mine / "mine.py")).network
    (mine / "late.py").write_text("A = 1")
    with pytest.raises(ConfigError, match="was changed while the run began: run again"):
        copy_code(network, tmp_path / "copy")


def test_parameters_are_the_functions_and_checked_against_it(mine):
    network = load(str(mine / "mine.py")).network
    assert network.parameters == {"width": 8, "widths": (4, 8), "rate": 0.1, "name": None}
    changed = dataclasses.replace(network, parameters={"width": 16, "widths": [1, 2, 3]})
    assert changed.parameters == {"width": 16, "widths": (1, 2, 3), "rate": 0.1, "name": None}
    assert changed.source.digest == network.source.digest
    assert json.loads(to_json(changed)) == {
        "build": "mine.build",
        "parameters": {"width": 16, "widths": [1, 2, 3], "rate": 0.1, "name": None},
        "callbacks": "",
        "files": [],
        "digest": network.source.digest,
    }


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"depth": 3}, r"network has no parameter 'depth': build has width, widths, rate, name"),
        ({"steps": 3}, r"network has no parameter 'steps'"),
        ({"width": 2.5}, r"network\.width is 2\.5; it should be a valid integer"),
        ({"width": "8"}, r"network\.width is '8'; it should be a valid integer"),
        ({"rate": float("inf")}, r"network\.rate is inf; it should be a finite number"),
        ({"name": object()}, r"network\.name is <object .*; it should be"),
    ],
)
def test_wrong_parameters_are_refused(mine, parameters, message):
    network = load(str(mine / "mine.py")).network
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(network, parameters=parameters)


def test_settings_reach_parameters(mine):
    experiment = load(str(mine / "mine.py"))
    changed = override(experiment, ("network.width=64", "network.widths=[2]", "network.name=wide", "training.steps=9"))
    assert changed.network.parameters == {"width": 64, "widths": (2,), "rate": 0.1, "name": "wide"}
    assert changed.training.steps == 9
    assert experiment.network.parameters["width"] == 8


def needs_a_value(shape, classes, width):
    return width


def takes_nothing():
    return None


def of_names_alone(*, shape, classes):
    return shape, classes


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda shape, classes: None, r"network\.build: .*lambda.* must be a function that stands in a file"),
        (json.loads, r"network\.build: loads must take shape and classes first"),
        (print, r"must take|must be a function"),
        (takes_nothing, r"takes_nothing must take shape and classes first"),
        (of_names_alone, r"of_names_alone must take shape and classes first"),
        (needs_a_value, r"network\.parameters has no 'width', and needs_a_value needs it"),
        (pytest.raises, r"must take|is a library's"),
        ("build", r"network\.build is 'build'; it should be callable"),
    ],
)
def test_what_no_other_process_could_call_is_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        Network(build)


def test_a_required_parameter_is_given_in_the_experiment():
    assert Network(needs_a_value, {"width": 3}).parameters == {"width": 3}


def test_callbacks_stand_with_the_network(mine):
    network = load(str(mine / "mine.py")).network
    with pytest.raises(ConfigError, match=r"network\.callbacks: takes_nothing must be in the same file as build"):
        dataclasses.replace(network, callbacks=takes_nothing)
    assert Network(needs_a_value, {"width": 1}, callbacks=takes_nothing).source.callbacks == "takes_nothing"


def test_code_that_is_no_python_is_a_sentence(mine):
    (mine / "late.py").write_text("def\n")
    with pytest.raises(ConfigError, match=r"mine\.py, line \d+: network: invalid syntax \(late\.py, line 1\)"):
        load(str(mine / "mine.py"))
