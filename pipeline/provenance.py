"""Digests of what a model comes from: the data's content, the code and the versions it runs on."""

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STACK = ("tfx", "tensorflow", "keras", "apache-beam", "tensorflow-model-analysis", "tensorflow-data-validation")
CHUNK = 1 << 20


def data_digest(root: Path, patterns: Iterable[str]) -> str:
    """Returns the SHA-256 of all files that match, by their names below `root` and their content, never their times."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in root.glob(pattern) if path.is_file()}):
        file_digest = hashlib.sha256()
        with path.open("rb") as content:
            while chunk := content.read(CHUNK):
                file_digest.update(chunk)
        digest.update(f"{path.relative_to(root)} {file_digest.hexdigest()}\n".encode())
    return digest.hexdigest()


def code_digest(*packages: str) -> str:
    """Returns the SHA-256 of the Python sources below some packages, such as `components.atomic_pusher`, and the stack.

    TFX's cache knows a component's class by name and would reuse what an older version of its code made.
    """
    digest = hashlib.sha256(json.dumps(versions()).encode())
    for package in packages:
        for path in sorted((ROOT / package.replace(".", "/")).rglob("*.py")):
            digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the libraries that a result depends on."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in STACK}
