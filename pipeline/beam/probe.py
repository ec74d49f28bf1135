"""What a job finds out before the others: whether the workers of a cluster are fit to take part.

A worker imports this module to look at itself. It must be able to wherever Conveyor is, so it imports little.
"""

import json
import os
import platform
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam

from components.code_digest import whole_digest

TOKEN = "token"  # the file that every worker must see


class Unfit(Exception):
    """A worker that cannot take part; the text says why."""


class Look(beam.DoFn):
    """Compares the worker that it runs on with the process that asks, and writes what it finds beside the token."""

    def __init__(self, folder: str, token: str) -> None:
        self._folder = folder
        self._token = token
        self._python = platform.python_version()
        self._digest = whole_digest()

    def setup(self) -> None:
        self._found = whole_digest()  # once a worker, and not for each of its looks

    def process(self, _: Any) -> Iterator[Any]:
        host = socket.gethostname()
        if platform.python_version() != self._python:
            raise Unfit(f"the worker on {host} runs Python {platform.python_version()}, and this is {self._python}")
        if self._found != self._digest:
            raise Unfit(f"the worker on {host} has another version of Conveyor, or of its libraries, than this one")
        folder = Path(self._folder)
        try:
            seen = (folder / TOKEN).read_text()
        except OSError as error:
            raise Unfit(f"the worker on {host} does not see this home folder: {error}") from error
        if seen != self._token:
            raise Unfit(f"the worker on {host} sees another folder at {folder.parent}")
        found = json.dumps({"host": host, "process": os.getpid()})
        try:
            scratch = folder / f".{host}-{os.getpid()}"
            scratch.write_text(found)
            scratch.replace(folder / f"{host}-{os.getpid()}.json")
        except OSError as error:
            raise Unfit(f"the worker on {host} cannot write to this home folder: {error}") from error
        yield from ()
