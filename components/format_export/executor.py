"""Has another process convert a model, and judges what it measured."""

import dataclasses
import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conveyor import processes
from conveyor.errors import ConveyorError
from conveyor.numbers import exact

ROOT = Path(__file__).resolve().parents[2]
FORMATS_FILE = "formats.json"
SAVED_MODEL = "saved_model"


class ConversionFailed(ConveyorError):
    """A network cannot be converted to a format that the experiment asks for."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What each format must reach on the test split.

    Attributes:
      min_accuracy: lowest accuracy, 0 to 1.
      tolerance: how far its accuracy may lie below that of the SavedModel, 0 to 1.
    """

    min_accuracy: float
    tolerance: float


def convert(model: Path, run: Path, examples: Path, formats: Sequence[str], target: Path) -> list[dict[str, Any]]:
    """Converts a model in a process of its own, and returns what was measured of the SavedModel and of each format.

    A network that makes the converter crash takes that process with it, not the pipeline.

    Args:
      model: folder of the SavedModel.
      run: the trainer's other outputs: `spec.json`, `test_scores.npy`, and the network's code.
      examples: folder of the splits.
      formats: names of formats.
      target: folder for the files.

    Returns:
      One row each: `format`, `bytes`, `accuracy`, `correct`, `examples`, and `milliseconds`, the median time that one
      image takes here.

    Raises:
      ConversionFailed: it cannot be converted, the message says to what, and why; or the process died.
    """
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, FORMATS_FILE)
        paths = map(str, (model, run, examples, target, answer))
        command = ["components.format_export.convert", *paths, *formats]
        code, last = processes.run(command, ROOT, {"CUDA_VISIBLE_DEVICES": "-1"})
        if code:
            how = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
            raise ConversionFailed(f"The process that converts the network {how}: {last.rstrip('.')}.")
        found = json.loads(answer.read_text())
    if isinstance(found, str):
        raise ConversionFailed(f"{found} Without serving.formats the model is pushed as a SavedModel alone.")
    return found


def shortfalls(measured: Sequence[dict[str, Any]], limits: Limits) -> list[str]:
    """Returns a sentence for each format that is not accurate enough; the comparison is one of counts, and exact."""
    own = next(row for row in measured if row["format"] == SAVED_MODEL)
    floor = math.ceil(exact(limits.min_accuracy) * own["examples"])
    least = own["correct"] - math.floor(exact(limits.tolerance) * own["examples"])
    reasons = []
    for row in measured:
        text = f"{row['format']}: test accuracy {row['accuracy']:.4f} is below "
        if row is not own and row["correct"] < floor:
            reasons.append(f"{text}the floor of {limits.min_accuracy:g}")
        elif row is not own and row["correct"] < least:
            reasons.append(
                f"{text}the {own['accuracy']:.4f} of the SavedModel by more than the tolerance of {limits.tolerance:g}"
            )
    return reasons
