"""Python modules of one folder: which of them a module imports, and how they are imported from there."""

import ast
import contextlib
import functools
import importlib
import importlib.abc
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGES = ("conveyor", "pipeline", "components", "trainer", "serving")


def imported_files(folder: Path, module: str, skip: Callable[[str], bool] = lambda _: False) -> frozenset[Path]:
    """Returns the files of a module and of all modules of the same folder that it imports, directly or not.

    Args:
      folder: where the modules are, packages included.
      module: such as `flowers` or `networks.resnet`.
      skip: whether a module, by its name, is left out, with all that it alone imports.

    Raises:
      ModuleNotFoundError: there is no such module in the folder.
      SyntaxError: a file is no Python.
    """
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = None if name in found or skip(name) else _file_of(folder, name)
        if path is None:
            continue
        found[name] = path
        waiting += _imports_of(path, name)
        waiting += [name.rpartition(".")[0]] if "." in name else []  # a package's own `__init__` is run too
    if module not in found:
        raise ModuleNotFoundError(module)
    return frozenset(found.values())


def _file_of(folder: Path, name: str) -> Path | None:
    if (folder / f"{name}.py").is_file() and not (folder / name).is_dir():  # also one whose name has a dot
        return folder / f"{name}.py"
    base = folder.joinpath(*name.split("."))
    places = (base / "__init__.py", base.with_name(f"{base.name}.py"))  # a package comes first, as in Python
    return next((path for path in places if path.is_file()), None)


def _imports_of(path: Path, module: str) -> list[str]:
    """Returns the names that a file imports, also in its functions; some are names in a module, and no modules."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    names: list[str] = []
    for node in _imports(path.read_bytes(), str(path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            parent = ".".join([*above, *([node.module] if node.module else [])])
            names += [name for name in (parent, *(f"{parent}.{alias.name}" for alias in node.names)) if name]
    return names


@functools.lru_cache(maxsize=1000)  # several modules import the same ones
def _imports(source: bytes, filename: str) -> tuple[ast.Import | ast.ImportFrom, ...]:
    """Returns the import statements of a file, but for those that only a type checker runs."""
    found: list[ast.Import | ast.ImportFrom] = []
    waiting: list[ast.AST] = [ast.parse(source, filename=filename)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found.append(node)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
        else:  # statements are in statements: expressions, which are most of a file, need not be looked at
            for field in ("body", "orelse", "finalbody", "handlers", "cases"):
                inner = getattr(node, field, ())
                waiting += inner if isinstance(inner, list) else ()
    return tuple(found)


@contextlib.contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Makes the modules of a folder importable as long as the block lasts.

    They hide neither Python's own modules nor installed ones, and are found before others of their names, such as those
    that they are a copy of. What was imported from there is forgotten at the end: another folder's module may have the
    same name.
    """
    if any(isinstance(finder, _Siblings) and finder.folder == folder for finder in sys.meta_path):
        yield
        return
    place, known, finder = str(folder), set(sys.modules), _Siblings(folder)
    sys.meta_path.insert(0, finder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in set(sys.modules) - known:
            if str(getattr(sys.modules[name], "__file__", None) or "").startswith(f"{place}{os.sep}"):
                del sys.modules[name]


class _Siblings(importlib.abc.MetaPathFinder):
    """Finds the modules of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:  # noqa: ARG002
        if path is not None or fullname in (*sys.stdlib_module_names, *PACKAGES):  # in a package, or another's name
            return None
        found = PathFinder.find_spec(fullname, [str(self.folder)])
        installed = [place for place in sys.path if place.endswith(("site-packages", "dist-packages"))]
        return None if found is None or PathFinder.find_spec(fullname, installed) else found


def import_file(folder: Path, module: str) -> ModuleType:
    """Runs a module of a folder and returns it; see `importable`.

    Args:
      folder: where the module is.
      module: such as `flowers` or `networks.resnet`.

    Raises:
      ModuleNotFoundError: there is no such module in the folder.
      Exception: whatever the module raises.
    """
    path = _file_of(folder, module)
    if path is None:
        raise ModuleNotFoundError(module)
    if path.parent != folder:  # by its name: its relative imports need the packages above it
        return importlib.import_module(module)
    specification = importlib.util.spec_from_file_location(module, path)
    assert specification is not None  # it is a Python file
    assert specification.loader is not None
    made = importlib.util.module_from_spec(specification)
    sys.modules.setdefault(module, made)  # where a dataclass looks for its annotations
    specification.loader.exec_module(made)
    return made


def explained(error: BaseException, folder: Path) -> str:
    """Returns an error of a user's code in words: its type, its text, and the last line of the folder it went through.

    Args:
      error: what was raised.
      folder: where the user's code is.
    """
    what = f"{type(error).__name__}: {' '.join(str(error).split())}"
    if isinstance(error, SyntaxError):
        return what  # its text says where
    inside = [
        frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(folder)
    ]
    return f"{what} ({Path(inside[-1].filename).relative_to(folder)}, line {inside[-1].lineno})" if inside else what
