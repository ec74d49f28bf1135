import hashlib
import re
import socket

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


def test_workers_beside_a_runner_make_what_one_process_makes(pushed, tmp_path):
    other, address = Conveyor(tmp_path, pushed.data), f"127.0.0.1:{free_port()}"
    (tmp_path / "options").write_text(
        f"--runner=PortableRunner --job_endpoint=embed  # Beam's own\n--environment_config={address}\n"
    )
    with begun([*POOL, address]):
        code, out = other(*other.run_arguments(), "--beam", tmp_path / "options")
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
