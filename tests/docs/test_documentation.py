"""What the README and the documentation say is what the code does: commands, experiments, references."""

import importlib.util
import re
import shlex
from pathlib import Path

import click
import pytest

import conveyor
from pipeline.cli.main import VERBS, main
from pipeline.experiments import load

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FOLDERS = "conveyor|pipeline|components|trainer|serving|tests|benchmarks|docs|deploy|requirements"
FILE = re.compile(rf"`((?:{FOLDERS})/[\w/.]*)`")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(language):
    """Returns the code blocks of a language on every page, as (page, text)."""
    return [(page, text) for page in PAGES for kind, text in BLOCK.findall(page.read_text()) if kind == language]


def program(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def commands():
    for page, text in blocks(""):
        for line in text.replace("\\\n", " ").splitlines():
            if re.match(r"conveyor [a-z]", line):
                yield page, line.partition("  ")[0].partition(" #")[0]


def test_the_front_page_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 1200


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_shows_nothing_from_elsewhere(page):
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text())
    assert all((page.parent / picture).is_file() for picture in pictures)
    assert "```mermaid" not in page.read_text()  # drawn by a program that the site would fetch


def test_references_are_what_the_code_says():
    assert program("make_reference").stale() == []


def test_measurements_are_what_the_benchmarks_stored():
    made = program("make_measurements")
    assert made.PAGE.read_text() == made.page()


def test_there_are_commands_to_check():
    assert len(list(commands())) > 20


@pytest.mark.parametrize(
    ("page", "line"), list(commands()), ids=lambda value: value.name if isinstance(value, Path) else value
)
def test_a_command_on_a_page_exists_with_its_options(page, line):
    _, verb, *arguments = shlex.split(line)
    assert verb in VERBS or verb in ("VERB",)
    command = main.get_command(click.Context(main), verb)
    options = {name for parameter in command.params for name in parameter.opts}
    given = {word.partition("=")[0] for word in arguments if word.startswith("--")}
    assert given <= options | {"--help"}


@pytest.mark.parametrize(
    "text", [text for _, text in blocks("python") if "EXPERIMENT = " in text], ids=lambda text: text.splitlines()[0]
)
def test_an_experiment_on_a_page_loads(text, tmp_path):
    (tmp_path / "flowers.py").write_text(text)
    assert load(str(tmp_path / "flowers.py")).dataset.classes == ("daisy", "rose", "tulip")


def test_names_imported_on_a_page_are_exported():
    imports = [line for _, text in blocks("python") for line in text.splitlines() if line.startswith("from conveyor ")]
    assert imports
    names = {name.strip() for line in imports for name in line.partition(" import ")[2].split(",")}
    assert names <= set(conveyor.__all__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_in_backticks_exist(page):
    if page.parent.name == "reference":
        return
    missing = [name for name in FILE.findall(page.read_text()) if not list(ROOT.glob(name.rstrip("/")))]
    assert missing == []


@pytest.mark.parametrize("name", conveyor.__all__)
def test_everything_exported_can_be_imported(name):
    assert getattr(conveyor, name).__doc__


def test_an_unknown_name_is_an_error():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = conveyor.nothing
