"""Digests of code that follow imports: what a component's result may depend on, and nothing else."""

import ast
import functools
import hashlib
import importlib.metadata
import json
import platform
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("conveyor", "pipeline", "components", "trainer", "serving")
STACK = ("tfx", "tensorflow", "keras", "apache-beam", "tensorflow-model-analysis", "tensorflow-data-validation")


def code_digest(*modules: str) -> str:
    """Returns the SHA-256 of some modules, of every module of ours that they import, and of the stack's versions.

    TFX's cache knows a component by its name only, and would reuse what an older version of its code made.

    Args:
      modules: such as `components.schema_gen.component`; one that is run as a process of its own is named by itself.
    """
    digest = hashlib.sha256(json.dumps(stack_versions()).encode())
    for path in sorted({path for module in modules for path in imported_files(module)}):
        digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


@functools.lru_cache
def imported_files(module: str) -> frozenset[Path]:
    """Returns the files of a module and of all modules of ours that it imports, directly or not.

    Raises:
      ModuleNotFoundError: there is no such module of ours.
    """
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _file_of(name)
        if name in found or path is None or name == "conveyor":  # which only exports, on demand
            continue
        found[name] = path
        waiting += _imports_of(path)
        waiting += [name.rpartition(".")[0]] if "." in name else []  # a package's own `__init__` is run too
    if module not in found:
        raise ModuleNotFoundError(module)
    return frozenset(found.values())


def stack_versions() -> dict[str, str]:
    """Returns the versions of Python and of the libraries that a result depends on."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in STACK}


def _file_of(name: str) -> Path | None:
    if name.partition(".")[0] not in PACKAGES:
        return None
    base = ROOT.joinpath(*name.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


@functools.lru_cache
def _imports_of(path: Path) -> list[str]:
    """Returns the names that a file imports, also in its functions; some are names in a module, and no modules."""
    names: list[str] = []
    waiting: list[ast.AST] = [ast.parse(path.read_bytes())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue  # never run
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise ValueError(f"{path}:{node.lineno}: a relative import, which is not followed")
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names
