"""Files that are written whole or not at all, and digests of what is in a folder."""

import fcntl
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

CHUNK = 1 << 20
LOOK_SECONDS = 0.2  # a lock is worth waiting for so long, as `is_locked` has it for a moment


def file_digest(path: Path) -> str:
    """Returns the SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while chunk := content.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def tree_digest(folder: Path, without: Callable[[Path], bool] = lambda _: False, suffix: str = "") -> str:
    """Returns the SHA-256 over names and content of all files below a folder.

    Args:
      folder: the folder.
      without: whether a file, by its path in the folder, is left out.
      suffix: how the names of the files end that count; empty for all.
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob(f"*{suffix}") if path.is_file()):
        name = path.relative_to(folder)
        if not without(name):
            digest.update(f"{name}\n{file_digest(path)}\n".encode())
    return digest.hexdigest()


def replace_file(path: Path, text: str) -> None:
    """Writes a file, whole or not at all, and through to the disk."""
    scratch = path.with_name(f".{path.name.lstrip('.')}.new")
    scratch.write_text(text, encoding="utf-8")
    flush(scratch)
    scratch.replace(path)
    flush(path.parent)


def last_line(log: Path) -> str:
    """Returns the last line of what a program wrote to a log."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[-1] if lines else "it said nothing"


def is_locked(path: Path) -> bool:
    """Whether a process holds a `filelock.FileLock` on a file. Those that ask do not see each other.

    Raises:
      OSError: it cannot be seen.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


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
