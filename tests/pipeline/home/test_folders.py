from pathlib import Path

import pytest

from conveyor.errors import ConfigError
from pipeline.home.folders import Home


def test_home_is_the_option_the_variable_or_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CONVEYOR_HOME", raising=False)
    assert Home.at().root == tmp_path / ".conveyor"
    monkeypatch.setenv("CONVEYOR_HOME", str(tmp_path / "variable"))
    assert Home.at().root == tmp_path / "variable"
    assert Home.at(str(tmp_path / "option")).root == tmp_path / "option"


def test_a_home_that_is_not_found_by_itself_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVEYOR_HOME", str(tmp_path / "usual"))
    assert Home.at().option == Home.at(str(tmp_path / "usual")).option == ""
    assert Home.at(str(tmp_path / "a b")).option == f" --home '{tmp_path}/a b'"


def test_metadata_is_sqlite_unless_told_otherwise(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVEYOR_METADATA", "")
    assert Home(tmp_path).connection().sqlite.filename_uri == str(tmp_path / "metadata.db")
    mysql = Home(tmp_path, "mysql://me:p%40ss@db.example/runs").connection().mysql
    assert (mysql.host, mysql.port, mysql.database, mysql.user, mysql.password) == (
        "db.example",
        3306,
        "runs",
        "me",
        "p@ss",
    )
    server = Home(tmp_path, "postgresql://me:secret@db.example:6000/runs").connection().postgresql
    assert (server.host, server.port, server.dbname, server.user) == ("db.example", "6000", "runs", "me")


@pytest.mark.parametrize("address", ["sqlite:///x.db", "mysql://host", "nothing"])
def test_unknown_metadata_address_is_explained(address):
    with pytest.raises(ConfigError, match="must look like mysql://"):
        Home(Path("/nowhere"), address).connection()
