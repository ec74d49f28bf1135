"""Digests of what a model comes from: the data's content, the code and the versions it runs on."""

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
from pathlib import Path

from pipeline.config import Dataset, Experiment
from pipeline.home import Home

ROOT = Path(__file__).resolve().parent.parent
STACK = ("tfx", "tensorflow", "keras", "apache-beam", "tensorflow-model-analysis", "tensorflow-data-validation")
CHUNK = 1 << 20


def data_digest(root: Path, dataset: Dataset) -> str:
    """Returns the SHA-256 of all of a data set's files, by their names below `root` and content, never their times."""
    patterns = [pattern.replace("{SPAN}", "*") for _, pattern in dataset.splits]
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in root.glob(pattern) if path.is_file()}):
        file_digest = hashlib.sha256()
        with path.open("rb") as content:
            while chunk := content.read(CHUNK):
                file_digest.update(chunk)
        digest.update(f"{path.relative_to(root)} {file_digest.hexdigest()}\n".encode())
    return digest.hexdigest()


def code_digest(*packages: str) -> str:
    """Returns the SHA-256 of the Python sources below some packages, such as `components.atomic_pusher`, and the stack.

    TFX's cache knows a component's class by name and would reuse what an older version of its code made.
    """
    digest = hashlib.sha256(json.dumps(versions()).encode())
    for package in packages:
        for path in sorted((ROOT / package.replace(".", "/")).rglob("*.py")):
            digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the libraries that a result depends on."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in STACK}


def fingerprint(experiment: Experiment, digest_of_data: str) -> str:
    """Returns 12 hexadecimal digits that change with the experiment, the data, the code and the stack."""
    code = code_digest("pipeline", "components", "trainer", "serving")
    return hashlib.sha256(f"{experiment.digest()} {digest_of_data} {code}".encode()).hexdigest()[:12]


def checkpoint_folder(experiment: Experiment, home: Home, digest_of_data: str) -> Path:
    """Returns the folder of a training's checkpoints, named after all that determines its result."""
    settings = json.dumps(
        [dataclasses.asdict(experiment.job()), dataclasses.asdict(experiment.dataset)], sort_keys=True
    )
    code = code_digest("trainer", "components.image_example_gen")
    name = hashlib.sha256(f"{settings} {digest_of_data} {code}".encode()).hexdigest()[:16]
    return home.checkpoints / experiment.name / name
