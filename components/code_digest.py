"""Digests of code that follow imports: what a component's result may depend on, and nothing else."""

import functools
import hashlib
import importlib.metadata
import json
import pkgutil
import platform
from collections.abc import Iterable, Iterator
from pathlib import Path

from conveyor import modules
from conveyor.errors import storage_errors
from conveyor.modules import PACKAGES

ROOT = Path(__file__).resolve().parents[1]
STACK = ("tfx", "tensorflow", "keras", "apache-beam", "tensorflow-model-analysis", "tensorflow-data-validation")


def code_digest(*names: str) -> str:
    """Returns the SHA-256 of some modules, of every module of ours that they import, and of the stack's versions.

    TFX's cache knows a component by its name only, and would reuse what an older version of its code made. The networks
    of experiments have digests of their own.

    Args:
      names: such as `components.schema_gen.component`; a module that is run as a process of its own is named by itself.
    """
    return _digest({path for name in names for path in imported_files(name)})


def whole_digest() -> str:
    """Returns the SHA-256 of all modules of ours, and of the stack's versions.

    Raises:
      StorageError: a module cannot be read.
    """
    return _digest(path for package in PACKAGES for path in _modules(ROOT / package))


def _modules(package: Path) -> Iterator[Path]:
    """Yields the files of a package; not an editor's or a home folder's, which may lie in its folder too."""
    for module in pkgutil.iter_modules([str(package)]):
        path = package / module.name
        yield from _modules(path) if module.ispkg else [path.with_suffix(".py")]
    yield package / "__init__.py"


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256(json.dumps(stack_versions()).encode())
    with storage_errors("Conveyor's own code cannot be read"):
        for path in sorted(path for path in files if path.is_file()):
            digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


@functools.lru_cache
def imported_files(module: str) -> frozenset[Path]:
    """Returns the files of a module and of all modules of ours that it imports, directly or not.

    Raises:
      ModuleNotFoundError: there is no such module of ours.
    """
    return modules.imported_files(ROOT, module, skip=_is_no_code_of_ours)


def stack_versions() -> dict[str, str]:
    """Returns the versions of Python and of the libraries that a result depends on."""
    return {"python": platform.python_version()} | {name: _version(name) for name in STACK}


_version = functools.lru_cache(importlib.metadata.version)  # which reads a file each time


def _is_no_code_of_ours(module: str) -> bool:
    return module.partition(".")[0] not in PACKAGES or module == "conveyor"  # which only exports, on demand
