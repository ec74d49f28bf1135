import os
from pathlib import Path

from conveyor.files import replace_file


def test_a_file_is_replaced_through_to_the_disk(tmp_path, monkeypatch):
    flushed, flush = [], os.fsync

    def fsync(descriptor):
        flushed.append((Path(f"/proc/self/fd/{descriptor}").resolve(), (tmp_path / "a").read_text()))
        flush(descriptor)

    (tmp_path / "a").write_text("old")
    monkeypatch.setattr(os, "fsync", fsync)
    replace_file(tmp_path / "a", "ne\u00fc")
    assert flushed == [(tmp_path / ".a.new", "old"), (tmp_path, "ne\u00fc")]  # the folder has the new name in it
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
