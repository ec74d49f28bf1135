"""The errors that a user can cause or mend, and the exit codes of the command.

Every such error is a `ConveyorError`, and its text is a sentence: what was wrong, where, and what to do. Anything else
that is raised is a bug, and keeps its traceback.
"""

import contextlib
import enum
from collections.abc import Iterator


class ExitCode(enum.IntEnum):
    """How a `conveyor` command ends, for shells and schedulers."""

    SUCCESS = 0  # pushed, up to date, done
    FAILED = 1
    USAGE = 2  # a wrong option or setting
    REJECTED = 3  # the model was not good enough
    NOTHING_NEW = 4
    DRIFTED = 5  # new images differ too much from those before
    INTERRUPTED = 130  # by SIGTERM or Ctrl+C


class ConveyorError(Exception):
    """A failure that a user can understand and act on.

    Attributes:
      exit_code: what the command ends with.
    """

    exit_code: int = ExitCode.FAILED


class ConfigError(ConveyorError):
    """A setting that does not exist, or a value that it cannot take."""

    exit_code = ExitCode.USAGE


class StorageError(ConveyorError):
    """A file or a folder that cannot be read or written."""


@contextlib.contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Turns an expected `OSError` of the block, such as a full disk, into a `StorageError`.

    Args:
      what: what could not be done, as the beginning of a sentence.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(f"{what}: {error}.") from error
