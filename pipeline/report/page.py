"""Writes one page and one JSON file about a run: the verdict, the numbers, the pictures, and where it all came from."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from components.format_export.executor import SAVED_MODEL
from components.image_example_gen.executor import read_test_sources
from components.image_example_gen.spans import BASE, node_id
from conveyor.errors import StorageError, storage_errors
from conveyor.files import replace_file
from conveyor.words import counted
from pipeline.experiments.config import Experiment
from pipeline.home import metadata_store
from pipeline.home.folders import Home
from pipeline.home.outcome import Outcome, Verdict
from pipeline.home.provenance import Provenance
from pipeline.home.reports import page_path
from pipeline.report import gate_decisions, metrics, plots
from pipeline.report.gate_decisions import Measured
from pipeline.report.metrics import SplitMetrics
from pipeline.report.processors import Processors
from serving.model_store import LabelsDamaged
from trainer.examples import Split, read_split

MISTAKES = 24
PARTS = 200  # of a run, for each of which is shown how busy the processors were


@dataclasses.dataclass(frozen=True)
class Failure:
    """What ended a run before a verdict on its model.

    Attributes:
      verdict: `failed` or `drifted`.
      sentence: the component, and why.
      log: the run's log.
    """

    verdict: Verdict
    sentence: str
    log: str


def write(
    home: Home,
    provenance: Provenance,
    run: metadata_store.Run,
    note: Callable[[str], object],
    processors: Processors,
    failure: Failure | None = None,
    measured: Measured | None = None,
) -> Outcome:
    """Writes `reports/<run>.html` and `.json`, and returns how the run ended.

    Args:
      home: where the reports go.
      provenance: what the model comes from.
      run: what ML Metadata knows of the run; components may be missing where it failed.
      note: prints a line; called where the report cannot be written, which changes nothing of how the run ended.
      processors: how busy they were.
      failure: what ended the run before a verdict on its model, if anything did.
      measured: what was measured of the stable version before the run, where the Evaluator did not do it again.
    """
    experiment = provenance.experiment
    evaluation_folder = metadata_store.folder(run.output("Evaluator", "evaluation"))
    evaluation = gate_decisions.read_evaluation(evaluation_folder, experiment, measured) if evaluation_folder else None
    servable = gate_decisions.servability(run)
    drift = gate_decisions.drift(run)
    formats, _ = gate_decisions.formats(run)
    answers = _answers(run, experiment)
    path = page_path(home, run.id)
    model = home.models.model(experiment.serving.model_name)
    try:
        stable = model.stable()
    except LabelsDamaged:  # the verdict is told all the same
        stable = None
    outcome = Outcome(
        verdict=failure.verdict if failure else Verdict.REJECTED if run.version is None else Verdict.PUSHED,
        run=run.id,
        accuracy=evaluation.accuracy if evaluation else None,
        baseline=evaluation.baseline if evaluation else None,
        decline=evaluation.largest_decline(experiment.dataset.classes) if evaluation else None,
        reasons=gate_decisions.rejection_reasons(run, evaluation, servable),
        drift=tuple(measurement.sentence for measurement in drift if measurement.beyond),
        formats={row["format"]: row["accuracy"] for row in formats if row["format"] != SAVED_MODEL},
        version=run.version,
        stable=stable,
        label=None if run.version is None else model.label_of(run.version),
        path=_pushed_folder(run),
        report=str(path),
    )
    fields = {
        "outcome": outcome.to_dict(),
        "failure": failure.sentence if failure else None,
        "log": failure.log if failure else None,
        "evaluation": dataclasses.asdict(evaluation) if evaluation else None,
        "metrics": dataclasses.asdict(answers.metrics) if answers else None,
        "servability": servable,
        "formats": formats,
        "training": _training(run),
        "components": [
            {"name": c.name, "state": c.state, "offset": run.offset(c), "seconds": c.seconds} for c in run.components
        ],
        "processors": {
            "count": processors.count,
            "busy": processors.busy(run.started.timestamp(), run.seconds, PARTS),
        },
        "drift": [vars(m) | {"beyond": m.beyond, "sentence": m.sentence} for m in drift],
        "started": run.started.isoformat(timespec="seconds"),
        **provenance.to_dict(),
    }
    pictures = _pictures(run, experiment, evaluation, answers)
    page = render("report.html.j2", pictures=pictures, time_line=_time_line(run), seconds=run.seconds, **fields)
    try:
        with storage_errors(f"The report {path} cannot be written"):
            home.reports.mkdir(parents=True, exist_ok=True)
            replace_file(path, page)
            replace_file(path.with_suffix(".json"), json.dumps(fields, indent=1))
    except StorageError as error:
        note(str(error))
        return dataclasses.replace(outcome, report=None)
    return outcome


def _time_line(run: metadata_store.Run) -> list[dict[str, Any]]:
    """Returns a row for each component, and a single one for all spans that were taken from the cache.

    `offset` and `width` say when it ran, in parts of the whole run.
    """
    known = [c for c in run.components if c.state == "cached" and c.name.startswith(f"{node_id(BASE)}-")]
    together = {c.name for c in known[1:]}  # in the row of the first one
    rows, whole = [], run.seconds or 1
    for component in run.components:
        if component.name in together:
            continue
        name, begin, seconds = component.name, run.offset(component), component.seconds
        if together and component is known[0]:
            name = f"{node_id(BASE)} of {len(known)} spans"
            seconds = max(run.offset(c) + c.seconds for c in known) - begin
        place = {"offset": max(0.0, begin) / whole, "width": max(0.0, seconds) / whole}
        rows.append({"name": name, "state": component.state, "seconds": seconds, **place})
    return rows


def _pushed_folder(run: metadata_store.Run) -> str | None:
    pushed = run.output("AtomicPusher", "pushed_model")
    return metadata_store.property_of(pushed, "pushed_destination") if pushed else None


def _training(run: metadata_store.Run) -> dict[str, Any]:
    """Returns the fields of the trainer's `TrainingSummary`; nothing where it did not come so far."""
    folder = metadata_store.folder(run.output("Trainer", "model_run"))
    return json.loads((folder / "summary.json").read_text()) if folder else {}


@dataclasses.dataclass(frozen=True)
class _Answers:
    """What the network made of the test split.

    Attributes:
      test: the images and their labels.
      scores: probabilities, float32 [N, classes].
      sources: where each image comes from, in words; empty where nobody wrote it down.
      metrics: what the answers are worth.
    """

    test: Split
    scores: np.ndarray
    sources: list[str]
    metrics: SplitMetrics

    @property
    def predictions(self) -> np.ndarray:
        """The likeliest label of each image."""
        return self.scores.argmax(axis=1)


def _answers(run: metadata_store.Run, experiment: Experiment) -> _Answers | None:
    """Returns the trainer's answers on the test split; None where it did not come so far."""
    training = metadata_store.folder(run.output("Trainer", "model_run"))
    examples = metadata_store.folder(run.output("ImageExampleGen", "examples"))
    if not training or not examples:
        return None
    test = read_split(examples / "Split-test", experiment.dataset.pictures)
    scores = np.load(training / "test_scores.npy", allow_pickle=False)
    measured = metrics.measure(test.labels, scores, experiment.dataset.classes)
    return _Answers(test, scores, read_test_sources(examples), measured)


def _pictures(
    run: metadata_store.Run,
    experiment: Experiment,
    evaluation: gate_decisions.Evaluation | None,
    answers: _Answers | None,
) -> dict[str, Any]:
    """Returns the pictures that can be drawn, by name: all of them where the run came as far as the Evaluator."""
    classes = experiment.dataset.classes
    names = ("curves", "kernels", "confusion", "calibration", "mistakes", "wrong", "classes")
    drawn: dict[str, Any] = dict.fromkeys(names)
    training = metadata_store.folder(run.output("Trainer", "model_run"))
    if training:
        drawn["curves"] = plots.training_curves(json.loads((training / "history.json").read_text()))
        if (training / "kernels.npy").exists():  # of a network with a convolution
            drawn["kernels"] = plots.kernels(np.load(training / "kernels.npy", allow_pickle=False))
    if answers:
        drawn["confusion"] = plots.confusion_matrix(answers.test.labels, answers.predictions, classes)
        drawn["calibration"] = plots.reliability(answers.metrics.calibration)
        drawn["wrong"] = int(np.count_nonzero(answers.predictions != answers.test.labels))
        drawn["mistakes"] = _mistakes(answers, classes)
    if evaluation:
        drawn["classes"] = plots.class_accuracies(classes, evaluation.by_class, evaluation.baseline_by_class)
    return drawn


def _mistakes(answers: _Answers, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the mistakes that the network was surest of."""
    labels, predictions = answers.test.labels, answers.predictions
    wrong = np.flatnonzero(predictions != labels)
    surest = wrong[np.argsort(-answers.scores[wrong, predictions[wrong]], kind="stable")][:MISTAKES]
    return [
        {
            "picture": plots.picture(answers.test.images[number]),
            "true": classes[labels[number]],
            "predicted": classes[predictions[number]],
            "score": float(answers.scores[number, predictions[number]]),
            "source": answers.sources[number] if answers.sources else f"test image {number}",
        }
        for number in surest
    ]


def render(template: str, **values: Any) -> str:
    """Returns a page of one of this folder's templates; texts in its values are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False}
    return environment.get_template(template).render(counted=counted, **values)
