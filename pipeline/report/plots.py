"""The run report's pictures, each as text that stands in a page: SVG, or the address of an embedded PNG."""

import base64
import io
import itertools
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import PIL.Image
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter

from pipeline.report.metrics import CalibrationBin

matplotlib.use("svg")
INK, ACCENT, MUTED, WARN = "#1f2933", "#2f6f9f", "#9aa5b1", "#c2410c"
matplotlib.rcParams.update(
    {
        "svg.fonttype": "none",
        "svg.hashsalt": "conveyor",
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": INK,
        "ytick.color": INK,
    }
)
KERNEL_SCALE = 8  # screen pixels a weight
DARK = 0.6  # shade of a cell on which text is white
FEW = 5  # values of a setting, each of which has a tick


def training_curves(history: Sequence[dict[str, float]]) -> str:
    """Returns accuracy and loss over the steps, on the training batches and, where measured, on held-out examples."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("accuracy", "loss"), strict=True):
        steps = [entry["step"] for entry in history]
        axes.plot(steps, [entry[name] for entry in history], color=MUTED, linewidth=1, label="training batch")
        held_out = [entry for entry in history if f"eval_{name}" in entry]
        if held_out:
            values = [entry[f"eval_{name}"] for entry in held_out]
            axes.plot([e["step"] for e in held_out], values, "o-", color=ACCENT, markersize=3, label="held out")
        axes.set(xlabel="step", ylabel=name)
        if name == "loss" and max(entry["loss"] for entry in history) > 0:
            axes.set_yscale("log")
        axes.legend(frameon=False)
    return _svg(figure)


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, classes: Sequence[str]) -> str:
    """Returns how many examples of each class (row) were taken for each class (column)."""
    counts = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(counts, (labels, predictions), 1)
    side = 1.7 + 0.34 * len(classes)  # inches; beside the next plot on a page of 62 rem
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    # The diagonal would drown the mistakes: shade by the square root of a row's share.
    shades = np.sqrt(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    axes.imshow(shades, cmap="Blues", vmin=0, vmax=1.2)
    axes.set(xlabel="predicted", ylabel="true")
    rotation = 45 if max(map(len, classes)) > 2 else 0
    axes.set_xticks(range(len(classes)), classes, rotation=rotation, ha="right" if rotation else "center")
    axes.set_yticks(range(len(classes)), classes)
    for row, column in np.ndindex(counts.shape):
        if counts[row, column]:
            color = "white" if shades[row, column] > DARK else INK
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=color, fontsize=7)
    axes.spines[:].set_visible(False)
    return _svg(figure)


def class_accuracies(classes: Sequence[str], accuracies: Sequence[float], baseline: Sequence[float]) -> str:
    """Returns the accuracy of each class as a dot, with a mark where the stable version stood."""
    figure = Figure(figsize=(4.5, 0.8 + 0.36 * len(classes)), layout="constrained")
    axes: Axes = figure.subplots()
    rows = np.arange(len(classes))
    axes.plot(accuracies, rows, "o", color=ACCENT, markersize=7, label="this model")
    if len(baseline):
        axes.plot(baseline, rows, "|", color=WARN, markersize=12, markeredgewidth=2, label="baseline")
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    for row, accuracy in enumerate(accuracies):
        right = np.nanmax([accuracy, *baseline[row : row + 1]])  # of both marks
        axes.annotate(
            f"{100 * accuracy:.1f}", (right, row), (6, 0), textcoords="offset points", va="center", fontsize=9
        )
    known = [value for value in [*accuracies, *baseline] if np.isfinite(value)]
    axes.set(xlim=(max(0, min(known) - 0.1), 1.03), xlabel="accuracy, %")
    axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=""))
    axes.set_yticks(rows, classes)
    axes.set_ylim(len(classes) - 0.5, -0.5)  # the first class above
    axes.grid(axis="y", color=MUTED, linewidth=0.4)
    return _svg(figure)


def reliability(bins: Sequence[CalibrationBin]) -> str:
    """Returns how often the likeliest class is right where its probability is so high; the area is the images."""
    figure = Figure(figsize=(4.0, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, label="calibrated")
    most = max((bin_.images for bin_ in bins), default=1)
    areas = [20 + 180 * bin_.images / most for bin_ in bins]
    confidences, accuracies = [bin_.confidence for bin_ in bins], [bin_.accuracy for bin_ in bins]
    axes.plot(confidences, accuracies, color=ACCENT, linewidth=1, label="this model")
    axes.scatter(confidences, accuracies, s=areas, color=ACCENT, alpha=0.7)
    axes.set(xlim=(0, 1.03), ylim=(0, 1.05), xlabel="probability of the likeliest class", ylabel="share that is right")
    axes.legend(frameon=False, loc="upper left")
    return _svg(figure)


def robustness(rows: Sequence[Any]) -> str:
    """Returns a panel for each way to change images: accuracy over its levels, from the images as they are on.

    Args:
      rows: `pipeline.report.robustness.Row`s, the first of images as they are.
    """
    unchanged = rows[0].accuracy
    changes = {row.change: row.unit for row in rows if row.level is not None}
    figure = Figure(figsize=(2.1 * len(changes), 2.6), layout="constrained")
    panels = figure.subplots(1, len(changes), sharey=True)
    for axes, (change, unit) in zip(panels, changes.items(), strict=True):
        mine = [row for row in rows if row.change == change]
        ticks = range(len(mine) + 1)  # levels are steps, and not all on a line from nothing
        axes.plot(ticks, [unchanged, *(row.accuracy for row in mine)], "o-", color=ACCENT, markersize=4)
        axes.axhline(unchanged, color=MUTED, linewidth=0.8)
        axes.set_xticks(ticks, ["none", *(f"{row.level:g}" for row in mine)])
        axes.set(title=change, ylim=(0, 1.03))
        axes.set_xlabel(unit.replace(", ", ",\n"), fontsize=8)
    panels[0].set_ylabel("accuracy")
    return _svg(figure)


def trials(trials: Sequence[Any], names: Sequence[str], logarithmic: Sequence[str]) -> str:
    """Returns the accuracy of a search's trials: in their order, with the best one so far, and over each setting.

    Args:
      trials: `components.network_tuner.trials.Trial`s, in their order.
      names: of the settings.
      logarithmic: those of them that are drawn on a logarithmic axis.
    """
    measured = [trial for trial in trials if trial.accuracy is not None]
    accuracies = [trial.accuracy for trial in measured]
    columns = min(4, 1 + len(names))
    rows = -(-(1 + len(names)) // columns)
    figure = Figure(figsize=(2.6 * columns, 2.6 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    first, *others = panels.flat
    first.plot([trial.trial for trial in measured], accuracies, "o", color=MUTED, markersize=4)
    best = list(itertools.accumulate(accuracies, max))
    first.step([trial.trial for trial in measured], best, where="post", color=ACCENT, label="best so far")
    first.set(xlabel="trial", ylabel="held-out accuracy")
    first.xaxis.set_major_locator(MaxNLocator(integer=True))
    first.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
    for axes, name in zip(others, names, strict=False):
        values = [trial.settings[name] for trial in measured]
        axes.plot(values if _are_numbers(values) else [*map(str, values)], accuracies, "o", color=ACCENT, markersize=4)
        axes.set_xlabel(name)
        if name in logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())  # else the labels of few decades lie over one another
            if len(set(values)) == 1 or max(values) < 10 * min(values):
                axes.set_xticks([min(values), max(values)], [f"{value:.2g}" for value in (min(values), max(values))])
        elif _are_numbers(values) and len(set(values)) <= FEW:
            axes.set_xticks(sorted(set(values)))
    for axes in others[len(names) :]:
        axes.set_visible(False)
    return _svg(figure)


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def picture(image: np.ndarray) -> str:
    """Returns an image, uint8 [height, width, channels], as the address of an embedded PNG."""
    file = io.BytesIO()
    PIL.Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def kernels(weights: np.ndarray) -> list[str]:
    """Returns the first layer's kernels as embedded PNGs, all on one scale on which grey is zero.

    Args:
      weights: float32 [height, width, input channels, filters], of 1 or 3 input channels; of others, the first alone.
    """
    shown = weights if weights.shape[2] == 3 else weights[:, :, :1]
    limit = float(np.abs(shown).max()) or 1.0
    pixels = np.uint8(np.round(127.5 + 127.5 * shown / limit))
    enlarged = pixels.repeat(KERNEL_SCALE, axis=0).repeat(KERNEL_SCALE, axis=1)
    return [picture(enlarged[..., number]) for number in range(enlarged.shape[-1])]


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]
