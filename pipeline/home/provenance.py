"""Digests of what a model comes from: the data's content, the code and the versions it runs on."""

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Sequence
from pathlib import Path

from components.image_example_gen import spans
from components.image_example_gen.readers import DataError
from components.image_example_gen.spans import MANIFEST, Part
from pipeline.experiments.config import Dataset, Experiment
from pipeline.home.folders import Home
from trainer.settings import Job

ROOT = Path(__file__).resolve().parents[2]
STACK = ("tfx", "tensorflow", "keras", "apache-beam", "tensorflow-model-analysis", "tensorflow-data-validation")
CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Input:
    """A part of the input, and the content of its files.

    Attributes:
      part: the base files, or a span.
      files: SHA-256 of each file, by its name below the part's folder.
    """

    part: Part
    files: dict[str, str]

    @property
    def digest(self) -> str:
        """The SHA-256 over names and content, and never times."""
        lines = "".join(f"{name} {digest}\n" for name, digest in sorted(self.files.items()))
        return hashlib.sha256(lines.encode()).hexdigest()


def inputs(root: Path, dataset: Dataset) -> list[Input]:
    """Returns the base files and the spans that a run takes, all of them read once for their checksums.

    Raises:
      DataError: a span's files are not those that `conveyor add` wrote down.
    """
    return [read_input(part) for part in spans.parts(root, dataset)]


def read_input(part: Part) -> Input:
    """Returns the checksums of one part's files; see `inputs`."""
    paths = sorted({path for _, pattern in part.dataset.splits for path in part.files(pattern)})
    found = Input(part, {str(path.relative_to(part.folder)): file_digest(path) for path in paths})
    manifest = part.folder / MANIFEST
    if manifest.exists():
        added = json.loads(manifest.read_text())["files"]
        for name in sorted(added.keys() | found.files.keys()):
            if added.get(name) != found.files.get(name):
                state = "missing" if name not in found.files else "another" if name in added else "a file more"
                raise DataError.at(part.folder / name, None, "the file that was added with this span", state)
    return found


def file_digest(path: Path) -> str:
    """Returns the SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while chunk := content.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def data_digest(taken: Sequence[Input]) -> str:
    """Returns the SHA-256 of all that a run takes, by the names of its parts and files and their content."""
    lines = "".join(f"{one.part.name} {one.digest} {one.part.trained_on}\n" for one in taken)
    return hashlib.sha256(lines.encode()).hexdigest()


def code_digest(*packages: str) -> str:
    """Returns the SHA-256 of the Python sources below some packages, such as `components.atomic_pusher`, and the stack.

    TFX's cache knows a component's class by name and would reuse what an older version of its code made.
    """
    digest = hashlib.sha256(json.dumps(versions()).encode())
    for package in packages:
        for path in sorted((ROOT / package.replace(".", "/")).rglob("*.py")):
            digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def trainer_code() -> str:
    """Returns the digest of the code that makes a model of examples."""
    return code_digest("trainer", "components.network_trainer", "serving")


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the libraries that a result depends on."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in STACK}


def fingerprint(experiment: Experiment, digest_of_data: str) -> str:
    """Returns 12 hexadecimal digits that change with the experiment, the data, the code and the stack."""
    code = code_digest("pipeline", "components", "trainer", "serving")
    return hashlib.sha256(f"{experiment.digest()} {digest_of_data} {code}".encode()).hexdigest()[:12]


def checkpoint_folder(home: Home, experiment: Experiment, job: Job, digest_of_data: str, warm_start: str) -> Path:
    """Returns the folder of a training's checkpoints, named after all that determines its result.

    Args:
      home: where it lies.
      experiment: whose training it is.
      job: what is trained, and how.
      digest_of_data: see `data_digest`.
      warm_start: digest of the model whose weights the training starts from; empty for none.
    """
    settings = json.dumps([dataclasses.asdict(job), dataclasses.asdict(experiment.dataset)], sort_keys=True)
    code = code_digest("trainer", "components.image_example_gen")
    name = hashlib.sha256(f"{settings} {digest_of_data} {warm_start} {code}".encode()).hexdigest()[:16]
    return home.checkpoints / experiment.name / name
