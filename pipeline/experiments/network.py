"""How an experiment names its network: by a function, whose code and parameters count for all that is made of it."""

import ast
import functools
import hashlib
import inspect
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pydantic
from pydantic import Field

from conveyor import modules
from conveyor.errors import ConfigError, storage_errors
from conveyor.files import file_digest
from conveyor.settings import expectation, settings
from trainer.settings import FACTS, NetworkSource, as_tuple

BUILT_IN = Path(__file__).resolve().parent / "built_in"
GIVEN = ("shape", "classes")  # the first two arguments of every such function
_VALUE = pydantic.TypeAdapter(pydantic.JsonValue)


@settings("network")
class Network:
    """A network: the function that builds it, and the values of that function's parameters.

    The function stands in the experiment's file, or in a module beside it. It is called as `build(shape, classes,
    **parameters)` and returns a Keras model; see `trainer.networks.build`. Its code, all modules of that folder that it
    imports, and `files` decide together with the parameters whether a training or a result can be used again.

    Attributes:
      build: the function.
      parameters: values for its parameters, by name; the others keep the function's defaults. A value is a number, a
        text, a truth value, None, or a list of such.
      callbacks: a function without parameters that returns a list of `keras.callbacks.Callback`; None for none.
      files: files that the code reads, such as weights, by their paths below the folder of the code.
    """

    build: Callable[..., Any]
    parameters: dict[str, Any] = Field(default_factory=dict)
    callbacks: Callable[[], Any] | None = None
    files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _home_of(self.build, "network.build")  # before anything is asked of it
        known, given = _parameters(self.build), dict(self.parameters)
        for name, parameter in known.items():
            if name not in given and parameter.default is parameter.empty:
                raise ConfigError(f"network.parameters has no {name!r}, and {self.build.__name__} needs it.")
            given.setdefault(name, parameter.default)
        values = {name: checked_parameter(self.build, name, value) for name, value in given.items()}
        object.__setattr__(self, "parameters", {name: values[name] for name in known})
        _ = self.source  # what is wrong with the code is told of here

    @functools.cached_property
    def source(self) -> NetworkSource:
        """Where the code is, and the digest of all that counts for the network."""
        folder, module = _home_of(self.build, "network.build")
        if self.callbacks is not None and _home_of(self.callbacks, "network.callbacks") != (folder, module):
            raise ConfigError(f"network.callbacks: {self.callbacks.__name__} must be in the same file as build.")
        return NetworkSource(
            folder=str(folder),
            module=module,
            build=self.build.__name__,
            callbacks=self.callbacks.__name__ if self.callbacks else "",
            parameters=self.parameters,
            digest=_digest(_contents(folder, module, self.files)),
        )

    @pydantic.model_serializer
    def _record(self) -> dict[str, Any]:
        """Returns what a record says of the network: not where its code was, but what it is."""
        return {
            "build": f"{self.source.module}.{self.source.build}",
            "parameters": self.parameters,
            "callbacks": self.source.callbacks,
            "files": list(self.files),
            "digest": self.source.digest,
        }


def copy_code(network: Network, target: Path) -> None:
    """Copies a network's code and files, so that a run goes on with what it began with.

    Raises:
      ConfigError: they are not what they were when the experiment was loaded.
      StorageError: they cannot be written.
    """
    folder, module = Path(network.source.folder), network.source.module
    with storage_errors(f"The network's code cannot be copied to {target}"):
        shutil.rmtree(target, ignore_errors=True)
        for name in _contents(folder, module, network.files):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, target / name)
    if _digest(_contents(target, module, network.files)) != network.source.digest:
        raise ConfigError(f"The network's code in {folder} was changed while the run began: run again.")


def checked_parameter(build: Callable[..., Any], name: str, value: Any) -> Any:
    """Returns a parameter's value, if it is of the kind that the function's annotation, or its default, is of.

    Raises:
      ConfigError: it is not, or there is no such parameter.
    """
    known = _parameters(build)
    if name not in known:
        there = ", ".join(known) or "none"
        raise ConfigError(f"network has no parameter {name!r}: {build.__name__} has {there}.")
    kind, default = known[name].annotation, known[name].default
    if value is None and default is None:
        return None
    if kind is inspect.Parameter.empty or isinstance(kind, str):
        kind = Any if default in (None, inspect.Parameter.empty) else type(default)
    try:
        if isinstance(value, dict):
            raise TypeError
        is_list = isinstance(value, list | tuple)  # one stands for the other in JSON
        value = as_tuple(pydantic.TypeAdapter(kind).validate_python(value, strict=not is_list))
        _VALUE.validate_python(json.loads(json.dumps(value, allow_nan=False)))
    except pydantic.ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise ConfigError(f"network.{name} is {value!r}; it {expectation(problem)}.") from None
    except (TypeError, ValueError):
        raise ConfigError(f"network.{name} is {value!r}; it should be a finite number, a text or a list.") from None
    return value


def parameter_default(build: Callable[..., Any], name: str) -> Any:
    """Returns the default of a parameter; `inspect.Parameter.empty` where it has none."""
    return _parameters(build)[name].default


def _parameters(build: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Returns a function's own parameters, by name: those that neither the images nor the training decide."""
    named = list(_signature(build).parameters.values())
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    if len(named) < len(GIVEN) or any(p.kind is inspect.Parameter.KEYWORD_ONLY for p in named[: len(GIVEN)]):
        raise ConfigError(f"network.build: {build.__name__} must take {' and '.join(GIVEN)} first.")
    return {p.name: p for p in named[len(GIVEN) :] if p.kind in kinds and p.name not in FACTS}


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    """Returns a function's signature, with annotations in place of their texts where all can be had."""
    try:
        return inspect.signature(function, eval_str=True)
    except (AttributeError, NameError, SyntaxError, TypeError):  # such as of a name that is imported for types alone
        return inspect.signature(function)


def _home_of(function: Callable[..., Any], what: str) -> tuple[Path, str]:
    """Returns the folder and the module of a function that stands in a file of the user's.

    Raises:
      ConfigError: it is no function of a module, so that no other process could find it.
    """
    name = getattr(function, "__qualname__", repr(function))
    code = getattr(inspect.unwrap(function), "__code__", None)
    path = Path(getattr(code, "co_filename", "")).resolve()
    if not path.is_file() or not name.isidentifier() or getattr(function, "__name__", "") != name:
        raise ConfigError(f"{what}: {name} must be a function that stands in a file, outside of any other function.")
    if path.parent == BUILT_IN:
        return path.parent, path.stem
    if any(name in path.parts for name in ("site-packages", "dist-packages")):
        raise ConfigError(f"{what}: {name} is a library's; define a function in the experiment's file that calls it.")
    parts = path.with_suffix("").parts
    place = parts[:-1] if parts[-1] == "__init__" else parts
    dotted = tuple(function.__module__.split("."))
    if place[-len(dotted) :] == dotted:
        return Path(*place[: -len(dotted)]), function.__module__
    return path.parent, path.stem


def _contents(folder: Path, module: str, files: tuple[str, ...]) -> Mapping[str, str]:
    """Returns the SHA-256 of all that counts, by path below the folder.

    Raises:
      ConfigError: a file is not there, is outside of the folder, or is no Python.
    """
    try:
        code = modules.imported_files(folder, module)
    except SyntaxError as error:
        raise ConfigError(f"network: {error}") from error
    except ModuleNotFoundError as error:
        raise ConfigError(f"network: the file of the module {error} is not in {folder}.") from error
    paths = {str(path.relative_to(folder)): path for path in code}
    for name in files:
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file() or ".." in Path(name).parts:
            raise ConfigError(f"network.files: there is no file {name} below {folder}.")
        paths[str(Path(name))] = path
    with storage_errors(f"The network's code in {folder} cannot be read"):
        parsed = {path: ast.parse(path.read_bytes()) for path in code}
        is_read = any(map(_reads_experiment, parsed.values()))
        return {
            name: _code_digest(parsed[path], is_read) if path in code else file_digest(path)
            for name, path in sorted(paths.items())
        }


def _code_digest(module: ast.Module, experiment_counts: bool) -> str:
    """Returns the SHA-256 of a module without what makes no other network: comments, its docstring, and EXPERIMENT.

    So a gate can be set otherwise in an experiment's file, and the training that was is reused.
    """
    body = module.body[1:] if ast.get_docstring(module, clean=False) is not None else module.body
    kept = [statement for statement in body if experiment_counts or not _sets_experiment(statement)]
    return hashlib.sha256(ast.dump(ast.Module(kept, [])).encode()).hexdigest()


def _reads_experiment(module: ast.Module) -> bool:
    """Whether anything in a module uses EXPERIMENT, its own or another's, but for what sets its own."""
    nodes = (node for statement in module.body if not _sets_experiment(statement) for node in ast.walk(statement))
    names = (node for node in nodes if isinstance(node, ast.Name | ast.Attribute | ast.alias))
    return any(
        (isinstance(node, ast.Name) and node.id == "EXPERIMENT" and isinstance(node.ctx, ast.Load))
        or (isinstance(node, ast.Attribute) and node.attr == "EXPERIMENT")
        or (isinstance(node, ast.alias) and node.name == "EXPERIMENT")
        for node in names
    )


def _sets_experiment(statement: ast.stmt) -> bool:
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return any(isinstance(target, ast.Name) and target.id == "EXPERIMENT" for target in targets)


def _digest(contents: Mapping[str, str]) -> str:
    return hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in contents.items()).encode()).hexdigest()
