import stat

import pytest

from conveyor.errors import ConfigError
from pipeline.home.folders import Home
from pipeline.release import backends


def program(folder, name, script="exit 0"):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_the_real_server_comes_first_then_a_container_then_ours(path):
    chosen = backends.choose("auto")
    assert (chosen.name, chosen.is_embedded) == ("embedded", True)
    assert "no container engine answers" in chosen.why
    program(path, "docker", "exit 1")
    assert backends.choose("auto").name == "embedded"
    program(path, "podman")
    chosen = backends.choose("auto")
    assert (chosen.name, chosen.engine, chosen.is_embedded) == ("docker", "podman", False)
    program(path, "docker")
    assert backends.choose("auto").engine == "docker"
    program(path, "tensorflow_model_server")
    chosen = backends.choose("auto")
    assert chosen.name == "tensorflow_model_server"
    assert str(path) in chosen.why


@pytest.mark.parametrize("name", ["tensorflow_model_server", "docker"])
def test_what_is_not_there_is_refused(path, name):
    with pytest.raises(ConfigError, match="--backend embedded needs nothing more"):
        backends.choose(name)


def test_a_container_sees_the_folders_read_only_and_publishes_on_the_host_asked_for(tmp_path):
    home = Home(tmp_path)
    command = backends.Backend("docker", "", "podman").command(home, home.server, "127.0.0.1", 8500, 8501, "image")
    assert command[:2] == ["podman", "run"]
    assert f"--volume={home.serving}:{home.serving}:ro" in command
    assert "--publish=127.0.0.1:8501:8501" in command
    assert command[command.index("image") + 1] == "--port=8500"
