"""The files of a served model's versions: what is there, what it holds, and how a file is written for good."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

RECORD = Path("assets.extra", "conveyor.json")  # the server ignores what it does not know in assets.extra


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


def replace_file(path: Path, text: str) -> None:
    """Writes a file, whole or not at all, and through to the disk."""
    scratch = path.with_name(f".{path.name.lstrip('.')}.new")
    scratch.write_text(text)
    flush(scratch)
    scratch.replace(path)


def flush_tree(folder: Path) -> None:
    """Writes a folder and all below it through to the disk."""
    for path in folder.rglob("*"):
        flush(path)
    flush(folder)


def flush(path: Path) -> None:
    """Writes a file, or a folder's entries, through to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
