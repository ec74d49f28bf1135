import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from conveyor.errors import ConfigError
from pipeline.beam.cluster import look_at_workers
from pipeline.beam.worker import parsed, places
from tests.pipeline.beam.conftest import POOL, ROOT, begun, free_port, on_loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "0", "0x0", "::ffff:0.0.0.0"])
def test_it_never_listens_everywhere(host):
    with pytest.raises(ConfigError, match="every address of this machine, and whoever reaches a worker can run any"):
        places(host, 50000)


def test_a_host_elsewhere_is_told():
    assert "127.0.0.1" in places("localhost", 50000)
    with pytest.raises(ConfigError, match="is no host of this machine"):
        places("nosuch.invalid", 50000)
    with pytest.raises(ConfigError, match=r"203\.0\.113\.1 is no address of this machine"):
        places("203.0.113.1", 50000)


@pytest.mark.parametrize(
    "address",
    ["50000", "localhost", "localhost:0", "localhost:65536", ":50000", "host:port", "[[::1]]:5", " :5", "host:\uff15"],
)
def test_what_is_no_address_is_a_sentence(address):
    with pytest.raises(ConfigError, match="is no address; it must look like localhost:50000"):
        parsed(address)


def test_an_address_of_ipv6_has_brackets():
    assert parsed("[::1]:50000") == ("::1", 50000)


def test_a_port_that_is_taken_is_told():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run([*POOL, address], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.endswith(f"conveyor: {address} cannot be listened to: Address already in use.\n")


@pytest.mark.slow
def test_it_listens_where_it_is_told_and_ends_with_its_workers(tmp_path):
    port = free_port()
    with begun([*POOL, f"127.0.0.1:{port}"]) as pool:
        workers = look_at_workers(on_loopback(f"127.0.0.1:{port}"), tmp_path)
        assert list(tmp_path.iterdir()) == []  # the look leaves nothing
        assert _listening(port) <= {"0100007F", "0000000000000000FFFF00000100007F"}  # 127.0.0.1, also as IPv6 has it
        assert workers
        look_at_workers(on_loopback(f"127.0.0.1:{port}"), tmp_path)
        assert len(_children(pool.pid)) <= 2  # those of jobs that have ended are not kept
        pool.send_signal(signal.SIGTERM)
        assert pool.wait(timeout=30) == 0
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker.process, 0)


def _listening(port):
    """Returns the addresses of this machine where somebody listens at a port, as the kernel writes them."""
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    places = [fields[1].split(":") for fields in lines if fields[3] == "0A"]
    return {address for address, number in places if int(number, 16) == port}


def _children(process):
    return Path(f"/proc/{process}/task/{process}/children").read_text().split()
