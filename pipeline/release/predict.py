"""`conveyor predict`: asks a server for the classes of picture files."""

import dataclasses
import glob
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from conveyor.errors import ConfigError
from conveyor.pictures import KINDS, PictureError, as_png_or_jpeg, reason
from serving.client import Client, ServingError

BATCH = 32
STDIN = "-"


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the server makes of a file.

    Attributes:
      best: the likeliest classes and their probabilities, the likeliest first; empty where it failed.
      milliseconds: the request's, shared by the files of one request.
      error: why there is no answer; None where there is.
    """

    file: str
    best: list[tuple[str, float]]
    version: int | None
    milliseconds: float
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the answer for JSON."""
        return {
            "file": self.file,
            "classes": [{"class": name, "probability": score} for name, score in self.best],
            "version": self.version,
            "milliseconds": self.milliseconds,
            "error": self.error,
        }


def files_of(patterns: tuple[str, ...]) -> list[str]:
    """Returns the files that paths and patterns name, in their order; `-` is standard input.

    Raises:
      ConfigError: one of them names nothing.
    """
    files: list[str] = []
    for pattern in patterns:
        if pattern == STDIN or Path(pattern).is_file():
            files.append(pattern)
            continue
        if Path(pattern).is_dir():
            raise ConfigError(f"{pattern} is a folder; its pictures are named as '{pattern}/*.png'.")
        found = sorted(path for path in glob.glob(pattern, recursive=True) if Path(path).is_file())  # noqa: PTH207 (any path)
        if not found:
            raise ConfigError(f"{pattern}: there is no such file, and no file of that pattern.")
        files += found
    return files


def predict(
    client: Client, files: list[str], top: int, progress: Callable[[int], object] = lambda _: None
) -> Iterator[Answer]:
    """Yields an answer for each file, in order.

    Args:
      client: the client of the model.
      files: paths; `-` for standard input.
      top: how many classes.
      progress: called with how many more files have been answered.

    Raises:
      ServingError: the server does not answer, or has no such model.
    """
    for start in range(0, len(files), BATCH):
        names = files[start : start + BATCH]
        contents = {name: _read(name) for name in names}
        good = [name for name, content in contents.items() if isinstance(content, bytes)]
        answers = {name: Answer(name, [], None, 0, str(content)) for name, content in contents.items()}
        answers |= _asked(client, {name: contents[name] for name in good}, top)
        progress(len(names))
        yield from (answers[name] for name in names)


def _asked(client: Client, contents: dict[str, Any], top: int) -> dict[str, Answer]:
    """Asks for all files in one request; where the server refuses a picture, one by one, to learn which."""
    if not contents:
        return {}
    started = time.perf_counter()
    try:
        reply = client.predict(list(contents.values()))
    except ServingError as error:
        if error.code != "INVALID_ARGUMENT" or "label" in error.message:
            raise
        if len(contents) == 1:
            return {name: Answer(name, [], None, 0, reason(error.message)) for name in contents}
        return {name: _asked(client, {name: content}, top)[name] for name, content in contents.items()}
    milliseconds = 1e3 * (time.perf_counter() - started)
    answers, best = {}, reply.top(top)
    for row, name in enumerate(contents):
        answers[name] = Answer(name, best[row], reply.version, milliseconds)
    return answers


def _read(name: str) -> bytes | str:
    """Returns a picture's bytes, or what is wrong with the file."""
    try:
        content = sys.stdin.buffer.read() if name == STDIN else Path(name).read_bytes()
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    try:
        return as_png_or_jpeg(content)
    except PictureError as error:
        return f"expected {KINDS}, found {error}"
