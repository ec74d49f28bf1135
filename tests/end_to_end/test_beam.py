import hashlib
import re
import signal
import socket
import time

import pytest

from tests.end_to_end.conftest import Conveyor
from tests.pipeline.beam.conftest import POOL, begun, free_port


def examples(conveyor):
    """Returns the SHA-256 of each file of the ingested examples."""
    (folder,) = (conveyor.home / "artifacts" / "digits" / "ImageExampleGen" / "examples").iterdir()
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def options(folder, address):
    """Writes a file of Beam's options, for its own portable runner."""
    text = f"--runner=PortableRunner --job_endpoint=embed  # Beam's own\n--environment_config={address}\n"
    (folder / "options").write_text(text)
    return folder / "options"


def test_workers_beside_a_runner_make_what_one_process_makes(pushed, tmp_path):
    other, address = Conveyor(tmp_path, pushed.data), f"127.0.0.1:{free_port()}"
    with begun([*POOL, address]):
        code, out = other(*other.run_arguments(), "--beam", options(tmp_path, address))
    assert code == 0, out
    assert f"Beam: PortableRunner (--beam), 1 worker on {socket.gethostname()}" in out
    assert examples(other) == examples(pushed)
    assert other.reports()[-1]["evaluation"] == pushed.reports()[-1]["evaluation"]

    code, out = other.run("gate.tolerance=0.06")  # in this process, and from the cache all the same
    assert code == 0, out
    assert re.search(r"ImageExampleGen +cached", out)
    assert re.search(r"Trainer +cached", out)


def test_a_cluster_that_is_not_there_is_told_before_any_work(conveyor):
    code, out = conveyor(*conveyor.run_arguments(), "--beam", f"flink --flink_master=127.0.0.1:{free_port()}")
    assert code == 1, out
    assert re.search(r"conveyor: There is no Flink at 127\.0\.0\.1:\d+: .*refused\. --beam names its REST", out)
    assert conveyor.states() == []
    code, out = conveyor(*conveyor.run_arguments(), "--beam", "flonk")
    assert code == 2
    assert "conveyor: --beam: there is no runner 'flonk'" in out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_whose_workers_do_not_answer_can_be_stopped(conveyor, tmp_path, number):
    address = f"127.0.0.1:{free_port()}"
    arguments = conveyor.run_arguments()
    with begun([*POOL, address]) as pool, conveyor.start(*arguments, "--beam", options(tmp_path, address)) as process:
        try:
            printed = next(line for line in process.stdout if line.startswith("Beam: "))
            pool.send_signal(signal.SIGSTOP)
            while not list(conveyor.home.glob("artifacts/*/ImageExampleGen/examples/*/Split-train")):
                time.sleep(0.1)
            time.sleep(1)  # it begins a job then, and waits for a worker
            process.send_signal(number)
            printed += process.stdout.read()
            assert process.wait(timeout=60) == 130, printed
        finally:
            process.kill()
            pool.send_signal(signal.SIGCONT)
    assert re.search(r"ImageExampleGen +stopped", printed), printed
    assert "Traceback" not in printed
    assert [states["ImageExampleGen"] for states in conveyor.states()] == ["canceled"]
