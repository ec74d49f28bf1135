"""Writes one page and one JSON file about a run: the verdict, the numbers, the pictures, and where it all came from."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from conveyor.errors import StorageError, storage_errors
from conveyor.files import replace_file
from pipeline.experiments.config import Experiment
from pipeline.home import metadata_store
from pipeline.home.folders import Home
from pipeline.home.outcome import Outcome, Verdict
from pipeline.home.provenance import Provenance
from pipeline.home.reports import page_path
from pipeline.report import gate_decisions, plots
from trainer.examples import read_split

MISTAKES = 24


def write(
    home: Home,
    provenance: Provenance,
    run: metadata_store.Run,
    note: Callable[[str], object],
    failure: str | None = None,
) -> Outcome:
    """Writes `reports/<run>.html` and `.json`, and returns how the run ended.

    Args:
      home: where the reports go.
      provenance: what the model comes from.
      run: what ML Metadata knows of the run; components may be missing where it failed.
      note: prints a line; called where the report cannot be written, which changes nothing of how the run ended.
      failure: what failed, if anything did.
    """
    experiment = provenance.experiment
    evaluation_folder = metadata_store.folder(run.output("Evaluator", "evaluation"))
    evaluation = gate_decisions.read_evaluation(evaluation_folder, experiment) if evaluation_folder else None
    servable = gate_decisions.servability(run)
    drift = gate_decisions.drift(run)
    path = page_path(home, run.id)
    outcome = Outcome(
        verdict=Verdict.FAILED if failure else Verdict.REJECTED if run.version is None else Verdict.PUSHED,
        run=run.id,
        accuracy=evaluation.accuracy if evaluation else None,
        baseline=evaluation.baseline if evaluation else None,
        reasons=gate_decisions.rejection_reasons(run, evaluation, servable),
        drift=tuple(measurement.sentence for measurement in drift if measurement.beyond),
        version=run.version,
        label=None if run.version is None else home.models.model(experiment.serving.model_name).label_of(run.version),
        path=_pushed_folder(run),
        report=str(path),
    )
    fields = {
        "outcome": outcome.to_dict(),
        "failure": failure,
        "evaluation": dataclasses.asdict(evaluation) if evaluation else None,
        "servability": servable,
        "training": _training(run),
        "components": [{"name": c.name, "state": c.state, "seconds": c.seconds} for c in run.components],
        "drift": [vars(m) | {"beyond": m.beyond, "sentence": m.sentence} for m in drift],
        "started": run.started.isoformat(timespec="seconds"),
        **provenance.to_dict(),
    }
    page = _render(fields, _pictures(run, experiment, evaluation))
    try:
        with storage_errors(f"The report {path} cannot be written"):
            home.reports.mkdir(parents=True, exist_ok=True)
            replace_file(path, page)
            replace_file(path.with_suffix(".json"), json.dumps(fields, indent=1))
    except StorageError as error:
        note(str(error))
        return dataclasses.replace(outcome, report=None)
    return outcome


def _pushed_folder(run: metadata_store.Run) -> str | None:
    pushed = run.output("AtomicPusher", "pushed_model")
    return metadata_store.property_of(pushed, "pushed_destination") if pushed else None


def _training(run: metadata_store.Run) -> dict[str, Any]:
    """Returns the fields of the trainer's `TrainingSummary`; nothing where it did not come so far."""
    folder = metadata_store.folder(run.output("Trainer", "model_run"))
    return json.loads((folder / "summary.json").read_text()) if folder else {}


def _pictures(
    run: metadata_store.Run, experiment: Experiment, evaluation: gate_decisions.Evaluation | None
) -> dict[str, Any]:
    """Returns the pictures that can be drawn, by name: all of them where the run came as far as the Evaluator."""
    classes = experiment.dataset.classes
    drawn: dict[str, Any] = dict.fromkeys(("curves", "kernels", "confusion", "mistakes", "wrong", "classes"))
    training = metadata_store.folder(run.output("Trainer", "model_run"))
    examples = metadata_store.folder(run.output("ImageExampleGen", "examples"))
    if training:
        drawn["curves"] = plots.training_curves(json.loads((training / "history.json").read_text()))
        drawn["kernels"] = plots.kernels(np.load(training / "kernels.npy", allow_pickle=False))
    if training and examples:
        drawn |= _test_pictures(training, examples, experiment)
    if evaluation:
        drawn["classes"] = plots.class_accuracies(classes, evaluation.by_class, evaluation.baseline_by_class)
    return drawn


def _test_pictures(training: Path, examples: Path, experiment: Experiment) -> dict[str, Any]:
    """Returns the confusion matrix, the number of mistakes, and the mistakes that the network was surest of."""
    classes = experiment.dataset.classes
    test = read_split(examples / "Split-test", experiment.dataset.shape)
    scores = np.load(training / "test_scores.npy", allow_pickle=False)
    predictions = scores.argmax(axis=1)
    wrong = np.flatnonzero(predictions != test.labels)
    surest = wrong[np.argsort(-scores[wrong, predictions[wrong]], kind="stable")][:MISTAKES]
    mistakes = [
        {
            "picture": plots.picture(test.images[number]),
            "true": classes[test.labels[number]],
            "predicted": classes[predictions[number]],
            "score": float(scores[number, predictions[number]]),
            "number": int(number),
        }
        for number in surest
    ]
    confusion = plots.confusion_matrix(test.labels, predictions, classes)
    return {"confusion": confusion, "wrong": len(wrong), "mistakes": mistakes}


def _render(record: dict[str, Any], pictures: dict[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    slowest = max((component["seconds"] for component in record["components"]), default=0) or 1
    return environment.get_template("report.html.j2").render(pictures=pictures, slowest=slowest, **record)
