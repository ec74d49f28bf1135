"""Keeps copies of the metadata's SQLite file, and looks whether it is whole before anything is written to it."""

import contextlib
import dataclasses
import datetime
import sqlite3
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


def has_no_tables(database: Path) -> bool:
    """Whether there is a SQLite file with nothing in it; one that cannot be read may hold anything."""
    try:
        with contextlib.closing(read_only(database)) as connection:
            return _is_empty(connection)
    except sqlite3.Error:
        return False


def read_only(database: Path) -> sqlite3.Connection:
    """Opens a SQLite file for a look."""
    return sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=LOCKED_SECONDS)


def _is_empty(database: sqlite3.Connection) -> bool:
    return not database.execute("SELECT EXISTS (SELECT 1 FROM sqlite_master)").fetchone()[0]


def _check_pages(database: sqlite3.Connection) -> None:
    (answer,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if answer == "ok" and _is_empty(database):
        answer = "it is empty"  # as a full disk or a loss of power may leave a file
    if answer != "ok":
        raise sqlite3.DatabaseError(answer)


def _hold(database: sqlite3.Connection) -> None:
    """Keeps others from writing to a database that is read, for `backup` would wait for them without an end."""
    database.execute("BEGIN")
    database.execute("SELECT 1 FROM sqlite_master")


def save(home: Home) -> None:
    """Copies the file into `backups/`, and removes all but the newest copies."""
    if home.metadata or not home.has_database:
        return
    with storage_errors(f"The folder of backups {home.backups} cannot be made"):
        home.backups.mkdir(parents=True, exist_ok=True)
    scratch = home.backups / "metadata.new"
    with storage_errors(f"The copies of the metadata in {home.backups} cannot be written"):
        _clear(scratch)  # of a process that died
        with (
            _as_sentences(home),
            contextlib.closing(sqlite3.connect(home.database, timeout=LOCKED_SECONDS)) as database,
            contextlib.closing(sqlite3.connect(scratch)) as copy,
        ):
            _hold(database)
            database.backup(copy)
            _check_pages(copy)
        flush(scratch)
        known = copies(home)
        scratch.replace(home.backups / f"metadata-{_number(known[-1]) + 1 if known else 1:06d}.db")
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
        aside = _aside(home)
        for suffix in ("", *JOURNALS):  # a file without its journal would pass for whole
            old = home.database.with_name(home.database.name + suffix)
            if old.exists():
                old.rename(home.database.with_name(aside + suffix))
        scratch.rename(home.database)
        flush(home.root)
    return Restored(copy, tuple(damaged))


def _aside(home: Home) -> str:
    """Returns the name that what is there gets: a new one, or that of the file whose journals are left here."""
    name = home.database.name
    if not home.database.exists():  # an earlier restoration died after its first rename
        moved = [path.name for path in home.root.glob(f"{name}.damaged-*") if not path.name.endswith(JOURNALS)]
        alone = [path for path in moved if not any((home.root / f"{path}{suffix}").exists() for suffix in JOURNALS)]
        if alone:
            return max(alone, key=lambda path: (home.root / path).stat().st_ctime_ns)
    return f"{name}.damaged-{_now()}"


def _copied(source: Path, target: Path) -> bool:
    """Copies a database; returns whether it is whole.

    Raises:
      StorageError: the copy cannot be written.
    """
    _clear(target)
    with contextlib.ExitStack() as stack:
        try:
            database = stack.enter_context(contextlib.closing(read_only(source)))
            _hold(database)
            _check_pages(database)
        except sqlite3.Error:  # whatever it is: there may be another that can be read
            return False
        try:
            database.backup(stack.enter_context(contextlib.closing(sqlite3.connect(target))))
        except sqlite3.Error as error:
            raise StorageError(f"{source} cannot be copied to {target}: {error}.") from error
    return True


def _now() -> str:
    return f"{datetime.datetime.now(datetime.timezone.utc):%Y%m%dT%H%M%S%f}"


def _clear(database: Path) -> None:
    for suffix in (*JOURNALS, ""):
        database.with_name(database.name + suffix).unlink(missing_ok=True)


def copies(home: Home) -> list[Path]:
    """Returns the copies, the oldest first: by their numbers, for a clock may be set back."""
    return sorted(home.backups.glob("metadata-*.db"), key=lambda path: (_number(path), path.name))


def _number(copy: Path) -> int:
    """Returns the number of a copy; 0 for those of 0.1.0, which are named after the time."""
    number = copy.stem.rpartition("-")[2]
    return int(number) if number.isdecimal() else 0


@contextlib.contextmanager
def _as_sentences(home: Home) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        place, hint = f"The metadata in {home.database}", _NO_DAMAGE.get(str(error))
        if hint:
            raise MetadataUnavailable(f"{place} cannot be used: {error}. Nothing was changed. {hint}") from error
        raise MetadataUnavailable(f"{place} is damaged: {error}. {_way_back(home)}") from error


_NO_DAMAGE = {
    "database is locked": "Another process holds the file: end it, and run again.",
    "unable to open database file": "See that you may read and write it, and its folder.",
    "attempt to write a readonly database": "See that you may write it, and its folder.",
    "database or disk is full": "Make room on the disk.",
}


def _way_back(home: Home) -> str:
    known = copies(home)
    if known:
        return f"Nothing was changed. `conveyor doctor --restore-metadata` returns to the copy {known[-1].name}."
    return f"Nothing was changed. Remove the file and {home.artifacts} to start anew; pushed models stay."
