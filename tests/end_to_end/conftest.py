import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from pipeline.cli import main; main()"]

EXPERIMENT = """
import dataclasses
from pipeline.config import Gate, Serving
from pipeline.experiments import load

MNIST = load("mnist")
EXPERIMENT = dataclasses.replace(
    MNIST,
    name="digits",
    dataset=dataclasses.replace(MNIST.dataset, name="digits", canonical=False, eval_examples=200),
    training=dataclasses.replace(MNIST.training, learning_rate=1e-3, steps=30, log_every=10, eval_every=20),
    gate=Gate(min_accuracy=0.6, tolerance=0.05),
    serving=Serving(model_name="digits", check_examples=100),
)
"""


class Conveyor:
    """The command, as a user types it, on a home of its own and 2,500 real digits."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.data = data
        self.experiment = folder / "digits.py"
        self.experiment.write_text(EXPERIMENT)

    def start(self, *arguments: str, **options) -> subprocess.Popen:
        """Starts the command in a process group of its own."""
        return subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            cwd=ROOT,
            env=os.environ | {"CONVEYOR_HOME": str(self.home)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            **options,
        )

    def __call__(self, *arguments: str) -> tuple[int, str]:
        """Returns the exit code and all that was printed."""
        with self.start(*arguments) as process:
            out = process.stdout.read()
        return process.returncode, out

    def run_arguments(self, *settings: str) -> list[str]:
        sets = [part for setting in settings for part in ("--set", setting)]
        return ["run", str(self.experiment), "--data", str(self.data), *sets]

    def run(self, *settings: str) -> tuple[int, str]:
        return self(*self.run_arguments(*settings))

    def reports(self) -> list[dict]:
        return [json.loads(path.read_text()) for path in sorted((self.home / "reports").glob("*.json"))]

    def versions(self) -> list[str]:
        return sorted(path.name for path in (self.home / "serving" / "digits").glob("[0-9]*"))

    def states(self) -> list[dict[str, str]]:
        """Returns the states of each run's components, as ML Metadata knows them, the oldest run first."""
        from pipeline import lineage
        from pipeline.home import Home

        runs = lineage.runs(lineage.connect(Home(self.home)))
        return [{component.name: component.state for component in run.components} for run in runs]


@pytest.fixture
def conveyor(tmp_path, small_mnist) -> Conveyor:
    return Conveyor(tmp_path, small_mnist)
