"""Reads the gates' decisions: what the model reached, and why it was turned away."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow_model_analysis as tfma
from ml_metadata.metadata_store import MetadataStore
from tfx.utils import path_utils

from components.drift_gate.executor import DRIFT, DriftMeasurement
from components.format_export.executor import FORMATS_FILE
from pipeline.experiments.config import ROUNDING, Experiment
from pipeline.home import metadata_store
from pipeline.home.folders import Home
from pipeline.home.provenance import Provenance

ACCURACY = "sparse_categorical_accuracy"


@dataclasses.dataclass(frozen=True)
class Measured:
    """The accuracy of a version on the test split.

    Attributes:
      run: the run that measured it.
      accuracy: overall, 0 to 1.
      by_class: of each class, in the order of the labels; not a number for one without an image.
    """

    run: str
    accuracy: float
    by_class: list[float]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What TFMA measured on the test split.

    Attributes:
      accuracy: overall, 0 to 1.
      examples: how many there were.
      by_class: accuracy of each class, in the order of the labels.
      baseline: the stable version's overall accuracy on the same examples; None where there was none.
      baseline_by_class: likewise for each class; empty where there was none.
      baseline_run: the run that pushed the stable version, if the figures are those of then.
      reasons: a sentence for each threshold that was missed.
    """

    accuracy: float
    examples: int
    by_class: list[float]
    baseline: float | None
    baseline_by_class: list[float]
    baseline_run: str | None
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


def read_evaluation(folder: Path, experiment: Experiment, measured: Measured | None) -> Evaluation:
    """Returns what the Evaluator wrote into a folder, beside what was measured of the stable version before."""
    labels = range(len(experiment.dataset.classes))
    candidate, examples = _accuracies(tfma.load_eval_result(str(folder)))
    baseline, _ = _accuracies(tfma.load_eval_result(str(folder), model_name=tfma.BASELINE_KEY))
    if measured:
        baseline = {None: measured.accuracy, **dict(enumerate(measured.by_class))}
    validation = tfma.load_validation_result(str(folder))
    failed = {
        _label(dict(_slice_key(result.slice_key))): result.failures[0]
        for result in validation.metric_validations_per_slice
        if result.failures
    }
    return Evaluation(
        accuracy=candidate[None],
        examples=examples[None],
        by_class=[candidate.get(label, float("nan")) for label in labels],
        baseline=baseline.get(None),
        baseline_by_class=[baseline.get(label, float("nan")) for label in labels] if baseline else [],
        baseline_run=measured.run if measured else None,
        reasons=[
            sentence
            for label, failure in failed.items()
            for sentence in (
                _reasons(experiment, label, candidate[label], baseline.get(label))
                if label in candidate
                else [f"the metric {failure.metric_key.name} could not be computed: {failure.message}"]
            )
        ],
    )


def measured_before(store: MetadataStore, home: Home, provenance: Provenance, version: int) -> Measured | None:
    """Returns what the run that pushed a version measured of it; None where that may be another now, or is lost.

    It holds where the base files, from which the test split is, the data set's settings, the code and the stack are
    what they were, and where what lies at the run's places is still its model, whole: another home may have been here.

    Args:
      store: the metadata.
      home: where the version is.
      provenance: of the model that is to be compared with it.
      version: its number.
    """
    experiment, base = provenance.experiment, provenance.parts[0]
    model = home.models.model(experiment.serving.model_name)
    record = model.record(version)
    if (
        record is None
        or record.pipeline_digest != provenance.pipeline_digest
        or record.experiment.get("dataset") != experiment.to_dict()["dataset"]
        or record.parts.get(base.name) != base.digest
    ):
        return None
    try:
        run = metadata_store.run_by_id(store, record.run)
        trained = metadata_store.folder(run.output("Trainer", "model"))
        folder = metadata_store.folder(run.output("Evaluator", "evaluation"))
        if not trained or not folder or not model.is_made_of(version, Path(path_utils.serving_model_dir(str(trained)))):
            return None
        if not all(path.is_relative_to(home.artifacts) for path in (trained, folder)):
            return None
        accuracies, examples = _accuracies(tfma.load_eval_result(str(folder)))
    except Exception:  # of another store, or whatever a damaged file makes of TFMA
        return None
    total, labels = examples.pop(None, None), range(len(experiment.dataset.classes))
    if sum(examples.values()) != total:  # of a file that was cut, a class may be missing
        return None
    return Measured(record.run, accuracies[None], [accuracies.get(label, float("nan")) for label in labels])


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


def _accuracies(result: Any) -> tuple[dict[int | None, float], dict[int | None, int]]:
    """Returns accuracies, and numbers of examples, by label; the overall ones under None."""
    measured = {_label(dict(key)): metrics[""][""] for key, metrics in result.slicing_metrics}
    return (
        {label: values[ACCURACY]["doubleValue"] for label, values in measured.items()},
        {label: int(values["example_count"]["doubleValue"]) for label, values in measured.items()},
    )


def _slice_key(key: Any) -> list[tuple[str, Any]]:
    return [(single.column, getattr(single, single.WhichOneof("kind"))) for single in key.single_slice_keys]


def _label(key: dict[str, Any]) -> int | None:
    return int(key["label"]) if "label" in key else None


def _reasons(experiment: Experiment, label: int | None, accuracy: float, baseline: float | None) -> list[str]:
    """Returns a sentence for each limit that an accuracy misses, overall or of a class."""
    gate, of_a_class = experiment.gate, "" if label is None else " for a class"
    floor = gate.min_accuracy if label is None else gate.min_class_accuracy
    tolerance = gate.tolerance if label is None else gate.class_tolerance
    subject = "" if label is None else f"class {experiment.dataset.classes[label]}: "
    begin, missed = f"{subject}test accuracy {accuracy:.4f} is below the", []
    if accuracy < floor - ROUNDING:
        missed.append(f"{begin} floor of {floor:g}{of_a_class}")
    if baseline is not None and tolerance is not None and accuracy - baseline < -tolerance - ROUNDING:
        missed.append(
            f"{begin} {baseline:.4f} of the stable version by more than the tolerance of {tolerance:g}{of_a_class}"
        )
    return missed
