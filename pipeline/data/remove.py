"""`conveyor remove`: takes a span out of the input at once, and keeps it in a bin beside the others."""

import contextlib
import dataclasses
from pathlib import Path

import filelock

from components.image_example_gen import spans
from conveyor.errors import ConfigError, storage_errors
from conveyor.files import flush
from pipeline.data.add import LOCK


@dataclasses.dataclass(frozen=True)
class Removed:
    """A span that was taken out.

    Attributes:
      span: its name, which no other will get.
      kept: the folder that it is in now.
    """

    span: str
    kept: str


def remove(root: Path, name: str) -> Removed:
    """Moves a span into the bin by one rename. What is known of it, and of models that were trained on it, stays.

    Args:
      root: the input folder.
      name: the span's.

    Raises:
      ConfigError: there is no such span.
      StorageError: it cannot be moved.
    """
    with storage_errors(f"{name} cannot be taken out of {root}"), contextlib.ExitStack() as stack:
        there = sorted(path.name for path in root.glob("*") if path.is_dir() and spans.order(path.name) is not None)
        if name not in there:
            known = f"there are {', '.join(there)}" if there else "there are none"
            raise ConfigError(f"There is no span {name!r} in {root}: {known}.")
        stack.enter_context(filelock.FileLock(root / LOCK))
        kept = _free_place(root / spans.BIN, name)
        kept.parent.mkdir(exist_ok=True)
        (root / name).rename(kept)
        flush(kept.parent)
        flush(root)
    return Removed(name, str(kept))


def _free_place(folder: Path, name: str) -> Path:
    """Returns a folder's place in the bin; one that came back and goes again gets another than the first time."""
    number = 1
    while (place := folder / (name if number == 1 else f"{name}.{number}")).exists():
        number += 1
    return place
