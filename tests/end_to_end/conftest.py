import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.digits import read_idx, write_idx

ROOT = Path(__file__).parents[2]
# A job in a shell's background ignores Ctrl+C, and so do those that it starts. A function called between fork and
# exec could mend that too, and crash: clients' threads of gRPC run in this process.
AS_IN_A_TERMINAL = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
COMMAND = [sys.executable, "-c", f"{AS_IN_A_TERMINAL}; from pipeline.cli.main import main; main()"]

EXPERIMENT = """
import dataclasses
from conveyor import Gate, Serving, load_experiment

MNIST = load_experiment("mnist")
SPLITS = dataclasses.replace(MNIST.dataset.splits, eval_examples=200)
EXPERIMENT = dataclasses.replace(
    MNIST,
    name="digits",
    dataset=dataclasses.replace(MNIST.dataset, name="digits", splits=SPLITS),
    network=dataclasses.replace(MNIST.network, parameters={"learning_rate": 1e-3}),
    training=dataclasses.replace(MNIST.training, steps=30, log_every=10, checkpoint_every=10, eval_every=20),
    gate=Gate(min_accuracy=0.6, tolerance=0.05),
    serving=Serving(model_name="digits", check_examples=100),
)
"""


class Conveyor:
    """The command, as a user types it, on a home of its own and 2,500 real digits."""

    def __init__(self, folder: Path, data: Path) -> None:
        folder.mkdir(exist_ok=True)
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

    def retrain_arguments(self, *settings: str) -> list[str]:
        return ["retrain", *self.run_arguments(*settings)[1:]]

    def retrain(self, *settings: str) -> tuple[int, str]:
        return self(*self.retrain_arguments(*settings))

    def add(self, folder: Path, *options: str) -> tuple[int, str]:
        return self("add", self.experiment, folder, "--data", self.data, *options)

    def labels(self) -> dict[str, int | None]:
        labels = json.loads((self.home / "serving" / "digits" / "labels.json").read_text())
        return {name: labels[name] for name in ("stable", "canary", "previous")}

    def run(self, *settings: str) -> tuple[int, str]:
        return self(*self.run_arguments(*settings))

    def reports(self) -> list[dict]:
        return [json.loads(path.read_text()) for path in sorted((self.home / "reports").glob("*.json"))]

    def versions(self) -> list[str]:
        return sorted(path.name for path in (self.home / "serving" / "digits").glob("[0-9]*"))

    def states(self) -> list[dict[str, str]]:
        """Returns the states of each run's components, as ML Metadata knows them, the oldest run first."""
        from pipeline.home import metadata_store
        from pipeline.home.folders import Home

        runs = metadata_store.runs(metadata_store.connect(Home.at(str(self.home))))
        return [{component.name: component.state for component in run.components} for run in runs]


@pytest.fixture
def conveyor(tmp_path, small_mnist) -> Conveyor:
    return Conveyor(tmp_path, small_mnist)


@pytest.fixture(scope="session")
def _once_pushed(tmp_path_factory, small_mnist) -> Path:
    """A folder with data, and a home folder in which version 1 was pushed."""
    folder = tmp_path_factory.mktemp("pushed")
    shutil.copytree(small_mnist, folder / "now" / "data")
    code, out = Conveyor(folder / "now", folder / "now" / "data").run()
    assert code == 0, out
    shutil.copytree(folder / "now", folder / "as-it-was", symlinks=True)
    return folder


@pytest.fixture
def pushed(_once_pushed) -> Conveyor:
    """A home folder with one pushed version, and data of its own; always in the same place, for metadata hold paths."""
    shutil.rmtree(_once_pushed / "now")
    shutil.copytree(_once_pushed / "as-it-was", _once_pushed / "now", symlinks=True)
    return Conveyor(_once_pushed / "now", _once_pushed / "now" / "data")


@pytest.fixture(scope="session")
def days(mnist, tmp_path_factory) -> list[Path]:
    """Seven folders of 300 real digits each, which are in no other data of these tests."""
    folder = tmp_path_factory.mktemp("days")
    images, labels = read_idx(mnist, "train", 2000 + 7 * 300)
    for day in range(7):
        part = slice(2000 + 300 * day, 2300 + 300 * day)
        write_idx(folder / f"day-{day + 1}", "new", images[part], labels[part])
    return [folder / f"day-{day + 1}" for day in range(7)]
