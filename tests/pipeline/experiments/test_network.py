import dataclasses
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from conveyor import modules
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


def test_experiment_counts_where_the_code_reads_it(mine):
    path = mine / "mine.py"
    path.write_text(path.read_text().replace("    import late\n", "    print(EXPERIMENT.gate.min_accuracy)\n"))
    before = digest(mine)
    path.write_text(
        path.read_text().replace('name="mine"', 'name="mine", gate=None or load_experiment("cifar10").gate')
    )
    assert digest(mine) != before


def test_what_is_only_checked_by_types_does_not_count_but_its_other_branch_does(mine):
    path = mine / "mine.py"
    lines = ("from typing import TYPE_CHECKING", "if TYPE_CHECKING:", "    import layers_of_mine.unused", "else:")
    more = "\n".join((*lines, "    import other", ""))
    path.write_text(path.read_text().replace("import dataclasses\n", f"import dataclasses\n{more}"))
    before = digest(mine)
    (mine / "layers_of_mine" / "unused.py").write_text("A = 1")
    assert digest(mine) == before
    (mine / "other.py").write_text("A = 1")
    assert digest(mine) != before


def test_a_package_comes_before_a_module_of_its_name_as_in_python(mine):
    (mine / "late").mkdir()
    (mine / "late" / "__init__.py").touch()
    before = digest(mine)
    (mine / "late.py").write_text("A = 1")
    assert digest(mine) == before
    (mine / "late" / "__init__.py").write_text("A = 1")
    assert digest(mine) != before


def test_a_name_with_a_dot_is_a_name(mine, tmp_path_factory):
    (mine / "mine.py").rename(mine / "mine.v2.py")
    network = load(str(mine / "mine.v2.py")).network
    assert network.source.module == "mine.v2"
    copy = tmp_path_factory.mktemp("copy") / "network"
    copy_code(network, copy)
    with modules.importable(copy):
        assert modules.import_file(copy, "mine.v2").build((1, 1, 1), 2, steps=3) == ((1, 1, 1), 2, 8)


def test_a_copy_is_found_before_what_it_was_made_of(mine, tmp_path_factory, monkeypatch):
    """Also where the folder is on Python's own path, and was edited since."""
    network = load(str(mine / "mine.py")).network
    copy = tmp_path_factory.mktemp("copy") / "network"
    copy_code(network, copy)
    (mine / "layers_of_mine" / "blocks.py").write_text("def block(*given):\n    return 'edited'\n")
    monkeypatch.syspath_prepend(str(mine))
    with modules.importable(copy):
        assert modules.import_file(copy, "mine").build((1, 1, 1), 2, steps=3) == ((1, 1, 1), 2, 8)


def test_a_file_may_be_a_link_within_the_folder(mine, tmp_path_factory):
    (mine / "real.h5").write_text("weights")
    (mine / "weights.h5").symlink_to(mine / "real.h5")
    network = dataclasses.replace(load(str(mine / "mine.py")).network, files=("weights.h5",))
    copy = tmp_path_factory.mktemp("copy") / "network"
    copy_code(network, copy)
    assert (copy / "weights.h5").read_text() == "weights"


def test_a_decorated_function_is_that_of_its_own_file(mine):
    (mine / "late.py").write_text(
        "import functools\ndef logged(f):\n"
        "    @functools.wraps(f)\n    def g(*a, **k):\n        return f(*a, **k)\n    return g\n"
    )
    path = mine / "mine.py"
    path.write_text(path.read_text().replace("def build(", "from late import logged\n\n@logged\ndef build("))
    source = load(str(path)).network.source
    assert (source.folder, source.module) == (str(mine), "mine")
    with modules.importable(mine):
        assert modules.import_file(mine, "mine").build((1, 1, 1), 2, steps=3) == ((1, 1, 1), 2, 8)


def test_dataclasses_with_annotations_as_texts_can_be_imported(mine):
    (mine / "options.py").write_text(
        "from __future__ import annotations\nimport dataclasses\n"
        "@dataclasses.dataclass\nclass Options:\n    width: int = 4\n"
    )
    with modules.importable(mine):
        assert modules.import_file(mine, "options").Options().width == 4


def lists_and_none(shape, classes, widths: list[int] = [1], dropout: float = None):  # noqa: B006, RUF013
    return widths, dropout


def of_a_class(shape, classes, kind=dict):
    return kind


def test_defaults_of_the_functions_own_are_taken():
    assert Network(lists_and_none).parameters["dropout"] is None
    with pytest.raises(ConfigError, match=r"network\.widths is \{1: 2\}; it should be"):
        Network(lists_and_none, {"widths": {1: 2}})
    with pytest.raises(ConfigError, match=r"network\.kind is <class 'dict'>; it should be"):
        Network(of_a_class)
