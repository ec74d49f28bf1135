"""Keeps copies of the metadata's SQLite file, and looks whether it is whole before anything is written to it."""

import contextlib
import dataclasses
import datetime
import sqlite3
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from conveyor.errors import ConfigError, StorageError, storage_errors
from conveyor.files import flush
from pipeline.home.folders import Home, MetadataUnavailable

KEPT = 3
JOURNALS = ("-journal", "-wal", "-shm")
LOCKED_SECONDS = 5  # how long another process may hold the file


def check(home: Home) -> None:
    """Looks whether the file is whole and can be written to; a server's metadata are the server's business.

    Raises:
      MetadataUnavailable: it is damaged, or another process holds it; says how to return to a copy.
    """
    if home.metadata or not home.has_database:
        return
    with (
        _as_sentences(home),
        contextlib.closing(sqlite3.connect(home.database, timeout=LOCKED_SECONDS)) as database,
    ):
        database.execute("BEGIN IMMEDIATE")
        try:
            _check_pages(database)
        finally:
            database.rollback()


def _check_pages(database: sqlite3.Connection) -> None:
    (answer,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if answer == "ok" and not database.execute("SELECT EXISTS (SELECT 1 FROM sqlite_master)").fetchone()[0]:
        answer = "it is empty"  # as a full disk or a loss of power may leave a file
    if answer != "ok":
        raise sqlite3.DatabaseError(answer)


def save(home: Home) -> None:
    """Copies the file into `backups/`, and removes all but the newest copies."""
    if home.metadata or not home.has_database:
        return
    with storage_errors(f"The folder of backups {home.backups} cannot be made"):
        home.backups.mkdir(parents=True, exist_ok=True)
    target = home.backups / f"metadata-{_now()}.db"
    scratch = home.backups / "metadata.new"
    with storage_errors(f"The copies of the metadata in {home.backups} cannot be written"):
        _clear(scratch)  # of a process that died
        with (
            _as_sentences(home),
            contextlib.closing(sqlite3.connect(home.database, timeout=LOCKED_SECONDS)) as database,
            contextlib.closing(sqlite3.connect(scratch)) as copy,
        ):
            database.backup(copy)
            _check_pages(copy)
        flush(scratch)
        scratch.replace(target)
        flush(home.backups)
        for old in copies(home)[:-KEPT]:
            old.unlink()


@dataclasses.dataclass(frozen=True)
class Restored:
    """A return to a copy.

    Attributes:
      copy: the copy.
      damaged: newer copies, which are damaged too.
    """

    copy: Path
    damaged: tuple[Path, ...]


def restore(home: Home) -> Restored:
    """Returns to the newest whole copy, and keeps what was there beside it, under a name that is given once.

    What SQLite left beside the file belongs to it alone: a journal would be played into the copy.

    Raises:
      ConfigError: the home folder's metadata are on a server.
      MetadataUnavailable: there is no copy, or every one is damaged too.
    """
    if home.metadata or home.own_store not in (None, home.database.name):
        store = home.store_name if home.metadata else home.own_store
        raise ConfigError(f"The metadata are in {store}, and of those there are no copies in {home.backups}.")
    known = copies(home)
    if not known:
        raise MetadataUnavailable(f"There is no copy of the metadata in {home.backups}.")
    scratch = home.database.with_suffix(".new")
    damaged: list[Path] = []
    with storage_errors(f"A copy of the metadata cannot be brought to {home.database}"):
        for copy in reversed(known):
            if _copied(copy, scratch):
                break
            damaged.append(copy)
        else:
            raise MetadataUnavailable(f"Every copy of the metadata in {home.backups} is damaged too.")
        flush(scratch)
        aside = f"{home.database.name}.damaged-{_now()}"
        for suffix in (*JOURNALS, ""):
            old = home.database.with_name(home.database.name + suffix)
            if old.exists():
                old.rename(home.database.with_name(aside + suffix))
        scratch.rename(home.database)
        flush(home.root)
    return Restored(copy, tuple(damaged))


def _copied(source: Path, target: Path) -> bool:
    """Copies a database; returns whether it is whole.

    Raises:
      StorageError: it cannot be copied, whether it is or not.
    """
    _clear(target)
    try:
        with (
            contextlib.closing(
                sqlite3.connect(f"file:{urllib.parse.quote(str(source))}?mode=ro", uri=True)
            ) as database,
            contextlib.closing(sqlite3.connect(target)) as copy,
        ):
            database.backup(copy)
            _check_pages(copy)
    except sqlite3.OperationalError as error:
        raise StorageError(f"{source} cannot be copied to {target}: {error}.") from error
    except sqlite3.DatabaseError:
        return False
    return True


def _now() -> str:
    return f"{datetime.datetime.now(datetime.timezone.utc):%Y%m%dT%H%M%S%f}"


def _clear(database: Path) -> None:
    for suffix in (*JOURNALS, ""):
        database.with_name(database.name + suffix).unlink(missing_ok=True)


def copies(home: Home) -> list[Path]:
    """Returns the copies, the oldest first."""
    return sorted(home.backups.glob("metadata-*.db"))


@contextlib.contextmanager
def _as_sentences(home: Home) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise MetadataUnavailable(
            f"The metadata in {home.database} cannot be used: {error}. Nothing was changed. "
            "Another process may hold the file: end it, and run again."
        ) from error
    except sqlite3.DatabaseError as error:
        raise MetadataUnavailable(f"The metadata in {home.database} is damaged: {error}. {way_back(home)}") from error


def way_back(home: Home) -> str:
    """Returns what to do when the metadata cannot be read."""
    if home.metadata:
        return "Nothing was changed. See that the server runs, and that user, password and database are right."
    known = copies(home)
    if known:
        return f"Nothing was changed. `conveyor doctor --restore-metadata` returns to the copy {known[-1].name}."
    return f"Nothing was changed. Remove the file and {home.artifacts} to start anew; pushed models stay."
