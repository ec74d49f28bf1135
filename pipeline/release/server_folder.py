"""The folder of one server, `server/<port>/`: its configuration files, its lock, and what it serves."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from conveyor.errors import ConfigError, StorageError, storage_errors
from conveyor.files import is_locked, replace_file
from pipeline.home.folders import Home
from pipeline.release.server_files import VersionChoice

RECORD, LOCK = "server.json", "serve.lock"
HELD_SECONDS = 3  # longer than a change of labels writes files


class FolderHeld(ConfigError):
    """Another process holds the folder: its server runs."""


@dataclasses.dataclass(frozen=True)
class ServerRecord:
    """What a server of ours serves.

    Attributes:
      target: host:port of its gRPC.
      followed: the models whose labels it follows.
      pinned: the versions of each other model that were named to it, whatever their labels are now.
      choice: which versions of those it serves besides, as `VersionChoice.of` reads it.
    """

    target: str
    followed: tuple[str, ...] = ()
    pinned: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    choice: str = "stable"

    def served(self, model: str, there: list[int]) -> set[int]:
        """Returns the versions of a model that it serves whatever their labels are, of those that are there now."""
        if model not in self.pinned:
            return set()
        return {*self.pinned[model], *VersionChoice.of(self.choice).as_they_come(there)}


@dataclasses.dataclass(frozen=True)
class ServerFolder:
    """A folder below the home's `server/`.

    Attributes:
      path: the folder.
    """

    path: Path

    @classmethod
    def of(cls, home: Home, port: int) -> "ServerFolder":
        """Returns the folder of the server that listens, or would, on a port."""
        return cls(home.server / str(port))

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Holds the folder, as the server's files are this process's business alone.

        Raises:
          FolderHeld: another process holds it.
          StorageError: it cannot be made.
        """
        with contextlib.ExitStack() as stack:
            with storage_errors(f"The server's files in {self.path} cannot be written"):
                self.path.mkdir(parents=True, exist_ok=True)
                try:
                    stack.enter_context(filelock.FileLock(self.path / LOCK, timeout=HELD_SECONDS))
                except filelock.Timeout:
                    raise FolderHeld(
                        f"Another `conveyor serve` of this home has --port {self.path.name}; choose another."
                    ) from None
            yield

    @property
    def is_held(self) -> bool:
        """Whether a process holds the folder: its server starts, runs or stops."""
        with storage_errors(f"Whether a server runs on {self.path} cannot be seen"):
            return is_locked(self.path / LOCK)

    def record(self) -> ServerRecord | None:
        """Returns what its server serves; None where nobody wrote it down.

        Raises:
          StorageError: the file cannot be read.
        """
        try:
            with storage_errors(f"What the server on {self.path} serves cannot be read"):
                text = (self.path / RECORD).read_text() if (self.path / RECORD).exists() else ""
            fields: dict[str, Any] = json.loads(text)
            pinned = {model: tuple(versions) for model, versions in fields["pinned"].items()}
            choice = fields.get("choice", "stable")
            VersionChoice.of(choice)
            return ServerRecord(fields["target"], tuple(fields["followed"]), pinned, choice)
        except (ValueError, KeyError, TypeError, AttributeError, ConfigError):
            return None

    def forget_record(self) -> None:
        """Removes what is written down: `gc` then refuses to remove anything until there is a record again."""
        with storage_errors(f"The server's files in {self.path} cannot be written"):
            (self.path / RECORD).unlink(missing_ok=True)

    def write_record(self, record: ServerRecord) -> None:
        """Writes down what the server serves."""
        with storage_errors(f"The server's files in {self.path} cannot be written"):
            replace_file(self.path / RECORD, json.dumps(dataclasses.asdict(record), indent=1))


def server_folders(home: Home) -> list[ServerFolder]:
    """Returns the folders of all servers of a home, whether they run or not.

    Raises:
      StorageError: they cannot be read.
    """
    with storage_errors(f"The folder {home.server} cannot be read"):
        paths = sorted(home.server.iterdir()) if home.server.exists() else []
        return [ServerFolder(path) for path in paths if path.is_dir()]


def served_versions(home: Home) -> dict[str, set[int]]:
    """Returns the versions that running servers serve whatever their labels are, by model.

    Raises:
      ConfigError: nobody wrote down what one of them serves.
      StorageError: that cannot be read.
    """
    servers, there = running_servers(home), {model.name: model.versions() for model in home.models.models()}
    return {name: {v for server in servers for v in server.served(name, versions)} for name, versions in there.items()}


def known_servers(home: Home) -> list[ServerRecord]:
    """Returns what those running servers of a home serve of which that is known; others may run, or be starting."""
    records = []
    with contextlib.suppress(StorageError):
        for folder in server_folders(home):
            with contextlib.suppress(StorageError):
                records += [record] if folder.is_held and (record := folder.record()) else []
    return records


def running_servers(home: Home) -> list[ServerRecord]:
    """Returns what the running servers of a home serve.

    Raises:
      ConfigError: nobody wrote down what one of them serves.
      StorageError: that cannot be read.
    """
    records = []
    for folder in server_folders(home):
        if folder.is_held:
            record = folder.record()
            if record is None:
                raise ConfigError(f"What the server on {folder.path} serves is not known: stop it, or wait for it.")
            records.append(record)
    return records
