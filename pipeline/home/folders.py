"""The one folder that all state lives in, and the place of its metadata."""

import contextlib
import dataclasses
import os
import shlex
import urllib.parse
from pathlib import Path
from typing import Any

from conveyor.errors import ConfigError, ConveyorError, storage_errors
from pipeline.experiments.known import KnownExperiments
from serving.model_store import ModelStore

DEFAULT = ".conveyor"
_PORTS = {"mysql": 3306, "postgresql": 5432}


class MetadataUnavailable(ConveyorError):
    """The metadata store cannot be reached, or is not one."""


@dataclasses.dataclass(frozen=True)
class DatabaseServer:
    """A database on a server, where ML Metadata may be.

    Attributes:
      scheme: `mysql` or `postgresql`.
      host: the server's name or address.
      port: where it listens.
      database: its name there.
      user: who asks.
      password: theirs.
    """

    scheme: str
    host: str
    port: int
    database: str
    user: str
    password: str

    @classmethod
    def of(cls, address: str) -> "DatabaseServer":
        """Returns the server of `mysql://user:password@host:port/database`, or `postgresql://...`.

        Raises:
          ConfigError: the address is none; the message holds no part of it that may be a password.
        """
        try:
            url = urllib.parse.urlsplit(address)
            host, port, database = url.hostname, url.port, url.path.strip("/")
        except ValueError:
            url = urllib.parse.urlsplit("")
            host = port = database = None
        if url.scheme not in _PORTS or not host or not database or "/" in database:
            raise ConfigError(
                "The metadata address must look like mysql://user:password@host:port/database or postgresql://..., "
                "with / and @ in a password as %2F and %40."
            )
        user, password = (urllib.parse.unquote(part or "") for part in (url.username, url.password))
        return cls(url.scheme, host, port or _PORTS[url.scheme], database, user, password)

    @property
    def name(self) -> str:
        """The address without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}/{self.database}"


@dataclasses.dataclass(frozen=True)
class Home:
    """The folders of a home folder, and the address of its metadata.

    Attributes:
      root: the home folder, absolute.
      metadata: address of the ML Metadata store: empty for SQLite in the home folder, or
        `mysql://user:password@host:port/database`, or `postgresql://...` likewise.
      scratch: where a server's files and logs go, if the home folder cannot be written to.
    """

    root: Path
    metadata: str = ""
    scratch: Path | None = None

    @classmethod
    def at(cls, root: str | None = None, metadata: str | None = None) -> "Home":
        """Returns the home given, or that of $CONVEYOR_HOME and $CONVEYOR_METADATA, or `.conveyor` here.

        Raises:
          ConfigError: it is a file, or below one; or the address of the metadata is none.
        """
        chosen = Path(root or os.environ.get("CONVEYOR_HOME") or DEFAULT).expanduser().resolve()
        home = cls(chosen, metadata or os.environ.get("CONVEYOR_METADATA", ""))
        if not home.existing.is_dir():
            raise ConfigError(f"The home folder {chosen} cannot be used: {home.existing} is a file.")
        if home.metadata:
            DatabaseServer.of(home.metadata)
        return home

    @property
    def option(self) -> str:
        """What names the home at the end of a command; empty where it is the one without being named."""
        usual = Path(os.environ.get("CONVEYOR_HOME") or DEFAULT).expanduser().resolve()
        return "" if self.root == usual else f" --home {shlex.quote(str(self.root))}"

    @property
    def existing(self) -> Path:
        """The home folder, or the nearest one above it that is there and that this user can see."""
        for path in (self.root, *self.root.parents):
            with contextlib.suppress(PermissionError):
                if path.exists():
                    return path
        raise AssertionError("the root of the file system is always there")

    @property
    def data(self) -> Path:
        """Downloads, verified."""
        return self.root / "data"

    @property
    def database(self) -> Path:
        """ML Metadata's SQLite file."""
        return self.root / "metadata.db"

    @property
    def has_metadata(self) -> bool:
        """Whether there may be metadata: a server is named, here or by an earlier run, or something has run.

        Raises:
          StorageError: the home folder cannot be read.
        """
        return bool(self.metadata) or self.own_store is not None or bool(self.outputs())

    @property
    def has_database(self) -> bool:
        """Whether the SQLite file is there; an empty one is what a full disk or a loss of power left."""
        return self.database.exists() and self.database.stat().st_size > 0

    def outputs(self) -> list[Path]:
        """Returns the folders of the outputs of executions, which bear the execution's number."""
        return [path for path in self.artifacts.glob("*/*/*/*") if path.name.isdecimal()]

    @property
    def metadata_place(self) -> str:
        """Where the metadata is, in words and without a password."""
        return self.store_name if self.metadata else str(self.database)

    @property
    def store_name(self) -> str:
        """The metadata's store: `metadata.db`, or a server's address without user and password."""
        return DatabaseServer.of(self.metadata).name if self.metadata else self.database.name

    @property
    def own_store(self) -> str | None:
        """The name of the store that knows this home's artifacts; None where nobody wrote it down.

        Raises:
          ConfigError: what is written there is no name of a store.
          StorageError: the home folder cannot be read.
        """
        with storage_errors(f"The home folder {self.root} cannot be read"):
            if self.store_record.exists():
                return self._recorded_store()
            return self.database.name if self.has_database else None  # as 0.1.0 left it

    def _recorded_store(self) -> str:
        text = self.store_record.read_text(errors="replace").strip()
        if text == self.database.name:
            return text
        try:
            return DatabaseServer.of(text).name  # a person may have written it, without a port
        except ConfigError:
            raise ConfigError(
                f"{self.store_record} holds {text[:80]!r}; it must name the metadata's store: {self.database.name}, or "
                "the address of a server without user and password."
            ) from None

    @property
    def store_record(self) -> Path:
        """Names the store that knows this home's artifacts."""
        return self.root / "metadata_store.txt"

    @property
    def artifacts(self) -> Path:
        """What the components hand to each other."""
        return self.root / "artifacts"

    @property
    def checkpoints(self) -> Path:
        """Of trainings, one folder for each combination of experiment, data and code."""
        return self.root / "checkpoints"

    @property
    def serving(self) -> Path:
        """Pushed SavedModels: `<model>/<version>/`."""
        return self.root / "serving"

    @property
    def models(self) -> ModelStore:
        """The pushed models in `serving`."""
        return ModelStore(self.serving)

    @property
    def server(self) -> Path:
        """Configuration files of the server, made anew at each `conveyor serve`."""
        return (self.scratch or self.root) / "server"

    @property
    def reports(self) -> Path:
        """One page and one JSON file a run."""
        return self.root / "reports"

    @property
    def experiments(self) -> KnownExperiments:
        """What is remembered of experiments: their files, standing settings and data folders."""
        return KnownExperiments(self.root / "experiments")

    @property
    def tuning(self) -> Path:
        """Searches for settings: `<experiment>/<search>/`."""
        return self.root / "tuning"

    @property
    def schedules(self) -> Path:
        """State of each `conveyor schedule`."""
        return self.root / "schedules"

    @property
    def backups(self) -> Path:
        """Copies of the metadata."""
        return self.root / "backups"

    @property
    def logs(self) -> Path:
        """One file a run."""
        return (self.scratch or self.root) / "logs"

    def log(self, name: str) -> Path:
        """Returns the file for one run's noise, in a folder that exists."""
        with storage_errors(f"The folder of logs {self.logs} cannot be made"):
            self.logs.mkdir(parents=True, exist_ok=True)
        return self.logs / f"{name}.log"

    @property
    def lock(self) -> Path:
        """Held by the run in progress."""
        return self.root / "run.lock"

    def connection(self) -> Any:
        """Returns ML Metadata's `ConnectionConfig`."""
        from ml_metadata.proto import metadata_store_pb2

        config = metadata_store_pb2.ConnectionConfig()
        if not self.metadata:
            with storage_errors(f"The home folder {self.root} cannot be made"):
                self.root.mkdir(parents=True, exist_ok=True)
            config.sqlite.filename_uri = str(self.database)
            return config
        server = DatabaseServer.of(self.metadata)
        if server.scheme == "mysql":
            config.mysql.host, config.mysql.port, config.mysql.database = server.host, server.port, server.database
            config.mysql.user, config.mysql.password = server.user, server.password
        else:
            config.postgresql.host, config.postgresql.port = server.host, str(server.port)
            config.postgresql.dbname = server.database
            config.postgresql.user, config.postgresql.password = server.user, server.password
        return config
