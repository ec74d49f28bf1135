"""The metadata in a real PostgreSQL and a real MariaDB, started for the test, where they are on this machine."""

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


class Server:
    """A database server of its own, on this machine's loopback; it refuses to run as root.

    Attributes:
      address: of a database in it.
    """

    scheme, user = "", ""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, str(folder / "data")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"{self.scheme}://conveyor:secret@127.0.0.1:{self.port}/runs"

    def call(self, *command: str | Path) -> None:
        subprocess.run(
            self.as_user(command), cwd=self.folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def as_user(self, command: tuple[str | Path, ...]) -> list[str]:
        prefix = ["runuser", "-u", self.user, "--"] if os.geteuid() == 0 else []
        return [*prefix, *map(str, command)]


class PostgreSQL(Server):
    scheme, user = "postgresql", "postgres"
    programs = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)

    def make(self) -> None:
        self.call(self.programs / "initdb", "--pgdata", self.data, "--auth", "trust", "--username", "conveyor")
        self.start()
        where = ["--host", "127.0.0.1", "--port", str(self.port), "--username", "conveyor"]
        self.call(self.programs / "createdb", *where, "runs")

    def start(self) -> None:
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1"
        log = f"{self.folder}/log"
        self.call(
            self.programs / "pg_ctl", "--pgdata", self.data, "--options", options, "--log", log, "--wait", "start"
        )

    def stop(self) -> None:
        self.call(self.programs / "pg_ctl", "--pgdata", self.data, "--mode", "immediate", "stop")


class MariaDB(Server):
    scheme, user = "mysql", "mysql"
    programs = Path(found).parent if (found := shutil.which("mariadbd", path="/usr/sbin:/usr/bin")) else None

    def make(self) -> None:
        method = "--auth-root-authentication-method=normal"
        self.call("mariadb-install-db", "--no-defaults", f"--datadir={self.data}", method, "--skip-test-db")
        self.start()
        user = "create user conveyor@'%' identified by 'secret'; grant all on runs.* to conveyor@'%'"
        self.call(*self.client(f"create database runs; {user}"))

    def client(self, statement: str) -> list[str]:
        return ["mariadb", "--no-defaults", f"--socket={self.folder}/socket", "--user=root", "-e", statement]

    def start(self) -> None:
        where = [f"--datadir={self.data}", f"--port={self.port}", "--bind-address=127.0.0.1"]
        command = (self.programs / "mariadbd", "--no-defaults", *where, f"--socket={self.folder}/socket")
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self.as_user(command), stdout=log, stderr=log)
        ends = time.monotonic() + 60
        while subprocess.run(self.client("select 1"), check=False, capture_output=True).returncode:
            assert time.monotonic() < ends, (self.folder / "log").read_text()
            time.sleep(0.1)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=60)


@pytest.fixture(params=[PostgreSQL, MariaDB])
def database(request, monkeypatch) -> Iterator[Server]:
    if request.param.programs is None:
        pytest.skip("needs the servers: apt install postgresql mariadb-server")
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    server = request.param(folder)
    try:
        server.make()
        monkeypatch.setenv("CONVEYOR_METADATA", server.address)
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


def test_run_and_second_run(conveyor, database, monkeypatch):
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


def test_what_is_killed_goes_on_although_the_server_begins_anew(conveyor, database):
    arguments = conveyor.run_arguments("training.steps=300")

    def killed(process: subprocess.Popen) -> None:
        os.killpg(process.pid, signal.SIGKILL)

    def restarted(_: subprocess.Popen) -> None:
        database.stop()
        database.start()

    assert _in_training(conveyor, arguments, "step 20,", killed)[0] == -signal.SIGKILL
    code, out = _in_training(conveyor, arguments, "Continuing from the checkpoint at step", restarted)
    assert code == 0, out
    assert "An earlier run was stopped in Trainer" in out
    assert [states["Trainer"] for states in conveyor.states()] == ["canceled", "done"]


def _in_training(conveyor, arguments, line: str, act: Callable[[subprocess.Popen], None]) -> tuple[int, str]:
    """Runs a command, and does something once it has printed a line that begins so."""
    printed = []
    with conveyor.start(*arguments) as process:
        for text in process.stdout:
            printed.append(text)
            if text.startswith(line):
                act(process)
    return process.returncode, "".join(printed)
