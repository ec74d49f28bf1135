"""Digests of code that follow imports: what a component's result may depend on, and nothing else."""

import functools
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterable
from pathlib import Path

from conveyor import modules
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
    """Returns the SHA-256 of all modules of ours, and of the stack's versions."""
    return _digest({path for package in PACKAGES for path in (ROOT / package).rglob("*.py")})


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256(json.dumps(stack_versions()).encode())
    for path in sorted(files):
        digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


@functools.lru_cache
def imported_files(module: str) -> frozenset[Path]:
    """Returns the files of a module and of all modules of ours that it imports, directly or not.

    Raises:
      ModuleNotFoundError: there is no such module of ours.
    """
    return modules.imported_files(ROOT, module, skip=_is_no_code_of_ours)


@functools.lru_cache
def stack_versions() -> dict[str, str]:
    """Returns the versions of Python and of the libraries that a result depends on."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in STACK}


def _is_no_code_of_ours(module: str) -> bool:
    return module.partition(".")[0] not in PACKAGES or module == "conveyor"  # which only exports, on demand
