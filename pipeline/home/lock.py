"""Holds a home folder for one run at a time."""

import contextlib
import os
import socket
from collections.abc import Iterator

from conveyor.errors import ConveyorError, storage_errors
from conveyor.files import LOOK_SECONDS, is_locked
from pipeline.home.folders import Home


class HomeBusy(ConveyorError):
    """Another run holds the home folder."""


@contextlib.contextmanager
def locked(home: Home) -> Iterator[None]:
    """Holds the home folder. The system releases the lock when the process dies.

    It is one of flock(2), which Linux hands to the server where the folder is on NFS: it holds on all machines then,
    unless they mount it with `local_lock`.

    Raises:
      HomeBusy: another process holds it.
      StorageError: the folder cannot be written to.
    """
    import filelock  # with asyncio, which those need not wait for that only look

    holder = home.root / "run.pid"
    with contextlib.ExitStack() as stack:
        with storage_errors(f"The home folder {home.root} cannot be used"):
            home.root.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(filelock.FileLock(home.lock, timeout=LOOK_SECONDS))
            except filelock.Timeout:
                who = holder.read_text() if holder.exists() else "process unknown"
                raise HomeBusy(
                    f"Another run ({who}) is using {home.root}. Wait for it, or choose another --home."
                ) from None
            holder.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield


def is_busy(home: Home) -> bool:
    """Whether a process holds the home folder: a run is in progress, or `gc` or the like.

    Raises:
      StorageError: it cannot be seen.
    """
    with storage_errors(f"Whether a run is in progress in {home.root} cannot be seen"):
        return is_locked(home.lock)
