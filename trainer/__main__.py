"""Trains one network in a process of its own: `python -m trainer SPEC`.

A process of its own, because it alone may see a GPU, takes all of its memory with it when it ends, and can be killed
without taking the pipeline with it. `SPEC` is a JSON file:

  job          the fields of `trainer.settings.Job`
  examples     folder of the base files' splits: `Split-test/`, `Split-train/` and perhaps `Split-eval/`
  train        folders of the parts to train on, each with its own `Split-train/`
  spans        folders of spans by their names; what they hold out, `Split-eval/`, is measured by itself
  initial      folder of a SavedModel whose weights the training starts from; null to start anew
  checkpoints  folder of this training's checkpoints, and of no other's
  model        folder for the SavedModel
  run          folder for everything else: TensorBoard's logs, history.json, summary.json, test_scores.npy, kernels.npy

It says how it goes on standard output, and ends with 0, or with 1 and one sentence on standard error.
"""

import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from trainer import devices, export, loop, networks, processes
from trainer.examples import read_split, read_splits
from trainer.settings import Job


def main(spec_path: Path) -> None:
    """Trains, measures on the test split, and writes the model and the record of the run."""
    spec = json.loads(spec_path.read_text())
    job = Job.from_dict(spec["job"])
    run, examples = Path(spec["run"]), Path(spec["examples"])
    run.mkdir(parents=True, exist_ok=True)
    tf.config.experimental.enable_op_determinism()
    chosen = devices.choose(job.training.precision)
    tqdm.write(f"Training on {chosen.description}.")
    eval_folder = examples / "Split-eval"
    trained = loop.train(
        job,
        chosen,
        read_splits([Path(folder) / "Split-train" for folder in spec["train"]], job.shape),
        read_split(eval_folder, job.shape) if eval_folder.exists() else None,
        Path(spec["checkpoints"]),
        run / "tensorboard",
        initial=export.read_weights(Path(spec["initial"])) if spec["initial"] else None,
    )
    network = export.save(trained.model, job, Path(spec["model"]), run)
    test = read_split(examples / "Split-test", job.shape)
    predict = loop.predictor(network)
    scores = predict(test.images)
    accuracy, _ = loop.score(scores, test.labels)
    tqdm.write(f"test accuracy {accuracy:.4f}")
    np.save(run / "test_scores.npy", scores, allow_pickle=False)
    np.save(run / "kernels.npy", networks.first_kernels(network), allow_pickle=False)
    (run / "history.json").write_text(json.dumps(trained.history))
    summary = {
        "device": chosen.description,
        "precision": chosen.precision,
        "resumed_from": trained.resumed_from,
        "seconds": trained.seconds,
        "steps": job.training.steps,
        "test_accuracy": accuracy,
        "held_out": _held_out(predict, spec["spans"], job.shape),
    }
    (run / "summary.json").write_text(json.dumps(summary, indent=1))


def _held_out(predict: loop.Predict, spans: dict[str, str], shape: tuple[int, int, int]) -> dict[str, dict[str, float]]:
    """Returns the accuracy on what each span holds out, and on how many examples, by the span's name."""
    measured = {}
    for name, folder in spans.items():
        if Path(folder, "Split-eval").exists():
            split = read_split(Path(folder, "Split-eval"), shape)
            accuracy, _ = loop.score(predict(split.images), split.labels)
            measured[name] = {"accuracy": accuracy, "examples": len(split)}
    return measured


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m trainer SPEC.json")
    processes.end_with_parent()
    try:
        main(Path(sys.argv[1]))
    except (loop.TrainingDiverged, loop.TrainingStopped, export.OtherNetwork) as error:
        sys.exit(str(error))
