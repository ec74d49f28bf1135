"""Asks another process whether a model can be served."""

import json
import signal
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from conveyor import processes
from conveyor.errors import ConveyorError
from conveyor.settings import from_json
from trainer.examples import read_split
from trainer.settings import SPEC, TrainingSpec

SCARCE = ("pthread_create", "bad_alloc", "Resource temporarily unavailable")  # TensorFlow aborts without threads too
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)  # such as a model may cause


class CheckFailed(ConveyorError):
    """The process came to no verdict: it was killed, say, or a disk was full, which says nothing of the model."""


def check(model: Path, run: Path, examples: Path, count: int) -> dict[str, Any]:
    """Loads and calls a model in a separate process, and returns what it said: `ok`, `reason` and `differences`.

    A model that makes the loader crash takes that process with it, not the pipeline.

    Args:
      model: folder of the SavedModel.
      run: the trainer's other outputs, with `spec.json` and `test_scores.npy`.
      examples: folder of the splits.
      count: how many test images, the first, are compared.

    Raises:
      CheckFailed: the process came to no verdict.
    """
    pictures = from_json(TrainingSpec, (run / SPEC).read_bytes()).job.pictures
    scores = np.load(run / "test_scores.npy", allow_pickle=False)[:count]
    images = read_split(examples / "Split-test", pictures).images[:count]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, "images.npy"), Path(folder, "scores.npy")]
        for path, array in zip(paths, (images, scores), strict=True):
            np.save(path, array, allow_pickle=False)
        command = ["serving.servability", str(model), *map(str, paths)]
        answer = Path(folder, "answer")
        with answer.open("w") as output:
            code, last_line = processes.run(command, Path(folder), {"CUDA_VISIBLE_DEVICES": "-1"}, output)
        if -code in CRASHES and not any(words in last_line for words in SCARCE):
            reason = f"the process that loaded it ended with {code}: {last_line}"
            return {"ok": False, "reason": reason, "differences": {}}
        if code:
            raise CheckFailed(
                f"The process that loads the model ended with {code}: {last_line.rstrip('.')}. Run again to check it."
            )
        return json.loads(answer.read_text().splitlines()[-1])
