"""Asks another process whether a model can be served."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from conveyor.settings import from_json
from trainer.examples import read_split
from trainer.settings import SPEC, TrainingSpec

ROOT = Path(__file__).resolve().parents[2]


def check(model: Path, run: Path, examples: Path, count: int) -> dict[str, Any]:
    """Loads and calls a model in a separate process, and returns what it said: `ok`, `reason` and `differences`.

    A model that makes the loader crash takes that process with it, not the pipeline.

    Args:
      model: folder of the SavedModel.
      run: the trainer's other outputs, with `spec.json` and `test_scores.npy`.
      examples: folder of the splits.
      count: how many test images, the first, are compared.
    """
    pictures = from_json(TrainingSpec, (run / SPEC).read_bytes()).job.pictures
    scores = np.load(run / "test_scores.npy", allow_pickle=False)[:count]
    images = read_split(examples / "Split-test", pictures).images[:count]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, "images.npy"), Path(folder, "scores.npy")]
        for path, array in zip(paths, (images, scores), strict=True):
            np.save(path, array, allow_pickle=False)
        command = [sys.executable, "-m", "serving.servability", str(model), *map(str, paths)]
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    sys.stderr.write(done.stderr)
    if done.returncode:
        reason = f"the process that loaded it ended with {done.returncode}: {done.stderr.strip()[-500:]}"
        return {"ok": False, "reason": reason, "differences": {}}
    return json.loads(done.stdout.splitlines()[-1])
