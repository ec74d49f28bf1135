"""The metadata in a real PostgreSQL, started for the test, where there is one on this machine."""

import os
import re
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest


@pytest.fixture
def postgresql():
    """The address of a database in a server of its own, on this machine's loopback."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("needs PostgreSQL's server: apt install postgresql")
    programs = found[-1].parent
    # The server refuses to run as root.
    prefix = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def call(program, *arguments):
        command = [*prefix, str(programs / program), *arguments]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)

    data = str(folder / "data")
    call("initdb", "--pgdata", data, "--auth", "trust", "--username", "conveyor")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
    call("pg_ctl", "--pgdata", data, "--options", options, "--log", f"{folder}/log", "--wait", "start")
    try:
        call("createdb", "--host", "127.0.0.1", "--port", str(port), "--username", "conveyor", "runs")
        yield f"postgresql://conveyor:secret@127.0.0.1:{port}/runs"
    finally:
        call("pg_ctl", "--pgdata", data, "--mode", "immediate", "stop")
        shutil.rmtree(folder)


def test_run_and_second_run(conveyor, postgresql, monkeypatch):
    monkeypatch.setenv("CONVEYOR_METADATA", postgresql)
    code, out = conveyor.run()
    assert code == 0, out
    assert not (conveyor.home / "metadata.db").exists()
    code, out = conveyor.run()
    assert "up to date" in out
    code, out = conveyor("runs")
    assert re.search(r"digits-\S+ .*pushed", out)
    assert "secret" not in out

    before = sorted(conveyor.home.glob("artifacts/*/*/*/*"))
    assert before
    monkeypatch.delenv("CONVEYOR_METADATA")
    for verb in (["runs"], conveyor.run_arguments()):
        code, out = conveyor(*verb)
        assert code == 2
        assert "and not in metadata.db: name it with --metadata" in out
    assert sorted(conveyor.home.glob("artifacts/*/*/*/*")) == before
