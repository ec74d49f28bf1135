"""A bare Session on random images, the limit that a server is held against.

`python -m serving.bare_session MODEL SHAPE SECONDS`, SHAPE being a JSON list: rows, height, width, channels,
prints one JSON object: `runs`, `seconds`, and `cpu`, the processor's seconds.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from serving.server.models.bundle import SavedModelBundle


def main(model: Path, shape: list[int], seconds: float) -> None:
    """Runs `predict_images` for some seconds, after some runs that are not counted."""
    bundle = SavedModelBundle(model)
    images = np.random.default_rng(0).random(shape, np.float32)
    for _ in range(5):
        bundle.run("predict_images", [images])
    runs, started, used = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - started < seconds:
        bundle.run("predict_images", [images])
        runs += 1
    times = {"seconds": time.perf_counter() - started, "cpu": time.process_time() - used}
    print(json.dumps({"runs": runs} | times))


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python -m serving.bare_session MODEL SHAPE SECONDS")
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), float(sys.argv[3]))
