"""Reads the gates' decisions: what the model reached, and why it was turned away."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow_model_analysis as tfma

from components.drift_gate.executor import DRIFT, DriftMeasurement
from components.format_export.executor import FORMATS_FILE
from pipeline.experiments.config import Experiment
from pipeline.home import metadata_store

ACCURACY = "sparse_categorical_accuracy"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What TFMA measured on the test split.

    Attributes:
      accuracy: overall, 0 to 1.
      examples: how many there were.
      by_class: accuracy of each class, in the order of the labels.
      baseline: the serving model's overall accuracy on the same examples; None where there was none.
      baseline_by_class: likewise for each class; empty where there was none.
      reasons: a sentence for each threshold that was missed.
    """

    accuracy: float
    examples: int
    by_class: list[float]
    baseline: float | None
    baseline_by_class: list[float]
    reasons: list[str]

    def largest_decline(self, classes: Sequence[str]) -> str | None:
        """Returns a sentence on the class whose accuracy fell most from the stable version's; None where none fell."""
        falls = {
            label: before - now
            for label, (now, before) in enumerate(zip(self.by_class, self.baseline_by_class, strict=False))
            if before > now
        }
        if not falls:
            return None
        label = max(falls, key=falls.__getitem__)
        now, before = 100 * self.by_class[label], 100 * self.baseline_by_class[label]
        others = f"; {len(falls) - 1} more fell by less" if len(falls) > 1 else ""
        return f"class {classes[label]} fell from {before:.2f} % to {now:.2f} %{others}"


def read_evaluation(folder: Path, experiment: Experiment) -> Evaluation:
    """Returns what the Evaluator wrote into a folder."""
    classes = len(experiment.dataset.classes)
    candidate, examples = _accuracies(tfma.load_eval_result(str(folder)))
    baseline, _ = _accuracies(tfma.load_eval_result(str(folder), model_name=tfma.BASELINE_KEY))
    validation = tfma.load_validation_result(str(folder))
    failed = [
        (_label(dict(_slice_key(result.slice_key))), failure)
        for result in validation.metric_validations_per_slice
        for failure in result.failures
    ]
    return Evaluation(
        accuracy=candidate[None],
        examples=examples,
        by_class=[candidate.get(label, float("nan")) for label in range(classes)],
        baseline=baseline.get(None),
        baseline_by_class=[baseline.get(label, float("nan")) for label in range(classes)] if baseline else [],
        reasons=[_reason(experiment, label, failure, candidate, baseline) for label, failure in failed],
    )


def servability(run: metadata_store.Run) -> dict[str, Any]:
    """Returns what the servability check said: `ok`, `reason`, `differences`; nothing where it did not run."""
    folder = metadata_store.folder(run.output("ServabilityCheck", "blessing"))
    return json.loads((folder / "outcome.json").read_text()) if folder else {}


def formats(run: metadata_store.Run) -> tuple[list[dict[str, Any]], list[str]]:
    """Returns what was measured of each format, and a sentence for each that is not accurate enough."""
    exported = metadata_store.folder(run.output("FormatExport", "exported"))
    blessing = metadata_store.folder(run.output("FormatExport", "blessing"))
    if not exported or not blessing:
        return [], []
    reasons = json.loads((blessing / "outcome.json").read_text())["reasons"]
    return json.loads((exported / FORMATS_FILE).read_text()), reasons


def rejection_reasons(
    run: metadata_store.Run, evaluation: Evaluation | None, servable: dict[str, Any]
) -> tuple[str, ...]:
    """Returns a sentence for each gate that turned the model away, and for a person who did."""
    reasons = [*(evaluation.reasons if evaluation else []), *formats(run)[1]]
    if servable and not servable["ok"]:
        reasons = [*reasons, f"it cannot be served: {servable['reason']}"]
    pushed = run.output("AtomicPusher", "pushed_model")
    if pushed and (withdrawn := metadata_store.property_of(pushed, "withdrawn")):
        reasons = [*reasons, withdrawn]
    return tuple(reasons)


def drift(run: metadata_store.Run) -> list[DriftMeasurement]:
    """Returns how far new spans were from the training data; nothing where there were none."""
    folder = metadata_store.folder(run.output("DriftGate", "drift"))
    return [DriftMeasurement(**fields) for fields in json.loads((folder / DRIFT).read_text())] if folder else []


def _accuracies(result: Any) -> tuple[dict[int | None, float], int]:
    """Returns accuracies by label, the overall one under None, and the number of examples."""
    accuracies: dict[int | None, float] = {}
    examples = 0
    for key, metrics in result.slicing_metrics:
        values = metrics[""][""]
        label = _label(dict(key))
        accuracies[label] = values[ACCURACY]["doubleValue"]
        if label is None:
            examples = int(values["example_count"]["doubleValue"])
    return accuracies, examples


def _slice_key(key: Any) -> list[tuple[str, Any]]:
    return [(single.column, getattr(single, single.WhichOneof("kind"))) for single in key.single_slice_keys]


def _label(key: dict[str, Any]) -> int | None:
    return int(key["label"]) if "label" in key else None


def _reason(
    experiment: Experiment,
    label: int | None,
    failure: Any,
    candidate: dict[int | None, float],
    baseline: dict[int | None, float],
) -> str:
    gate, accuracy = experiment.gate, candidate.get(label)
    if accuracy is None:
        return f"the metric {failure.metric_key.name} could not be computed: {failure.message}"
    subject = "" if label is None else f"class {experiment.dataset.classes[label]}: "
    limits = (gate.tolerance, gate.min_accuracy) if label is None else (gate.class_tolerance, gate.min_class_accuracy)
    of_a_class = "" if label is None else " for a class"
    if failure.metric_key.is_diff:
        return (
            f"{subject}test accuracy {accuracy:.4f} is below the {baseline[label]:.4f} of the stable version "
            f"by more than the tolerance of {limits[0]:g}{of_a_class}"
        )
    return f"{subject}test accuracy {accuracy:.4f} is below the floor of {limits[1]:g}{of_a_class}"
