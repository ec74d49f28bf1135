"""Names versions: which one serves (`stable`), which one is tried beside it (`canary`), which one served before.

They are kept beside the versions, in a file that TensorFlow Serving does not look at, and changed by one rename.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import filelock

from serving.model_store.files import replace_file, versions

FILE = "labels.json"


class LabelsDamaged(RuntimeError):
    """The file of labels cannot be read."""


@dataclasses.dataclass(frozen=True)
class Labels:
    """A model's labels.

    Attributes:
      stable: the version that serves; None where there is none.
      canary: the version that is tried beside it.
      previous: the version that served before, and that a rollback returns to.
    """

    stable: int | None = None
    canary: int | None = None
    previous: int | None = None

    def moved(self, version: int) -> "Labels":
        """Returns the labels after a version has become the stable one."""
        if version == self.stable:
            return dataclasses.replace(self, canary=None if self.canary == version else self.canary)
        return Labels(version, None if self.canary == version else self.canary, self.stable)

    def named(self, version: int) -> list[str]:
        """Returns the labels of a version."""
        return [name for name, number in dataclasses.asdict(self).items() if number == version]


def read(base: Path) -> Labels:
    """Returns a model's labels, of versions that are there.

    Where nobody ever named one, or the stable version was deleted by hand, the previous one is stable, or the newest.

    Args:
      base: folder of the model's versions.

    Raises:
      LabelsDamaged: somebody wrote into the file.
    """
    there = versions(base)
    try:
        known = json.loads((base / FILE).read_text())
        stable, canary, previous = (known[name] if known[name] in there else None for name in Labels.__annotations__)
    except FileNotFoundError:
        stable, canary, previous = None, None, None
    except (ValueError, KeyError, TypeError) as error:
        raise LabelsDamaged(
            f"{base / FILE} is damaged: {error!r}. Delete it to serve the newest version, then roll back if need be."
        ) from error
    if stable is None:
        stable, previous = previous or max((v for v in there if v != canary), default=canary), None
        canary = None if canary == stable else canary
    return Labels(stable, canary, previous)


@contextlib.contextmanager
def changing(base: Path) -> Iterator[None]:
    """Keeps others from changing a model's labels while they are read, and written anew."""
    with filelock.FileLock(base / f".{FILE}.lock", timeout=30):
        yield


def write(base: Path, labels: Labels) -> None:
    """Writes a model's labels, all or none."""
    replace_file(base / FILE, json.dumps(dataclasses.asdict(labels), indent=1))
