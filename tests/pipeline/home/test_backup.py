import contextlib
import dataclasses
import resource
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from conveyor.errors import ConfigError, StorageError
from pipeline.home import backup
from pipeline.home.folders import Home, MetadataUnavailable

CUT_OFF = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("PRAGMA cache_size = 1")
database.execute("BEGIN")
for number in range(2000):
    database.execute("UPDATE facts SET value = 'half a change' || ?", (number,))
    database.execute("INSERT INTO facts VALUES (?)", ("x" * 4000,))
os._exit(1)
"""


def values(path):
    with contextlib.closing(sqlite3.connect(path)) as database:
        return [value for (value,) in database.execute("SELECT value FROM facts")]


def write(path, *rows):
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE IF NOT EXISTS facts (value TEXT)")
        database.execute("DELETE FROM facts")
        database.executemany("INSERT INTO facts VALUES (?)", [(row,) for row in rows])


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path)
    write(home.database, "as it was")
    backup.save(home)
    return home


def test_the_newest_copy_is_returned_to(home):
    write(home.database, "later")
    backup.restore(home)
    assert values(home.database) == ["as it was"]


def test_a_journal_that_is_left_is_not_played_into_the_copy(home):
    write(home.database, "the damaged one")
    subprocess.run([sys.executable, "-c", CUT_OFF, home.database], check=False)
    journal = home.database.with_name("metadata.db-journal")
    assert journal.stat().st_size > 0  # a hot one, of a process that was killed
    backup.restore(home)
    assert not journal.exists()
    assert values(home.database) == ["as it was"]
    (aside,) = home.root.glob("metadata.db.damaged-*[0-9]")
    assert values(aside) == ["the damaged one"]  # whose journal went with it


@pytest.mark.parametrize("renames", [1, 2])
def test_a_journal_stays_with_its_file_when_a_restoration_dies(home, monkeypatch, renames):
    write(home.database, "the damaged one")
    subprocess.run([sys.executable, "-c", CUT_OFF, home.database], check=False)
    rename, left = Path.rename, [renames]

    def dying(path, target):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", dying)
    with pytest.raises(KeyboardInterrupt):
        backup.restore(home)
    monkeypatch.setattr(Path, "rename", rename)
    assert not home.has_database
    backup.restore(home)
    assert values(home.database) == ["as it was"]
    (aside,) = home.root.glob("metadata.db.damaged-*[0-9]")
    assert values(aside) == ["the damaged one"]


def test_each_restoration_keeps_what_was_there(home):
    for text in ("first", "second"):
        write(home.database, text)
        backup.restore(home)
    kept = sorted(values(path)[0] for path in home.root.glob("metadata.db.damaged-*"))
    assert kept == ["first", "second"]


def test_a_copy_that_is_damaged_leaves_what_is_there(home):
    (copy,) = backup.copies(home)
    copy.write_bytes(b"no database" * 1000)
    write(home.database, "later")
    with pytest.raises(MetadataUnavailable, match=r"Every copy of the metadata in .* is damaged too"):
        backup.restore(home)
    assert values(home.database) == ["later"]


def overwrite_pages(path):
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))


def test_the_newest_whole_copy_is_returned_to(home):
    write(home.database, "later")
    backup.save(home)
    whole, damaged = backup.copies(home)
    overwrite_pages(damaged)
    assert backup.restore(home) == backup.Restored(whole, (damaged,))
    assert values(home.database) == ["as it was"]


@pytest.mark.parametrize("place", [16, 18, 28, 44, 47, 56])
def test_whatever_sqlite_calls_the_damage_an_older_copy_is_tried(home, place):
    write(home.database, "later")
    backup.save(home)
    whole, damaged = backup.copies(home)
    with damaged.open("r+b") as file:
        file.seek(place)
        file.write(b"\x05")
    try:
        known = values(damaged)
    except sqlite3.Error:
        known = None
    restored = backup.restore(home)
    assert restored == backup.Restored(whole, (damaged,)) or (restored.copy == damaged and known == ["later"])
    assert values(home.database) == (["as it was"] if restored.copy == whole else ["later"])


def test_a_file_that_another_process_holds_is_not_called_damaged(home, monkeypatch):
    monkeypatch.setattr(backup, "LOCKED_SECONDS", 0.1)
    with contextlib.closing(sqlite3.connect(home.database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for look in (backup.check, backup.save):
            with pytest.raises(MetadataUnavailable, match=r"is locked\. Nothing was changed\. Another process holds"):
                look(home)


def test_an_empty_copy_is_no_whole_one(home):
    (whole,) = backup.copies(home)
    empty = whole.with_name("metadata-9.db")
    empty.touch()
    assert backup.restore(home) == backup.Restored(whole, (empty,))


def test_a_damaged_file_takes_no_copys_place(home):
    before = backup.copies(home)
    overwrite_pages(home.database)
    for _ in range(3):
        with pytest.raises(MetadataUnavailable, match="is damaged"):
            backup.save(home)
    assert backup.copies(home) == before


@pytest.mark.parametrize("left", [bytes(4096), b"text", b"SQLite format 3\x00" + bytes(100)])
def test_what_a_copy_that_was_cut_off_left_is_in_nobodys_way(home, left):
    for suffix in ("", "-journal"):
        (home.backups / f"metadata.new{suffix}").write_bytes(left)
    backup.save(home)
    assert [values(path) for path in backup.copies(home)] == [["as it was"], ["as it was"]]


def test_a_copy_that_cannot_be_brought_is_not_called_damaged(home):
    write(home.database, *("later" * 1000 for _ in range(100)))
    backup.save(home)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # as on a full disk
    try:
        with pytest.raises(StorageError, match="cannot be copied to"):
            backup.restore(home)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert len(values(home.database)) == 100


@pytest.mark.parametrize("metadata", ["", "postgresql://me@db.example/runs"])
def test_metadata_on_a_server_are_not_restored_from_a_file(home, metadata):
    home.store_record.write_text("postgresql://db.example:5432/runs")
    with pytest.raises(ConfigError, match=r"are in postgresql://db\.example:5432/runs"):
        backup.restore(dataclasses.replace(home, metadata=metadata))
    assert values(home.database) == ["as it was"]


def test_without_a_copy_there_is_nothing_to_return_to(tmp_path):
    with pytest.raises(MetadataUnavailable, match="There is no copy"):
        backup.restore(Home(tmp_path))


def test_three_copies_are_kept_whatever_the_clock_says(home, monkeypatch):
    (first,) = backup.copies(home)
    first.rename(first.with_name("metadata-20991123T101112123456.db"))  # as 0.1.0 called it
    for number in range(12):
        write(home.database, str(number))
        backup.save(home)
    assert [values(path) for path in backup.copies(home)] == [["9"], ["10"], ["11"]]
    write(home.database, "later")
    assert backup.restore(home).copy == backup.copies(home)[-1]
    assert values(home.database) == ["11"]
