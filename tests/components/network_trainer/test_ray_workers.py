import json
import os
import subprocess
import sys

SHARES = """
import json, sys
from components.network_trainer.ray_workers import _share
for nodes, count in json.loads(sys.argv[1]):
    print(json.dumps(_share([{"Alive": True, "Resources": {"GPU": gpus} if gpus else {}} for gpus in nodes], count)))
"""
ENDS = """
import sys
from pathlib import Path
from components.network_trainer.ray_workers import _outcome
sys.exit(_outcome(Path(sys.argv[1])))
"""


def run(ray, program, argument):
    command = [sys.executable, "-c", program, argument]
    return subprocess.run(command, env=os.environ | ray, capture_output=True, text=True, check=False)


def test_each_worker_gets_gpus_that_a_node_has(ray):
    cases = [([0, 0], 2), ([1, 1, 1, 1], 2), ([8, 8], 2), ([8, 8], 16), ([4, 2], 3), ([1], 4)]
    done = run(ray, SHARES, json.dumps(cases))
    assert done.returncode == 0, done.stderr
    assert [json.loads(line).get("GPU") for line in done.stdout.splitlines()] == [None, 1, 8, 1, 2, 1]


def test_the_last_attempt_says_how_a_training_ended(ray, tmp_path):
    def ended(rank, attempt, code):
        told = {"attempt": {"worker": [attempt]}, "rank": rank, "code": code}
        (tmp_path / f"worker-{rank}.end").write_text(json.dumps(told))

    (tmp_path / "worker-1.log").write_text("as it goes\nThe loss was nan.\n")
    ended("1", "a:1", 1)
    ended("0", "b:1", 0)
    assert run(ray, ENDS, str(tmp_path)).returncode == 0
    ended("1", "b:1", 2)
    done = run(ray, ENDS, str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "Worker 1: The loss was nan."
