import importlib.metadata
import platform
from pathlib import Path
from unittest import mock

import pytest

from components import code_digest as digests
from components.code_digest import ROOT, code_digest, imported_files, whole_digest
from conveyor.errors import StorageError


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A small tree of modules: trainer.a imports trainer.b in a function, and components.c nothing of ours."""
    files = {
        "trainer/__init__.py": "",
        "trainer/a.py": "import json\ndef f():\n    from trainer import b\n",
        "trainer/b.py": "B = 1\n",
        "trainer/other.py": "",
        "components/__init__.py": "",
        "components/c.py": "import numpy\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(digests, "ROOT", tmp_path)
    _forget()
    yield tmp_path
    _forget()


def _forget():
    digests.imported_files.cache_clear()


def names(root, module):
    return sorted(str(path.relative_to(root)) for path in imported_files(module))


def test_imports_are_followed_also_in_functions(tree):
    assert names(tree, "trainer.a") == ["trainer/__init__.py", "trainer/a.py", "trainer/b.py"]
    assert names(tree, "components.c") == ["components/__init__.py", "components/c.py"]


@pytest.mark.parametrize(
    ("changed", "differs"), [("trainer/b.py", True), ("trainer/other.py", False), ("components/c.py", False)]
)
def test_a_digest_changes_with_what_is_imported_and_nothing_else(tree, changed, differs):
    before = code_digest("trainer.a")
    (tree / changed).write_text("B = 2\n")
    _forget()
    assert (code_digest("trainer.a") != before) == differs


@pytest.mark.parametrize(
    ("changed", "differs"), [("trainer/other.py", True), ("components/c.py", True), ("x.py", False)]
)
def test_the_whole_digest_is_of_every_module_of_ours(tree, changed, differs):
    before = whole_digest()
    (tree / changed).write_text("B = 2\n")
    assert (whole_digest() != before) == differs


@pytest.mark.parametrize(
    "odd",
    ["trainer/.#a.py", "trainer/.ipynb_checkpoints/a.py", "trainer/.conveyor/network/net.py", "trainer/home/n.py"],
)
def test_the_whole_digest_is_not_of_what_else_lies_there(tree, odd):
    before = whole_digest()
    (tree / odd).parent.mkdir(parents=True, exist_ok=True)
    (tree / odd).write_text("B = 2\n")
    (tree / "trainer" / ".#b.py").symlink_to("me@host.123")  # as Emacs locks a file
    (tree / "trainer" / "folder.py").mkdir()
    assert whole_digest() == before


def test_code_that_cannot_be_read_is_told(tree, monkeypatch):
    monkeypatch.setattr(Path, "read_bytes", mock.Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(StorageError, match=r"own code cannot be read: .*Permission denied"):
        whole_digest()


def test_a_missing_module_is_an_error(tree):
    with pytest.raises(ModuleNotFoundError, match=r"trainer\.nothing"):
        code_digest("trainer.nothing")


@pytest.mark.parametrize(
    ("module", "depends_on"),
    [
        ("components.schema_gen.component", "components/image_example_gen/dataset.py"),
        ("components.servability_check.component", "trainer/examples.py"),
        ("serving.servability", "serving/server/models/bundle.py"),
        ("trainer.__main__", "trainer/networks.py"),
    ],
)
def test_our_own_components_know_what_they_import(module, depends_on):
    assert ROOT / depends_on in imported_files(module)


def test_the_trainer_does_not_depend_on_the_client_or_the_page():
    files = imported_files("trainer.__main__") | imported_files("components.network_trainer.executor")
    assert not [path for path in files if "client" in path.parts or "page" in path.parts]


def test_another_stack_makes_another_digest(tree, monkeypatch):
    before = code_digest("components.c")
    versions = digests.stack_versions()
    assert versions["python"] == platform.python_version()
    assert versions["tensorflow"] == importlib.metadata.version("tensorflow")
    monkeypatch.setattr(digests, "stack_versions", lambda: versions | {"tensorflow": "another"})
    assert code_digest("components.c") != before


def test_what_is_done_to_a_picture_counts_for_what_is_ingested():
    assert ROOT / "trainer" / "pictures.py" in imported_files("components.image_example_gen.executor")
