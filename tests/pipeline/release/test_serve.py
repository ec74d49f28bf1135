import socket

import pytest

from conveyor.errors import ConfigError
from pipeline.home.folders import Home
from pipeline.release import serve
from pipeline.release.serve import ServerSettings


@pytest.fixture
def home(tmp_path):
    (tmp_path / "serving" / "mnist" / "1").mkdir(parents=True)
    return Home(tmp_path)


@pytest.fixture
def taken():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_a_port_that_is_taken_is_refused_and_nothing_is_written(home, taken):
    with pytest.raises(ConfigError, match=f"--port {taken} cannot be listened on"):
        serve.prepare(home, ServerSettings(backend="embedded", port=taken))
    assert not home.server.exists()


def test_a_dry_run_needs_no_free_port(home, taken):
    assert serve.prepare(home, ServerSettings(backend="embedded", port=taken), dry_run=True).models == {"mnist": 1}


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("192.0.2.1", "--host 192.0.2.1 is no address of this machine"),
        ("no host", "--host no host cannot be resolved"),
    ],
)
def test_a_host_that_is_not_ours_is_refused(home, host, message):
    with pytest.raises(ConfigError, match=message):
        serve.prepare(home, ServerSettings(backend="embedded", host=host))


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_an_ipv6_address_is_an_address(home):
    assert serve.prepare(home, ServerSettings(backend="embedded", host="::", port=18573, rest_port=18574))
