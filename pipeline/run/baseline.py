"""The model that a new one has to beat: the stable version, whatever was pushed or blessed since."""

import dataclasses
from pathlib import Path

from components.image_example_gen.spans import BASE, is_later
from conveyor.errors import ConfigError, ConveyorError, storage_errors
from pipeline.data.inputs import Input
from pipeline.experiments.config import Experiment
from pipeline.home.folders import Home
from serving.model_store import VersionRecord

IMAGES = ("shape", "resize", "background", "classes")  # of a data set: what an image of it is


class BaselineDamaged(ConveyorError):
    """The stable version is not what was pushed, so that nothing can be compared with it."""


@dataclasses.dataclass(frozen=True)
class Baseline:
    """The stable version.

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

    def was_trained_on(self, source: Input) -> bool:
        """Whether it was trained on a part of the data."""
        return self.parts.get(source.part.name) == source.digest

    def has_arrived_since(self, source: Input) -> bool:
        """Whether a part is another than it was, or a span that is later than all that it was trained on.

        An older part that it was not trained on lay outside its window, and is no news.
        """
        name = source.part.name
        if name in self.parts:
            return not self.was_trained_on(source)
        if name == BASE:
            return False
        return all(is_later(name, span) for span in self.parts if span != BASE)

    def as_artifact(self, folder: Path) -> Path:
        """Returns a folder that looks like a Trainer's output: TFX looks for a model below `Format-Serving`."""
        wrapper = folder / f"{self.version}-{self.digest[:16]}"
        link = wrapper / "Format-Serving"
        with storage_errors(f"{link} cannot be made"):
            wrapper.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(self.path, target_is_directory=True)
        return wrapper


def other_images(record: VersionRecord, experiment: Experiment) -> str:
    """Returns why a version's images, or its test split, are not the experiment's; empty where they are.

    Then accuracies do not compare: a hash of an image's pixels decides on its split, so that with other pixels images
    that the version was trained on may be in the test split now.
    """
    then, now = record.experiment.get("dataset", {}), experiment.to_dict()["dataset"]
    changed = [name for name in IMAGES if name in then and then[name] != now[name]]
    found = [
        "dataset.classes were others"
        if name == "classes"
        else f"dataset.{name} was {then[name]}, and is {now[name]} now"
        for name in changed
    ]
    before, share = then.get("splits", {}).get("test_share"), now["splits"].get("test_share")
    if before is not None and before != share:
        found.append(f"dataset.splits.test_share was {before}, and is {share} now")
    return "; ".join(found)


def find_baseline(home: Home, experiment: Experiment) -> tuple[Baseline | None, str]:
    """Returns the stable version, None where there is none to compare with, and why a stable version is none.

    Raises:
      BaselineDamaged: it is not the model that was pushed.
      ConfigError: its examples are of another kind.
      LabelsDamaged: nobody can say which version is stable.
    """
    model = home.models.model(experiment.serving.model_name)
    version = model.stable()
    if version is None:
        return None, ""
    if not model.is_intact(version):
        raise BaselineDamaged(
            f"The stable version {version} of {model.name} is not the model that was pushed: files in "
            f"{model.path(version)} were changed or damaged. `conveyor rollback {model.name}` makes the version before "
            "it stable; or remove the folder, to go on without it."
        )
    record = model.record(version) or VersionRecord()
    kept = bool(record.experiment.get("dataset", {}).get("keep_encoded"))
    if kept != experiment.dataset.keep_encoded:
        raise ConfigError(
            f"dataset.keep_encoded was {str(kept).lower()} for the stable version {version} of {model.name}, which "
            "reads no other examples: they could not be compared. Give the model another name, serving.model_name."
        )
    if why := other_images(record, experiment):
        return None, f"Version {version} is no baseline, and nothing is trained on from it: {why}."
    return Baseline(version, model.path(version), record.digest or model.digest(version), record.parts), ""
