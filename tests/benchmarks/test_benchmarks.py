"""Every benchmark runs in its smallest size, so that none rots; what it stores goes elsewhere."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALLEST = {
    "data_size": ["--gigabytes", "0.01", "--steps", "20", "--runs", "1"],
    "ingest": ["--runs", "1", "--pictures", "100"],
    "pipeline_overhead": ["--runs", "1", "--steps", "100"],
    "retraining": ["--runs", "1", "--steps", "20", "--warm-steps", "10", "--spans", "1"],
    "serving": ["--runs", "1", "--seconds", "1", "--networks", "mnist"],
    "serving_processes": ["--runs", "1", "--seconds", "1", "--networks", "mnist"],
    "training_workers": ["--runs", "1", "--steps", "3", "--networks", "mnist"],
    "training": ["--runs", "1", "--steps", "3", "--networks", "mnist"],
}


@pytest.mark.parametrize("name", SMALLEST)
def test_benchmark_runs(name, mnist, tmp_path):
    if name.startswith("serving") and not shutil.which("h2load"):
        pytest.skip("needs h2load")
    (tmp_path / "home" / "data").mkdir(parents=True)
    (tmp_path / "home" / "data" / "mnist").symlink_to(mnist)
    environment = os.environ | {"CONVEYOR_HOME": str(tmp_path / "home"), "BENCHMARK_RESULTS": str(tmp_path / "results")}
    command = [sys.executable, "-m", f"benchmarks.{name}", *SMALLEST[name]]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    result = json.loads((tmp_path / "results" / f"{name}.json").read_text())
    assert result["machine"]["cores"] >= 1
    assert set(result["code_sha256"]) == {"conveyor", "pipeline", "components", "trainer", "serving"}


def test_every_benchmark_is_run():
    programs = {path.stem for path in (ROOT / "benchmarks").glob("*.py") if "def main()" in path.read_text()}
    assert programs - {"litserve_peer", "plain_tfx"} == set(SMALLEST)
