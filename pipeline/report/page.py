"""Writes one page and one JSON file about a run: the verdict, the numbers, the pictures, and where it all came from."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from components.drift_gate.executor import Drift
from pipeline.experiments.config import Experiment
from pipeline.home import metadata_store, provenance
from pipeline.home.folders import Home
from pipeline.home.outcome import Outcome
from pipeline.home.provenance import Input
from pipeline.report import gate_decisions, plots
from serving.model_store import labels
from trainer.examples import read_split

MISTAKES = 24


def write(
    home: Home, experiment: Experiment, run: metadata_store.Run, taken: Sequence[Input], failure: str | None = None
) -> Outcome:
    """Writes `reports/<run>.html` and `.json`, and returns how the run ended.

    Args:
      home: where the reports go.
      experiment: what was run.
      run: what ML Metadata knows of it; components may be missing where it failed.
      taken: the parts of the data.
      failure: what failed, if anything did.
    """
    evaluation_folder = metadata_store.folder(run.output("Evaluator", "evaluation"))
    evaluation = gate_decisions.read_evaluation(evaluation_folder, experiment) if evaluation_folder else None
    servable = gate_decisions.servability(run)
    page = home.reports / f"{run.id}.html"
    drift = gate_decisions.drift(run)
    outcome = _outcome(home, experiment, run, evaluation, servable, drift, page, failure)
    record = {
        "outcome": dataclasses.asdict(outcome),
        "failure": failure,
        "evaluation": dataclasses.asdict(evaluation) if evaluation else None,
        "servability": servable,
        "training": _training(run),
        "components": [{"name": c.name, "state": c.state, "seconds": c.seconds} for c in run.components],
        "experiment": experiment.to_dict(),
        "data": {
            "digest": provenance.data_digest(taken),
            "parts": [{"name": i.part.name, "digest": i.digest, "trained_on": i.part.trained_on} for i in taken],
        },
        "drift": [vars(one) | {"beyond": one.beyond, "sentence": one.sentence} for one in drift],
        "code": {
            "digest": provenance.code_digest("pipeline", "components", "trainer", "serving"),
            "trainer": provenance.trainer_code(),
        },
        "versions": provenance.versions(),
        "started": run.started.isoformat(timespec="seconds"),
    }
    home.reports.mkdir(parents=True, exist_ok=True)
    page.write_text(_render(record, _pictures(run, experiment, evaluation)), encoding="utf-8")
    page.with_suffix(".json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    return outcome


def _outcome(
    home: Home,
    experiment: Experiment,
    run: metadata_store.Run,
    evaluation: gate_decisions.Evaluation | None,
    servable: dict[str, Any],
    drift: list[Drift],
    page: Path,
    failure: str | None,
) -> Outcome:
    pushed = run.output("AtomicPusher", "pushed_model")
    reasons = list(evaluation.reasons) if evaluation else []
    if servable and not servable["ok"]:
        reasons.append(f"it cannot be served: {servable['reason']}")
    return Outcome(
        verdict="failed" if failure else "rejected" if run.version is None else "pushed",
        run=run.id,
        accuracy=evaluation.accuracy if evaluation else None,
        baseline=evaluation.baseline if evaluation else None,
        reasons=tuple(reasons),
        drift=tuple(one.sentence for one in drift if one.beyond),
        version=run.version,
        label=_label(home, experiment, run.version),
        path=metadata_store.property_of(pushed, "pushed_destination") if pushed else None,
        report=str(page),
    )


def _label(home: Home, experiment: Experiment, version: int | None) -> str | None:
    if version is None:
        return None
    return next(iter(labels.read(home.serving / experiment.serving.model_name).named(version)), None)


def _training(run: metadata_store.Run) -> dict[str, Any]:
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
        test = read_split(examples / "Split-test", experiment.dataset.shape)
        scores = np.load(training / "test_scores.npy", allow_pickle=False)
        predictions = scores.argmax(axis=1)
        drawn["confusion"] = plots.confusion_matrix(test.labels, predictions, classes)
        wrong = np.flatnonzero(predictions != test.labels)
        worst = wrong[np.argsort(-scores[wrong, predictions[wrong]], kind="stable")][:MISTAKES]
        drawn["mistakes"] = [
            {
                "picture": plots.picture(test.images[number]),
                "true": classes[test.labels[number]],
                "predicted": classes[predictions[number]],
                "score": float(scores[number, predictions[number]]),
                "number": int(number),
            }
            for number in worst
        ]
        drawn["wrong"] = len(wrong)
    if evaluation:
        drawn["classes"] = plots.class_accuracies(classes, evaluation.by_class, evaluation.baseline_by_class)
    return drawn


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
