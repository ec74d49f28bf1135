"""What is run: the settings of an experiment, the experiments that come with Conveyor, and the way to a user's own."""

import importlib
import runpy
import traceback
from pathlib import Path

from conveyor import modules
from conveyor.errors import ConfigError
from pipeline.experiments.config import Experiment

BUILT_IN = {
    "mnist": "pipeline.experiments.built_in.mnist_tutorial",
    "cifar10": "pipeline.experiments.built_in.cifar10_tutorial",
    "mnist_best": "pipeline.experiments.built_in.mnist_best",
    "cifar10_best": "pipeline.experiments.built_in.cifar10_best",
}


def load(name: str) -> Experiment:
    """Returns an experiment.

    Args:
      name: one of `BUILT_IN`, or the path of a Python file that sets `EXPERIMENT`. The file is run: it is code, and may
        import modules beside it.

    Raises:
      ConfigError: there is no such experiment or file, or the file sets none, or a setting in it is wrong.
    """
    if name in BUILT_IN:
        return importlib.import_module(BUILT_IN[name]).EXPERIMENT
    if not name.endswith(".py"):
        raise ConfigError(f"There is no experiment {name!r}. There are {', '.join(BUILT_IN)}, or give a Python file.")
    if not Path(name).is_file():
        raise ConfigError(f"There is no file {name}.")
    folder = str(Path(name).resolve().parent)
    try:
        with modules.importable(Path(folder)):
            experiment = runpy.run_path(name).get("EXPERIMENT")
    except ConfigError as error:
        raise ConfigError(f"{name}{_line(error, name)}: {error}") from error
    except (Exception, SystemExit) as error:  # it is the user's code: where it failed, and how, is what they need
        raise ConfigError(
            f"{name}{_line(error, name)}: {type(error).__name__}: {error}{_elsewhere(error, name, folder)}"
        ) from error
    if not isinstance(experiment, Experiment):
        raise ConfigError(f"{name} must set EXPERIMENT to a conveyor.Experiment.")
    return experiment


def _elsewhere(error: BaseException, name: str, folder: str) -> str:
    """Returns the line of a sibling that an error comes from, as the end of a sentence."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    is_sibling = str(Path(last.filename).parent) == folder and Path(last.filename) != Path(name).resolve()
    return f" (in {Path(last.filename).name}, line {last.lineno})" if is_sibling and last.filename != name else ""


def _line(error: BaseException, name: str) -> str:
    """Returns the last line of a file that an error went through, as it stands in a sentence."""
    if isinstance(error, SyntaxError):
        return ""  # its text says it
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == name]
    return f", line {lines[-1]}" if lines else ""
