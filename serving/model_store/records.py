"""What a version says of itself: where it comes from, and which images it takes."""

import dataclasses
import json
from pathlib import Path
from typing import Any, get_origin, get_type_hints

RECORD = Path("assets.extra", "conveyor.json")  # the server ignores what it does not know in assets.extra
DATASET = Path("assets", "dataset.json")


@dataclasses.dataclass(frozen=True)
class VersionRecord:
    """Where a version comes from, as its push wrote it down.

    Attributes:
      run: name of the run that pushed it.
      experiment: the experiment's fields.
      data_digest: SHA-256 of the data.
      parts: SHA-256 of each part that it was trained on, by the part's name.
      warm_start: the version whose weights its training started from; None for a training from scratch.
      trainer_digest: SHA-256 of the code that trained it.
      pipeline_digest: SHA-256 of all code of Conveyor when it was pushed; empty in versions of before.
      version: its number.
      pushed: when it was pushed, in UTC, ISO 8601; empty in versions of before.
      digest: SHA-256 over its files, but for this record.
      model_digest: SHA-256 over those of the model itself, see `store.MODEL_FILES`; empty in versions of 0.1.0.
      identity: see `identity.model_identity`; empty in versions of 0.1.0.
    """

    run: str = ""
    experiment: dict[str, Any] = dataclasses.field(default_factory=dict)
    data_digest: str = ""
    parts: dict[str, str] = dataclasses.field(default_factory=dict)
    warm_start: int | None = None
    trainer_digest: str = ""
    pipeline_digest: str = ""
    version: int = 0
    pushed: str = ""
    digest: str = ""
    model_digest: str = ""
    identity: str = ""

    @classmethod
    def from_dict(cls, fields: Any) -> "VersionRecord":
        """Returns the record in the fields of a JSON object; those that it does not know are left out.

        Raises:
          TypeError: it is no JSON object, or a field has another type.
        """
        if not isinstance(fields, dict):
            raise TypeError(f"a record is an object, not {fields!r}")
        if "code" in fields:  # as 0.1.0 called it
            fields = {"trainer_digest": fields["code"], **fields}
        known = {name: kind for name, kind in get_type_hints(cls).items() if name in fields}
        for name, kind in known.items():
            if not isinstance(fields[name], dict if get_origin(kind) is dict else kind):
                raise TypeError(f"{name} is {fields[name]!r}")
        return cls(**{name: fields[name] for name in known})

    @classmethod
    def read(cls, version: Path) -> "VersionRecord | None":
        """Returns the record in a version's folder; None where there is none, or none of ours."""
        try:
            return cls.from_dict(json.loads((version / RECORD).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    @property
    def experiment_name(self) -> str | None:
        """Name of the experiment that made the version."""
        return self.experiment.get("name")


@dataclasses.dataclass(frozen=True)
class ModelDataset:
    """What a version says of the images that it takes.

    Attributes:
      shape: height, width and channels, in pixels.
      classes: class names, in the order of their labels.
      resize: how a picture of another size is brought to that: `squash`, `crop` or `pad`; empty in versions of 0.1.0.
      background: the colour behind transparent pixels and around padded pictures.
    """

    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    resize: str = ""
    background: str = ""


def read_dataset(version: Path) -> ModelDataset | None:
    """Returns the shape and the classes in the assets of a version's folder; None where it does not say."""
    try:
        fields = json.loads((version / DATASET).read_text())
        height, width, channels = fields["shape"]
        how = {name: str(fields.get(name, "")) for name in ("resize", "background")}
        return ModelDataset((height, width, channels), tuple(fields["classes"]), **how)
    except (OSError, ValueError, KeyError, TypeError):
        return None
