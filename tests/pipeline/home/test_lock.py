import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from conveyor.errors import StorageError
from pipeline.home.folders import Home
from pipeline.home.lock import HomeBusy, is_busy, locked

ROOT = Path(__file__).parents[3]


def test_a_home_is_held_by_one_process(tmp_path):
    code = (
        "import pathlib, sys; from pipeline.home.folders import Home; from pipeline.home.lock import locked\n"
        f"with locked(Home(pathlib.Path({str(tmp_path)!r}))): pass"
    )
    with locked(Home(tmp_path)):
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert f"HomeBusy: Another run (process {os.getpid()} on {socket.gethostname()}) is using {tmp_path}" in done.stderr


def test_a_look_at_the_lock_is_in_no_runs_way(tmp_path):
    home, stopped = Home(tmp_path), threading.Event()
    with locked(home):
        pass

    def look():
        while not stopped.is_set():
            is_busy(home)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(100):
            with locked(home):
                pass
    finally:
        stopped.set()
        looking.join()
    assert not is_busy(home)


def test_a_home_is_free_after_the_block(tmp_path):
    for _ in range(2):
        with locked(Home(tmp_path)):
            pass


def test_a_home_that_cannot_be_made_is_an_error_in_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"The home folder .* cannot be used"), locked(Home(tmp_path / "file" / "h")):
        pass


def test_an_error_in_the_block_is_not_the_locks(tmp_path):
    with pytest.raises(OSError, match="inside"), locked(Home(tmp_path)):
        raise OSError("inside")
    assert issubclass(HomeBusy, Exception)
