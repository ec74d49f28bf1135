"""Puts a model where TensorFlow Serving finds it: whole or not at all, under a number that only grows.

TensorFlow Serving loads any folder with a numeric name the moment it sees it, complete or not, and never looks at that
number again. So a version is built under another name, flushed to the disk, verified, and appears by one rename.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

RECORD = Path("assets.extra", "conveyor.json")  # the server ignores what it does not know in assets.extra
LAST_VERSION = ".last_version"
STAGING = ".staging"


class PushError(RuntimeError):
    """The model could not be put in its place; what was there before is untouched."""


@dataclasses.dataclass(frozen=True)
class Pushed:
    """The outcome of a push.

    Attributes:
      version: the number that the model is served under.
      path: its folder.
      new: False if the same model was there already.
    """

    version: int
    path: Path
    new: bool


def push(model: Path, base: Path, record: dict[str, Any]) -> Pushed:
    """Copies a SavedModel to the next version, unless it is there already.

    Args:
      model: folder of the SavedModel.
      base: folder of the served model's versions.
      record: where the model comes from; written into the version as JSON, with the digest of its files.

    Raises:
      PushError: the disk is full, the folder cannot be written, or the copy differs from the original.
    """
    digest = tree_digest(model)
    staging = base / STAGING
    try:
        base.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(staging, ignore_errors=True)
        for version in versions(base):
            if read_record(base / str(version)).get("digest") == digest:
                return Pushed(version, base / str(version), new=False)
        version = _next_version(base)
        shutil.copytree(model, staging)
        if tree_digest(staging) != digest:
            raise PushError(f"The copy of the model in {staging} differs from {model}: the disk lost data.")
        (staging / RECORD).parent.mkdir(exist_ok=True)
        (staging / RECORD).write_text(json.dumps({**record, "version": version, "digest": digest}, indent=1))
        _flush_tree(staging)
        _remember(base, version)
        staging.rename(base / str(version))
        _flush(base)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise PushError(f"The model could not be pushed to {base}: {error}. What was served before stays.") from error
    return Pushed(version, base / str(version), new=True)


def versions(base: Path) -> list[int]:
    """Returns the numbers of the versions in a folder, in rising order."""
    return sorted(int(path.name) for path in base.glob("*") if path.name.isdecimal() and path.is_dir())


def read_record(version: Path) -> dict[str, Any]:
    """Returns what `push` wrote into a version; nothing where somebody else put it there."""
    try:
        return json.loads((version / RECORD).read_text())
    except (OSError, ValueError):
        return {}


def tree_digest(folder: Path) -> str:
    """Returns the SHA-256 over names and content of all files below a folder, but for our own record."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder)
        if name != RECORD:
            digest.update(f"{name}\n{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _next_version(base: Path) -> int:
    """Counts on from the highest number ever given, also where its folder was deleted since, or another program's."""
    last = base / LAST_VERSION
    given = int(last.read_text()) if last.exists() else 0
    return max([given, *versions(base)]) + 1


def _remember(base: Path, version: int) -> None:
    scratch = base / f"{LAST_VERSION}.new"
    scratch.write_text(str(version))
    _flush(scratch)
    scratch.replace(base / LAST_VERSION)


def _flush_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        _flush(path)
    _flush(folder)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
