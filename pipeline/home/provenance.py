"""What a model comes from: its settings, the content of its data, its code, and the weights that it started from."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

from components.code_digest import code_digest, stack_versions
from pipeline.experiments.config import Experiment
from serving.model_store import VersionRecord

# Where the trainer's code begins: TFX is given a function by its name, that starts a process by its own; networks may
# use our layers.
TRAINER_MODULES = ("components.network_trainer.executor", "trainer.__main__", "trainer.layers")


@dataclasses.dataclass(frozen=True)
class PartDigest:
    """A part of the data.

    Attributes:
      name: `base`, or the span's name.
      digest: SHA-256 over the names and the content of its files.
      trained_on: whether it is in the window of training.
    """

    name: str
    digest: str
    trained_on: bool


@dataclasses.dataclass(frozen=True)
class Provenance:
    """What determines a model.

    Attributes:
      experiment: the settings.
      parts: the parts of the data, the base files first.
      warm_start: the version whose weights the training starts from; None for a training from scratch.
      trainer_digest: SHA-256 of the code that makes a model of examples.
      pipeline_digest: SHA-256 of all code that a run may go through; see `whole_digest`.
      baseline: SHA-256 over the files of the stable version, which the model has to beat; empty where there is none.
    """

    experiment: Experiment
    parts: tuple[PartDigest, ...]
    warm_start: int | None
    trainer_digest: str
    pipeline_digest: str
    baseline: str = ""

    @property
    def data_digest(self) -> str:
        """The SHA-256 of all data; see `data_digest`."""
        return data_digest(self.parts)

    @property
    def fingerprint(self) -> str:
        """12 hexadecimal digits that change with the settings, the data, the code and the stack."""
        whole = f"{self.experiment.digest()} {self.data_digest} {self.pipeline_digest}"
        return hashlib.sha256(whole.encode()).hexdigest()[:12]

    def version_record(self, run_id: str) -> VersionRecord:
        """Returns what a version that the run pushes says of itself."""
        return VersionRecord(
            run=run_id,
            experiment=self.experiment.to_dict(),
            data_digest=self.data_digest,
            parts={part.name: part.digest for part in self.parts if part.trained_on},
            warm_start=self.warm_start,
            trainer_digest=self.trainer_digest,
            pipeline_digest=self.pipeline_digest,
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the provenance for the JSON of a run report."""
        return {
            "experiment": self.experiment.to_dict(),
            "data": {"digest": self.data_digest, "parts": [dataclasses.asdict(part) for part in self.parts]},
            "warm_start": self.warm_start,
            "baseline": self.baseline,
            "code": {"trainer_digest": self.trainer_digest, "pipeline_digest": self.pipeline_digest},
            "versions": stack_versions(),
        }


def data_digest(parts: Sequence[PartDigest]) -> str:
    """Returns the SHA-256 of all data, by the names of the parts and their content."""
    lines = "".join(f"{part.name} {part.digest} {part.trained_on}\n" for part in parts)
    return hashlib.sha256(lines.encode()).hexdigest()


def trainer_digest() -> str:
    """Returns the SHA-256 of the code that makes a model of examples, and of the stack."""
    return code_digest(*TRAINER_MODULES)
