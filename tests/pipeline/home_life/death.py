"""A process that dies between two of its writes: nothing that it would have written after them is there."""

import contextlib
import os
import pathlib
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from ml_metadata import metadata_store

_WRITES = [
    *((os, name) for name in ("rename", "replace", "mkdir", "unlink", "rmdir", "symlink", "fsync")),
    *((pathlib.Path, n) for n in ("rename", "replace", "mkdir", "unlink", "touch", "symlink_to", "write_text")),
    (shutil, "copyfile"),
    (sqlite3, "connect"),
    (metadata_store.MetadataStore, "_call"),
]


_WRITE_TEXT = pathlib.Path.write_text  # half of the text is there


class Died(BaseException):
    """The process is dead; what still runs of it can write nothing."""


@contextlib.contextmanager
def dying_before(write: int) -> Iterator[None]:
    """Lets the thread that enters die before one of its writes, counted from 1, and the other threads with it."""
    left, thread = [write], threading.get_ident()

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() == thread:
                left[0] -= 1
                if left[0] <= 0:
                    if left[0] == 0 and function is _WRITE_TEXT:
                        function(args[0], args[1][: len(args[1]) // 2], **kwargs)
                    raise Died
            elif left[0] <= 0:
                raise OSError("the process is dead")
            return function(*args, **kwargs)

        return call

    with contextlib.ExitStack() as stack:
        for owner, name in _WRITES:
            stack.enter_context(mock.patch.object(owner, name, dying(getattr(owner, name))))
        yield
