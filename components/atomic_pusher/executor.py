"""Puts a model where TensorFlow Serving finds it: whole or not at all, under a number that only grows.

TensorFlow Serving loads any folder with a numeric name the moment it sees it, complete or not, and never looks at that
number again. So a version is built under another name, flushed to the disk, verified, and appears by one rename.
"""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from serving.model_store import labels
from serving.model_store.files import RECORD, flush, flush_tree, read_record, replace_file, tree_digest, versions
from serving.model_store.labels import Labels

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


def push(model: Path, base: Path, record: dict[str, Any], canary: bool = False) -> Pushed:
    """Copies a SavedModel to the next version, unless it is there already, and names it.

    Args:
      model: folder of the SavedModel.
      base: folder of the served model's versions.
      record: where the model comes from; written into the version as JSON, with the digest of its files.
      canary: whether it is to be tried beside the stable version first, where there is one, and not take its place.

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
                with labels.changing(base):
                    labels.write(base, _renamed(labels.read(base), version, canary))
                return Pushed(version, base / str(version), new=False)
        version = _next_version(base)
        shutil.copytree(model, staging)
        if tree_digest(staging) != digest:
            raise PushError(f"The copy of the model in {staging} differs from {model}: the disk lost data.")
        (staging / RECORD).parent.mkdir(exist_ok=True)
        (staging / RECORD).write_text(json.dumps({**record, "version": version, "digest": digest}, indent=1))
        flush_tree(staging)
        replace_file(base / LAST_VERSION, str(version))
        with labels.changing(base):
            known = labels.read(base)
            staging.rename(base / str(version))
            flush(base)
            labels.write(base, _renamed(known, version, canary))
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise PushError(f"The model could not be pushed to {base}: {error}. What was served before stays.") from error
    return Pushed(version, base / str(version), new=True)


def _next_version(base: Path) -> int:
    """Counts on from the highest number ever given, also where its folder was deleted since, or another program's."""
    last = base / LAST_VERSION
    given = int(last.read_text()) if last.exists() else 0
    return max([given, *versions(base)]) + 1


def _renamed(known: Labels, version: int, canary: bool) -> Labels:
    if canary and known.stable not in (None, version):
        return dataclasses.replace(known, canary=version)
    return known.moved(version)
