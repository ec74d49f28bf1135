"""The model that a new one has to beat: the version that serves, whatever was pushed or blessed since."""

import dataclasses
from pathlib import Path

from pipeline.experiments.config import Experiment
from pipeline.home.folders import Home
from pipeline.home.provenance import Input
from serving.model_store import labels
from serving.model_store.files import read_record, tree_digest
from trainer.settings import Job


@dataclasses.dataclass(frozen=True)
class Baseline:
    """The version that serves.

    Attributes:
      version: its number.
      path: its folder.
      digest: SHA-256 over its files.
      parts: digests of the parts of the data that it was trained on, by name; empty where nobody wrote them down.
    """

    version: int
    path: Path
    digest: str
    parts: dict[str, str]

    def knows(self, one: Input) -> bool:
        """Whether it was trained with a part of the data."""
        return self.parts.get(one.part.name) == one.digest

    def as_artifact(self, folder: Path) -> Path:
        """Returns a folder that looks like a Trainer's output: TFX looks for a model below `Format-Serving`."""
        wrapper = folder / f"{self.version}-{self.digest[:16]}"
        wrapper.mkdir(parents=True, exist_ok=True)
        link = wrapper / "Format-Serving"
        link.unlink(missing_ok=True)
        link.symlink_to(self.path, target_is_directory=True)
        return wrapper


def serving(home: Home, experiment: Experiment) -> Baseline | None:
    """Returns the version that serves; None where there is none, or its files are not what was pushed."""
    base = home.serving / experiment.serving.model_name
    version = labels.read(base).stable if base.is_dir() else None
    if version is None:
        return None
    path = base / str(version)
    record, digest = read_record(path), tree_digest(path)
    if record.get("digest", digest) != digest:
        return None
    return Baseline(version, path, digest, record.get("parts", {}))


def job(experiment: Experiment, baseline: Baseline | None) -> tuple[Job, str]:
    """Returns what is to be trained, and the digest of the model whose weights it starts from; empty for none."""
    whole = experiment.job()
    if baseline is None or not experiment.training.warm_steps:
        return whole, ""
    fewer = dataclasses.replace(experiment.training, steps=experiment.training.warm_steps)
    return dataclasses.replace(whole, training=fewer), baseline.digest
