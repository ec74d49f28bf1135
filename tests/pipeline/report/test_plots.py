import base64
import io
import re

import numpy as np
import PIL.Image

from components.network_tuner.trials import Trial
from pipeline.report import plots
from pipeline.report.metrics import CalibrationBin
from pipeline.report.robustness import Row


def texts(svg):
    return re.findall(r">([^<>]+)</text>", svg)


def placed(svg):
    """Returns where each number stands, by the number: rounded x to the right, and y downward."""
    found = re.findall(r'<text [^>]*x="([\d.]+)" y="([\d.]+)"[^>]*>(\d+)</text>', svg)
    return {number: (round(float(x)), round(float(y))) for x, y, number in found}


def test_confusion_matrix_counts():
    labels, predictions = np.repeat([0, 0, 1, 1], [4, 2, 1, 3]), np.repeat([0, 1, 0, 1], [4, 2, 1, 3])
    svg = plots.confusion_matrix(labels, predictions, ["cat", "dog"])
    assert svg.startswith("<svg")
    assert {"cat", "dog", "predicted", "true"} <= set(texts(svg))
    places = placed(svg)
    assert places["4"][1] == places["2"][1] < places["1"][1] == places["3"][1]  # a row is what they are
    assert places["4"][0] == places["1"][0] < places["2"][0] == places["3"][0]  # a column, what they were taken for


def test_counts_are_white_on_dark_cells_alone():
    labels, predictions = np.repeat([0, 0, 1, 1], [4, 196, 95, 5]), np.repeat([0, 1, 0, 1], [4, 196, 95, 5])
    svg = plots.confusion_matrix(labels, predictions, ["cat", "dog"])
    styles = {number: style for style, number in re.findall(r'<text style="([^"]*)"[^>]*>(\d+)</text>', svg)}
    assert {number for number, style in styles.items() if "#ffffff" in style} == {"196", "95"}


def test_curves_show_held_out_accuracy_where_it_was_measured():
    history = [{"step": 0, "accuracy": 0.1, "loss": 2.3}, {"step": 100, "accuracy": 0.9, "loss": 0.3}]
    assert "held out" not in texts(plots.training_curves(history))
    history[1] |= {"eval_accuracy": 0.8, "eval_loss": 0.4}
    assert texts(plots.training_curves(history)).count("held out") == 2


def test_class_accuracies_in_percent_also_where_a_class_has_no_example():
    svg = plots.class_accuracies(["cat", "dog", "emu"], [0.5, 0.975, float("nan")], [0.4, 0.9, 0.1])
    assert {"cat", "dog", "emu", "97.5", "baseline"} <= set(texts(svg))


def decoded(address):
    return np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(address.partition("base64,")[2]))))


def test_picture_is_the_image(mnist_dataset):
    grey = np.arange(784, dtype=np.uint8).reshape(mnist_dataset.shape)
    assert (decoded(plots.picture(grey)) == grey.squeeze(-1)).all()
    color = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert (decoded(plots.picture(color)) == color).all()


def test_kernels_share_one_scale_on_which_grey_is_zero():
    weights = np.zeros((2, 2, 1, 3), np.float32)
    weights[..., 1], weights[0, 0, 0, 2] = 0.2, -0.1
    none, strong, weak = [decoded(address) for address in plots.kernels(weights)]
    assert none.shape == (16, 16)
    assert set(none.ravel()) == {128}
    assert set(strong.ravel()) == {255}
    assert set(weak.ravel()) == {128, 64}


def test_reliability_shows_every_bin():
    svg = plots.reliability([CalibrationBin(0.55, 0.5, 10), CalibrationBin(0.95, 0.9, 90)])
    assert {"probability of the likeliest class", "share that is right", "calibrated"} <= set(texts(svg))
    assert plots.reliability([]).startswith("<svg")


def test_trials_show_the_best_one_so_far_and_each_setting():
    trials = [
        Trial(0, {"network.width": 8, "network.act": "relu"}, 0.8, 1.0),
        Trial(1, {"network.width": 16, "network.act": "silu"}, None, 1.0, "diverged"),
        Trial(2, {"network.width": 32, "network.act": "silu"}, 0.7, 1.0),
    ]
    svg = plots.trials(trials, ["network.width", "network.act"], ["network.width"])
    assert {"trial", "held-out accuracy", "best so far", "network.width", "network.act", "relu", "silu"} <= set(
        texts(svg)
    )
    assert plots.trials([trials[1]], ["network.width"], []).startswith("<svg")  # none was measured


def test_robustness_has_a_panel_for_each_change():
    rows = [Row("none", None, "", 0.9), Row("mirrored", None, "", 0.5), Row("blur", 2.0, "pixels, wide", 0.8)]
    rows += [Row("blur", 4.0, "pixels, wide", 0.4), Row("noise", 5.0, "%", 0.7)]
    svg = plots.robustness(rows)
    assert {"blur", "noise", "none", "2", "4", "5", "accuracy"} <= set(texts(svg))
    assert "mirrored" not in set(texts(svg))
