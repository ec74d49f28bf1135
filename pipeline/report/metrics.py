"""Metrics of the test split beside accuracy: precision, recall and F1 by class, log loss, calibration."""

import dataclasses

import numpy as np
from sklearn import metrics

BINS = 10  # of the probability of the likeliest class


@dataclasses.dataclass(frozen=True)
class ClassMetrics:
    """Of one class against all others, or the means over the classes.

    Attributes:
      name: the class's name; `macro` for the unweighted means.
      precision: share of the images taken for the class that are of it, 0 to 1; 0 where none was taken for it.
      recall: share of the class's images that were taken for it, 0 to 1, which is its accuracy.
      f1: harmonic mean of the two.
      images: how many images of the class there are.
    """

    name: str
    precision: float
    recall: float
    f1: float
    images: int


@dataclasses.dataclass(frozen=True)
class CalibrationBin:
    """Images whose likeliest class has a probability within one tenth.

    Attributes:
      confidence: mean probability of the likeliest class, 0 to 1.
      accuracy: share of them whose likeliest class is right, 0 to 1.
      images: how many there are.
    """

    confidence: float
    accuracy: float
    images: int


@dataclasses.dataclass(frozen=True)
class SplitMetrics:
    """What a model's probabilities on the test split are worth.

    Attributes:
      by_class: in the order of the labels.
      macro: the means over the classes.
      log_loss: mean cross-entropy, nats.
      calibration: the bins that hold an image, from the lowest confidence on.
      calibration_error: mean distance of confidence and accuracy, weighted by the images of each bin, 0 to 1 (the
        expected calibration error).
    """

    by_class: tuple[ClassMetrics, ...]
    macro: ClassMetrics
    log_loss: float
    calibration: tuple[CalibrationBin, ...]
    calibration_error: float


def measure(labels: np.ndarray, scores: np.ndarray, classes: tuple[str, ...]) -> SplitMetrics:
    """Returns the metrics of a model's answers.

    Args:
      labels: int64 [N].
      scores: probabilities, float32 [N, classes].
      classes: the classes' names.
    """
    scores = scores.astype(np.float64) / scores.sum(axis=1, keepdims=True, dtype=np.float64)
    known = list(range(len(classes)))
    predictions = scores.argmax(axis=1)
    columns = metrics.precision_recall_fscore_support(labels, predictions, labels=known, zero_division=0)
    precision, recall, f1, images = (column.tolist() for column in columns)
    by_class = tuple(map(ClassMetrics, classes, precision, recall, f1, images))
    means = [float(np.mean(column)) for column in (precision, recall, f1)]
    bins = _calibration(scores.max(axis=1), predictions == labels)
    distances = [bin_.images * abs(bin_.confidence - bin_.accuracy) for bin_ in bins]
    return SplitMetrics(
        by_class,
        ClassMetrics("macro", means[0], means[1], means[2], len(labels)),
        float(metrics.log_loss(labels, scores, labels=known)),
        bins,
        sum(distances) / len(labels),
    )


def _calibration(confidences: np.ndarray, correct: np.ndarray) -> tuple[CalibrationBin, ...]:
    places = np.minimum((confidences * BINS).astype(int), BINS - 1)
    chosen = [places == place for place in range(BINS)]
    return tuple(
        CalibrationBin(float(confidences[own].mean()), float(correct[own].mean()), int(own.sum()))
        for own in chosen
        if own.any()
    )
