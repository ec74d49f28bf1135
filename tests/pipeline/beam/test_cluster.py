import contextlib
import http.server
import json
import platform
import shutil
import socketserver
import subprocess
import threading

import pytest

from components.code_digest import PACKAGES
from pipeline.beam import cluster, probe
from pipeline.beam.cluster import ClusterUnfit, look_at_workers, with_slots
from pipeline.beam.runners import DIRECT, BeamRunner
from tests.pipeline.beam.conftest import POOL, ROOT, begun, free_port, on_loopback

# Beam's embedded job server lets the thread of a job die with what failed it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
# As a JobManager of Flink 1.19 answers, with one TaskManager of two slots.
OVERVIEW = {
    "taskmanagers": 1,
    "slots-total": 2,
    "slots-available": 2,
    "jobs-running": 0,
    "jobs-finished": 0,
    "jobs-cancelled": 0,
    "jobs-failed": 0,
    "flink-version": "1.19.3",
    "flink-commit": "4105f8d",
}


@contextlib.contextmanager
def job_manager(answer):
    """Yields the address of a server that answers /overview."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/overview" else 404)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def flink(master, *options):
    return BeamRunner.of(" ".join([f"flink --flink_master={master}", *options]), "--beam")


def test_a_job_takes_the_slots_that_are_free():
    with job_manager(json.dumps(OVERVIEW | {"slots-total": 8, "slots-available": 6}).encode()) as master:
        assert with_slots(flink(master)).option("parallelism") == "6"
        assert with_slots(flink(f"http://{master}/")).option("parallelism") == "6"
        assert with_slots(flink(master, "--parallelism=3")).option("parallelism") == "3"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"taskmanagers": 0, "slots-total": 0, "slots-available": 0}, "cannot take a job: it has no TaskManager"),
        ({"slots-available": 0}, "cannot take a job: none of its 2 slots is free; wait, or add one"),
    ],
)
def test_a_cluster_without_a_free_slot_is_told(answer, says):
    with job_manager(json.dumps(OVERVIEW | answer).encode()) as master, pytest.raises(ClusterUnfit, match=says):
        with_slots(flink(master))


@pytest.mark.parametrize("answer", [b"", b"<html>", b"[]", b'{"slots-total": 2}'])
def test_another_server_is_no_flink(answer):
    with job_manager(answer) as master, pytest.raises(ClusterUnfit, match=f"There is no Flink at {master}: "):
        with_slots(flink(master))


def test_a_wrong_address_is_told():
    with pytest.raises(ClusterUnfit, match=r"no Flink at 127.0.0.1:\d+: .*refused. --beam names its REST address"):
        with_slots(flink(f"127.0.0.1:{free_port()}"))


def test_what_is_no_flink_cluster_is_left_as_it_is():
    for runner in (DIRECT, BeamRunner.of("spark", ""), BeamRunner.of("flink", ""), flink("[local]")):
        assert with_slots(runner) == runner


def test_where_all_is_here_nobody_looks(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "look_at_workers", None)
    assert cluster.ready(DIRECT, tmp_path, None) == DIRECT


@pytest.fixture
def look(tmp_path):
    """Looks as on a worker, at a home whose token is there."""
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / probe.TOKEN).write_text("t")
    made = probe.Look(str(tmp_path / "b"), "t")
    made.setup()
    return made


def test_a_fit_worker_writes_who_it_is(look, tmp_path):
    assert list(look.process(1)) == []
    assert [json.loads(path.read_text())["host"] for path in (tmp_path / "b").glob("*.json")] == [platform.node()]


@pytest.mark.parametrize(
    ("attribute", "value", "says"),
    [
        ("_python", "3.99.1", "runs Python .*, and this is 3.99.1"),
        ("_digest", "another", "has another version of Conveyor, or of its libraries"),
        ("_folder", "/nowhere/b", "does not see this home folder: .*No such file"),
        ("_token", "another", "sees another folder at "),
    ],
)
def test_a_worker_that_is_unfit_says_why(look, attribute, value, says):
    setattr(look, attribute, value)
    with pytest.raises(probe.Unfit, match=says):
        list(look.process(1))


def test_a_job_server_needs_java(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterUnfit, match="spark: Beam needs Java here, to start its job server; or name one"):
        look_at_workers(BeamRunner.of("spark", "--beam"), tmp_path)


@pytest.mark.slow
def test_whatever_fails_a_job_is_one_sentence(tmp_path):
    with pytest.raises(ClusterUnfit, match=r"dataflow \(--beam\): a small job that was sent ahead failed: .*\S"):
        look_at_workers(BeamRunner.of("dataflow", "--beam"), tmp_path)


@pytest.mark.slow
def test_where_no_worker_answers_it_is_told(tmp_path):
    runner = on_loopback(f"127.0.0.1:{free_port()}")
    with pytest.raises(ClusterUnfit, match=r"no worker answers at 127.0.0.1:.* Start one there: conveyor worker"):
        look_at_workers(runner, tmp_path)


@pytest.mark.slow
def test_a_worker_of_another_conveyor_is_told(tmp_path):
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / "other" / package)
    with (tmp_path / "other" / "trainer" / "loop.py").open("a") as file:
        file.write("# another version\n")
    address = f"127.0.0.1:{free_port()}"
    with begun([*POOL, address], tmp_path / "other"), pytest.raises(ClusterUnfit, match="another version of Conveyor"):
        look_at_workers(on_loopback(address), tmp_path)


def _may_unshare():
    return subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not _may_unshare(), reason="no mount namespace may be made here")
def test_a_worker_that_does_not_see_the_home_is_told(tmp_path):
    (tmp_path / "home").mkdir()
    address = f"127.0.0.1:{free_port()}"
    mounted = f'mount -t tmpfs none {tmp_path / "home"} && exec "$@"'
    with (
        begun(["unshare", "-rm", "sh", "-c", mounted, "sh", *POOL, address]),
        pytest.raises(ClusterUnfit, match=r"does not see this home folder: .*No such file"),
    ):
        look_at_workers(on_loopback(address), tmp_path / "home")
