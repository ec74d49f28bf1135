import socket

import pytest
from click.testing import CliRunner

from conveyor.errors import ConfigError
from pipeline.cli.main import main
from pipeline.home.folders import Home
from pipeline.release import backends, serve
from pipeline.release.serve import ServerSettings
from pipeline.release.server_folder import ServerFolder


@pytest.fixture
def home(tmp_path):
    for version in (1, 2):
        (tmp_path / "serving" / "mnist" / str(version)).mkdir(parents=True)
    return Home(tmp_path)


@pytest.fixture
def taken():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def settings(**options):
    return ServerSettings(backend="embedded", **options)


def test_a_port_that_is_taken_is_refused_and_nothing_is_written(home, taken):
    with pytest.raises(ConfigError, match=f"--port {taken} cannot be listened on"):
        serve.serve(home, settings(port=taken), print, print, print)
    assert not home.server.exists()


def test_a_look_writes_nothing_and_tells_of_a_port_that_is_taken(home, taken):
    result = CliRunner().invoke(
        main, ["serve", "--home", str(home.root), "--backend=embedded", "--dry-run", f"--port={taken}"]
    )
    assert result.exit_code == 2  # as serving would
    assert f"--model_config_file={home.server}/{taken}/models.config" in result.output
    assert f"--port {taken} cannot be listened on" in result.output
    assert not home.server.exists()


def test_a_look_and_files_are_not_for_one_command(home):
    result = CliRunner().invoke(
        main, ["serve", "--home", str(home.root), "--backend=embedded", "--dry-run", "--files-only"]
    )
    assert result.exit_code == 2
    assert "--dry-run writes nothing, and --files-only writes" in result.output
    assert not home.server.exists()


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("192.0.2.1", "--host 192.0.2.1 is no address of this machine"),
        ("no host", "--host no host cannot be resolved"),
    ],
)
def test_a_host_that_is_not_ours_is_refused(home, host, message):
    with pytest.raises(ConfigError, match=message):
        serve.serve(home, settings(host=host), print, print, print)


@pytest.mark.parametrize(
    ("backend", "rest_port"), [("embedded", 8500), ("tensorflow_model_server", 8500), ("tensorflow_model_server", 8499)]
)
def test_ports_that_are_one_are_refused(home, monkeypatch, backend, rest_port):
    monkeypatch.setattr(backends, "choose", lambda name: backends.Backend(name, "as asked"))
    given = ServerSettings(backend=backend, port=8500, rest_port=rest_port)
    with pytest.raises(ConfigError, match=f"--port 8500, --rest-port {rest_port}.*: each must be another port"):
        serve.prepare(home, given)


def test_several_processes_are_of_the_embedded_server(home, monkeypatch):
    monkeypatch.setattr(backends, "choose", lambda name: backends.Backend(name, "as asked"))
    given = settings(processes=3)
    assert serve.commands(home, given, serve.prepare(home, given))[0][-1] == "--num_processes=3"
    with pytest.raises(ConfigError, match="--processes is of the embedded server, and docker was chosen: as asked"):
        serve.prepare(home, ServerSettings(backend="docker", processes=3))


def test_a_server_with_its_page_on_the_port_of_rest_leaves_the_next_one_free(home):
    assert serve.prepare(home, settings(port=8500, rest_port=8499)).models == {"mnist": 2}


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_an_ipv6_address_is_an_address(home):
    assert settings(host="::1", port=18573).target == "[::1]:18573"
    given = settings(host="::", port=18573, rest_port=18574)
    serve.check_address(given, serve.prepare(home, given).backend)


@pytest.mark.parametrize(
    ("options", "followed", "pinned", "versions"),
    [
        ({}, ("mnist",), {}, [2]),
        ({"versions": "1"}, (), {"mnist": (1,)}, [1]),
        ({"labels": ("tried=1",)}, (), {"mnist": (1, 2)}, [1, 2]),
        ({"versions": "all"}, (), {"mnist": ()}, [1, 2]),
        ({"versions": "latest"}, (), {"mnist": ()}, [2]),
        ({"versions": "latest:2", "labels": ("tried=1",)}, (), {"mnist": (1,)}, [1, 2]),
    ],
    ids=str,
)
def test_what_a_server_serves_is_written_down(home, options, followed, pinned, versions):
    given = settings(port=18500, **options)
    with serve.written(home, given) as prepared:
        record = ServerFolder.of(home, 18500).record()
    assert (record.target, record.followed, record.pinned) == ("localhost:18500", followed, pinned)
    assert prepared.versions(home) == {"mnist": versions}


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, [2, 4]),  # 4 is the newest, and 2 has the label
        ({"versions": "1"}, [1, 2, 4]),
        ({"labels": ("tried=1",)}, [1, 2, 4]),
        ({"versions": "all"}, [1, 2, 3, 4]),
        ({"versions": "latest:2"}, [2, 3, 4]),
    ],
    ids=str,
)
def test_versions_of_a_running_server_are_not_collected(home, options, kept):
    model = home.models.model("mnist")
    model.rollback(2)
    with serve.written(home, settings(port=18500, **options)):
        for later in (3, 4):
            model.path(later).mkdir()
        command = ["gc", "--home", str(home.root), "--keep", "1", "--yes"]
        assert CliRunner().invoke(main, command).exit_code == 0
    assert model.versions() == kept


@pytest.mark.parametrize("host", ["a..b", "x" * 70])
def test_what_can_be_no_host_is_refused(home, host):
    given = settings(host=host, port=18575, rest_port=18576)
    with pytest.raises(ConfigError, match="cannot be resolved: it is no name of a host"):
        serve.check_address(given, serve.prepare(home, given).backend)


def test_nothing_is_collected_until_a_server_that_starts_says_what_it_serves(home, monkeypatch):
    gc = ["gc", "--home", str(home.root), "--keep", "1", "--yes"]
    with serve.written(home, settings(port=18500, versions="2")):
        pass  # a server that ran once
    results, prepare = [], serve.prepare

    def prepared_meanwhile(*arguments):
        if ServerFolder.of(home, 18500).is_held:
            results.append(CliRunner().invoke(main, gc))
        return prepare(*arguments)

    monkeypatch.setattr(serve, "prepare", prepared_meanwhile)
    with serve.written(home, settings(port=18500, versions="1")):
        results.append(CliRunner().invoke(main, gc))
    assert [result.exit_code for result in results] == [2, 0]
    assert "18500 serves is not known: stop it, or wait for it" in results[0].output
    assert home.models.model("mnist").versions() == [1, 2]


def test_a_version_that_goes_while_a_server_starts_is_missed_before_it_starts(home, monkeypatch):
    write = ServerFolder.write_record
    monkeypatch.setattr(
        ServerFolder, "write_record", lambda *given: (home.serving / "mnist" / "1").rmdir() or write(*given)
    )
    with (
        pytest.raises(ConfigError, match="There is no version 1 of mnist; there is only 2"),
        serve.written(home, settings(port=18500, versions="1")),
    ):
        pass


def test_a_start_that_is_refused_leaves_what_is_written_down_of_the_last_one(home):
    with serve.written(home, settings(port=18500)):
        pass
    before = ServerFolder.of(home, 18500).record()
    with (
        pytest.raises(ConfigError, match="There is no version 99"),
        serve.written(home, settings(port=18500, versions="99")),
    ):
        pass
    assert ServerFolder.of(home, 18500).record() == before
