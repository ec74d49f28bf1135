"""Makes the pictures and the numbers of docs/tutorial.md: `python docs/make_tutorial.py [--home DIR]`.

It trains the MNIST network of the tutorial, all 3,000 steps in float32, and measures what the page says of it. The
weights are kept in the home folder: a second run with the same trainer and settings draws from them at once.

The pictures go to docs/figures/, and the numbers to docs/tutorial_numbers.json, each as the text that the page must
hold. Another processor computes slightly other numbers; what the page then lacks is printed at the end.

The functions from `output_size` to `delta_before_pooling` are those that the page quotes. They are written to be read,
in plain NumPy, and are tested against TensorFlow.
"""

import argparse
import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import matplotlib
import numpy as np
import tensorflow as tf
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pipeline.data.fetch import fetch
from pipeline.experiments import load
from pipeline.experiments.built_in import cifar10_tutorial
from pipeline.experiments.network import Network
from trainer import devices, loop, networks
from trainer.examples import Split
from trainer.settings import TrainingJob

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "tutorial.md"
FIGURES = ROOT / "docs" / "figures"
NUMBERS = ROOT / "docs" / "tutorial_numbers.json"

HELD_OUT = 5_000  # the first training images; as many as Conveyor keeps to measure on during training
MEASURED = 1_000  # test images that the maps are measured on
SHORT_STEPS = 300  # of the two trainings that compare ReLU with the sigmoid
SEED = 2019
EDGE_KERNEL = np.tile([-1.0, -1.0, 0.0, 1.0, 1.0], (5, 1))  # answers where dark on the left meets bright on the right

INK, ACCENT, MUTED, WARN, BRIGHT = "#1f2933", "#2f6f9f", "#9aa5b1", "#c2410c", "#f5b301"
STYLE = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "xtick.color": INK,
    "ytick.color": INK,
}
Numbers = dict[str, str]


# What the page quotes.


def output_size(size: int, kernel: int, stride: int = 1, padding: str = "VALID", dilation: int = 1) -> int:
    """Returns how many places a kernel takes along one side of an image.

    Args:
      size: of the image, in pixels.
      kernel: its size, in pixels.
      stride: pixels from one place to the next.
      padding: `VALID` for none; `SAME` for as many zeros as make the output as large as the input at stride 1.
      dilation: pixels from one weight to the next.
    """
    if padding == "SAME":
        return math.ceil(size / stride)
    return (size - dilation * (kernel - 1) - 1) // stride + 1


def pad_same(image: np.ndarray, extents: tuple[int, int], stride: int = 1) -> np.ndarray:
    """Puts zeros around an image, as SAME does; an odd one goes to the end.

    Args:
      image: [height, width, channels].
      extents: height and width that the kernel spans, in pixels.
      stride: pixels from one place to the next.
    """
    borders = []
    for size, extent in zip(image.shape[:2], extents, strict=True):
        total = max((math.ceil(size / stride) - 1) * stride + extent - size, 0)
        borders.append((total // 2, total - total // 2))
    return np.pad(image, (*borders, (0, 0)))


def convolve(
    image: np.ndarray, kernels: np.ndarray, stride: int = 1, padding: str = "VALID", dilation: int = 1
) -> np.ndarray:
    """Returns the sliding product of an image with kernels.

    Args:
      image: [height, width, channels].
      kernels: [height, width, channels, filters].
      stride: pixels from one place to the next.
      padding: `VALID` or `SAME`.
      dilation: pixels from one weight to the next.

    Returns:
      Activation maps, [rows, columns, filters].
    """
    height, width = (dilation * (size - 1) + 1 for size in kernels.shape[:2])
    if padding == "SAME":
        image = pad_same(image, (height, width), stride)
    rows, columns = (image.shape[0] - height) // stride + 1, (image.shape[1] - width) // stride + 1
    maps = np.zeros((rows, columns, kernels.shape[3]))
    for row in range(rows):
        for column in range(columns):
            top, left = row * stride, column * stride
            window = image[top : top + height : dilation, left : left + width : dilation]
            maps[row, column] = np.tensordot(window, kernels, axes=3)
    return maps


def convolution_gradients(image: np.ndarray, kernels: np.ndarray, delta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Takes the gradient back through a convolution without padding, at stride 1.

    Args:
      image: what went in, [height, width, channels].
      kernels: [size, size, channels, filters].
      delta: gradient with respect to what came out, [rows, columns, filters].

    Returns:
      The gradients with respect to the image and to the kernels, in their shapes.
    """
    border = kernels.shape[0] - 1
    padded = np.pad(delta, ((border, border), (border, border), (0, 0)))
    flipped = kernels[::-1, ::-1].transpose(0, 1, 3, 2)
    image_gradient = convolve(padded, flipped)
    channels = [image[:, :, channel, np.newaxis] for channel in range(image.shape[2])]
    kernel_gradient = np.stack([convolve(channel, delta[:, :, np.newaxis]) for channel in channels], axis=2)
    return image_gradient, kernel_gradient


def windows(maps: np.ndarray, size: int) -> np.ndarray:
    """Cuts maps [height, width, channels] into windows: [height / size, width / size, channels, size * size]."""
    height, width, channels = maps.shape
    cut = maps.reshape(height // size, size, width // size, size, channels)
    return cut.transpose(0, 2, 4, 1, 3).reshape(height // size, width // size, channels, size * size)


def max_pool(maps: np.ndarray, size: int = 2) -> np.ndarray:
    """Returns each window's largest value: [height / size, width / size, channels]."""
    return windows(maps, size).max(axis=3)


def mean_pool(maps: np.ndarray, size: int = 2) -> np.ndarray:
    """Returns each window's mean: [height / size, width / size, channels]."""
    return windows(maps, size).mean(axis=3)


def upsample(delta: np.ndarray, size: int = 2) -> np.ndarray:
    """Repeats each value of [rows, columns, channels] over a window: [rows * size, columns * size, channels]."""
    return np.kron(delta, np.ones((size, size, 1)))


def winners(maps: np.ndarray, size: int = 2) -> np.ndarray:
    """Returns 1 where a window's first largest value is, and 0 elsewhere, in the shape of the maps."""
    cut = windows(maps, size)
    mask = np.eye(size * size)[cut.argmax(axis=3)]
    return mask.reshape(*cut.shape[:3], size, size).transpose(0, 3, 1, 4, 2).reshape(maps.shape)


def max_pool_gradient(maps: np.ndarray, delta: np.ndarray, size: int = 2) -> np.ndarray:
    """Returns the gradient with respect to maps before max pooling, from `delta`, that behind it."""
    return upsample(delta, size) * winners(maps, size)


def mean_pool_gradient(delta: np.ndarray, size: int = 2) -> np.ndarray:
    """Returns the gradient with respect to maps before mean pooling, from `delta`, that behind it."""
    return upsample(delta, size) / size**2


def delta_before_pooling(
    x: np.ndarray, kernels: np.ndarray, next_delta: np.ndarray, pooling: str = "max"
) -> np.ndarray:
    """Takes the gradient back through a convolution (VALID), a 2 x 2 pooling and ReLU.

    Args:
      x: this layer's values before ReLU, [height, width, channels].
      kernels: the next layer's, [size, size, channels, filters].
      next_delta: gradient with respect to the next layer's values before ReLU, [rows, columns, filters].
      pooling: `max` or `mean`, between the two.

    Returns:
      The gradient with respect to `x`, in its shape.
    """
    activated = np.maximum(x, 0.0)
    pooled = max_pool(activated) if pooling == "max" else mean_pool(activated)
    behind, _ = convolution_gradients(pooled, kernels, next_delta)
    before = max_pool_gradient(activated, behind) if pooling == "max" else mean_pool_gradient(behind)
    return before * (x > 0.0)


# The network.


@dataclasses.dataclass(frozen=True)
class Digits:
    """MNIST in memory.

    Attributes:
      train: 55,000 images to train on.
      test: the 10,000 test images.
    """

    train: Split
    test: Split


def read_digits(folder: Path) -> Digits:
    """Reads MNIST's four files."""

    def split(prefix: str, start: int) -> Split:
        images = np.fromfile(folder / f"{prefix}-images-idx3-ubyte", np.uint8, offset=16).reshape(-1, 28, 28, 1)
        labels = np.fromfile(folder / f"{prefix}-labels-idx1-ubyte", np.uint8, offset=8).astype(np.int64)
        return Split(images[start:], labels[start:])

    return Digits(split("train", HELD_OUT), split("t10k", 0))


def job_of(name: str) -> TrainingJob:
    """Returns what the trainer must know of one of the two experiments, in float32."""
    experiment = load(name)
    return TrainingJob(
        pictures=experiment.dataset.pictures,
        classes=experiment.dataset.classes,
        network=experiment.network.source,
        training=dataclasses.replace(experiment.training, precision="float32"),
    )


def train(digits: Digits, home: Path) -> loop.TrainingResult:
    """Trains the MNIST network, or takes its weights from the last run with this trainer and these settings."""
    job = job_of("mnist")
    digest = hashlib.sha256(repr(job).encode())
    for file in sorted((ROOT / "trainer").glob("*.py")):
        digest.update(file.read_bytes())
    folder = home / "tutorial" / digest.hexdigest()[:16]
    return loop.train(
        job, devices.choose("float32"), digits.train, None, folder / "checkpoints", folder / "tensorboard", say=print
    )


def pixels_of(images: np.ndarray) -> tf.Tensor:
    """Returns images, uint8 [N, height, width, channels], as a network takes them: float32, 0 to 255."""
    return tf.cast(images, tf.float32)


def convolutional_maps(network: keras.Model) -> keras.Model:
    """Returns a model from pixels to the maps after each convolution and pooling, in order."""
    wanted = (keras.layers.Conv2D, keras.layers.MaxPooling2D)
    return keras.Model(network.inputs, [layer.output for layer in network.layers if isinstance(layer, wanted)])


def with_sigmoid(network: keras.Model) -> keras.Model:
    """Puts the sigmoid in the place of each ReLU of a new network, and returns it."""
    for layer in network.layers:
        if getattr(layer, "activation", None) is keras.activations.relu:
            layer.activation = keras.activations.sigmoid
    return network


# The numbers.


def percent(share: float, digits: int = 1) -> str:
    """Returns a share, 0 to 1, as the page writes it."""
    return f"{100 * share:.{digits}f} %"


def parameter_numbers(name: str) -> Numbers:
    """Returns how many parameters each layer of an experiment's network has, and their sum."""
    network = networks.build(job_of(name), "float32")
    counts = {layer.name: layer.count_params() for layer in network.layers if layer.count_params()}
    kinds = {"conv": 0, "dense": 0}
    numbers = {}
    for layer, count in counts.items():
        kind = layer[: len("conv")] if layer.startswith("conv") else "dense"
        kinds[kind] += 1
        numbers[f"{name}.parameters.{kind}{kinds[kind]}"] = f"{count:,}"
    return {**numbers, f"{name}.parameters.total": f"{network.count_params():,}"}


def size_numbers() -> Numbers:
    """Returns the sizes that the page works out with the formula of the output's size."""
    cases = {
        "valid": output_size(28, 5),
        "same": output_size(28, 5, padding="SAME"),
        "stride": output_size(28, 5, stride=2),
        "dilation": output_size(28, 5, dilation=2),
    }
    return {f"size.{case}": f"{size} × {size}" for case, size in cases.items()}


def view_numbers(name: str) -> Numbers:
    """Returns how many pixels wide the part of the image is that one value of the last map depends on.

    Each layer widens it by its window less one, in steps of what the strides before it have made of a pixel.
    """
    views = {}
    for case in ("with", "without"):
        view = step = 1
        for layer in networks.build(job_of(name), "float32").layers:
            if isinstance(layer, keras.layers.Conv2D):
                view += (layer.kernel_size[0] - 1) * step
            elif isinstance(layer, keras.layers.MaxPooling2D) and case == "with":
                view += (layer.pool_size[0] - 1) * step
                step *= layer.strides[0]
        views[f"{name}.view.{case}_pooling"] = f"{view} × {view}"
    return views


def slope_numbers() -> Numbers:
    """Returns the sigmoid's largest slope, and its product over the hidden layers of CIFAR-10's network."""
    largest, layers = 0.25, 6
    return {"sigmoid.slope": f"{largest}", "sigmoid.slope.layers": f"{largest**layers:.5f}"}


def gradient_by_layer(digits: Digits, change: Callable[[keras.Model], keras.Model]) -> list[float]:
    """Returns the gradient's root mean square for the kernels of each layer of CIFAR-10's network, untrained.

    Args:
      digits: whose first 500 training images are the batch.
      change: what is done to the network first.
    """
    job = dataclasses.replace(
        job_of("mnist"),
        network=Network(cifar10_tutorial.build, {"input_scale": 1 / 255, "dropout": 0.0}).source,
    )
    network = change(networks.build(job, "float32"))
    with tf.GradientTape() as tape:
        logits = network(pixels_of(digits.train.images[:500]), training=False)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(digits.train.labels[:500], logits)
        loss = tf.reduce_mean(losses)
    kernels = [variable for variable in network.trainable_variables if "kernel" in variable.path]
    return [float(np.sqrt(np.mean(np.square(item)))) for item in tape.gradient(loss, kernels)]


def short_training(digits: Digits, change: Callable[[keras.Model], keras.Model]) -> float:
    """Returns the test accuracy, 0 to 1, after 300 steps of the MNIST network's training."""
    keras.utils.set_random_seed(SEED)
    job = job_of("mnist")
    network = change(networks.build(job, "float32"))
    seen = SHORT_STEPS * job.training.batch_size
    images, labels = pixels_of(digits.train.images[:seen]), digits.train.labels[:seen]
    network.fit(images, labels, batch_size=job.training.batch_size, shuffle=False, verbose=0)
    return loop.accuracy_and_loss(loop.predictor(network, job.shape)(digits.test.images), digits.test.labels)[0]


def sigmoid_numbers(digits: Digits) -> tuple[Numbers, list[float], list[float]]:
    """Returns how ReLU and the sigmoid compare, and the gradient by layer with each."""
    relu = gradient_by_layer(digits, lambda network: network)
    sigmoid = gradient_by_layer(digits, with_sigmoid)
    numbers = {
        "relu.gradient_ratio": f"{relu[-1] / relu[0]:.1f}",
        "sigmoid.gradient_ratio": f"{round(sigmoid[-1] / sigmoid[0], -2):,.0f}",
        "relu.short_accuracy": percent(short_training(digits, lambda network: network)),
        "sigmoid.short_accuracy": percent(short_training(digits, with_sigmoid)),
    }
    return numbers, relu, sigmoid


def shifted(images: np.ndarray, down: int, right: int) -> np.ndarray:
    """Moves images [N, height, width, channels] by up to a pixel, and fills up with zeros."""
    height, width = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return padded[:, 1 - down : 1 - down + height, 1 - right : 1 - right + width]


def relative_change(before: Any, after: Any) -> float:
    """Returns the norm of the difference over the norm of what was before, a mean over [N, ...]."""
    before, after = np.reshape(before, (len(before), -1)), np.reshape(after, (len(after), -1))
    return float(np.mean(np.linalg.norm(after - before, axis=1) / np.linalg.norm(before, axis=1)))


def shift_changes(network: keras.Model, digits: Digits) -> dict[str, float]:
    """Returns by how much the image and each map change where an image moves by a pixel, a mean over four directions.

    `sampled1` and `sampled2` are of every second value of a convolution's map: what a stride of 2 alone would leave.
    `kept` is the share of images that stay in their class.
    """
    images = digits.test.images[:MEASURED]
    inside = convolutional_maps(network)
    still = inside(pixels_of(images))
    labels = np.argmax(network(pixels_of(images)), axis=1)
    sums = dict.fromkeys(("image", "conv1", "sampled1", "pool1", "conv2", "sampled2", "pool2", "kept"), 0.0)
    directions = ((0, 1), (0, -1), (1, 0), (-1, 0))
    for down, right in directions:
        moved = pixels_of(shifted(images, down, right))
        maps = inside(moved)
        sums["image"] += relative_change(images.astype(np.float32), moved.numpy())
        for name, before, after in zip(("conv1", "pool1", "conv2", "pool2"), still, maps, strict=True):
            sums[name] += relative_change(before, after)
            if name.startswith("conv"):
                sampled = f"sampled{name[-1]}"
                sums[sampled] += relative_change(before[:, ::2, ::2], after[:, ::2, ::2])
        sums["kept"] += float(np.mean(np.argmax(network(moved), axis=1) == labels))
    return {name: total / len(directions) for name, total in sums.items()}


def map_numbers(network: keras.Model, digits: Digits) -> Numbers:
    """Returns how large the maps are, how often windows tie, and how many values ReLU sets to zero."""
    first, pooled, second, last = convolutional_maps(network)(pixels_of(digits.test.images[:MEASURED]))
    # [windows' rows and columns of all images, channels, values of a window]
    values = np.concatenate([windows(item, 2) for item in first.numpy()])
    largest = values.max(axis=3, keepdims=True)
    ties = ((values == largest).sum(axis=3) > 1) & (largest[..., 0] > 0)
    flat = values.min(axis=3) == largest[..., 0]
    without_pooling = math.prod(first.shape[1:3]) * second.shape[3]
    return {
        "values.conv1": f"{math.prod(first.shape[1:]):,}",
        "values.pool1": f"{math.prod(pooled.shape[1:]):,}",
        "values.conv2": f"{math.prod(second.shape[1:]):,}",
        "values.pool2": f"{math.prod(last.shape[1:]):,}",
        "values.without_pooling": f"{without_pooling:,}",
        "parameters.dense_without_pooling": f"{(without_pooling + 1) * 1024:,}",
        "relu.zeros": percent(float(np.mean(second.numpy() == 0.0))),
        "pooling.ties": percent(float(ties.mean())),
        "pooling.flat_ties": percent(float(flat[ties].mean())),
    }


def dropout_numbers() -> Numbers:
    """Returns what dropout makes of a thousand times 384 ones."""
    rate = job_of("cifar10").network.parameters["dropout"]
    dropped = keras.layers.Dropout(rate, seed=SEED)(np.ones((1000, 384), np.float32), training=True).numpy()
    return {
        "dropout.kept": percent(float(np.mean(dropped > 0))),
        "dropout.value": f"{dropped.max():.2f}",
        "dropout.mean": f"{dropped.mean():.2f}",
    }


def softmax_numbers(network: keras.Model, digits: Digits) -> Numbers:
    """Returns two examples of softmax and cross-entropy among the test images.

    `right` is the first that the network takes for its own class with less than 99 %. `wrong` is the first that it
    takes for another class.
    """
    logits, labels = network(pixels_of(digits.test.images)).numpy(), digits.test.labels
    scores = tf.nn.softmax(logits).numpy()
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits).numpy()
    said, largest = scores.argmax(axis=1), scores.max(axis=1)
    numbers = {"softmax.guess.loss": f"{math.log(10):.3f}"}
    for name, chosen in (("right", (said == labels) & (largest < 0.99)), ("wrong", said != labels)):
        number = int(np.flatnonzero(chosen)[0])
        numbers |= {
            f"softmax.{name}.image": f"test image {number}",
            f"softmax.{name}.label": f"shows a {labels[number]}",
            f"softmax.{name}.said": f"probability of {percent(float(largest[number]))} for a {said[number]}",
            f"softmax.{name}.true": percent(float(scores[number, labels[number]])),
            f"softmax.{name}.loss": f"{losses[number]:.3f}",
        }
    return numbers


def kernel_numbers(network: keras.Model) -> Numbers:
    """Returns how far training moved the first layer's kernels, as a share of the norm that they began with."""
    begun = networks.first_kernels(networks.build(job_of("mnist"), "float32"))
    moved = np.linalg.norm(networks.first_kernels(network) - begun) / np.linalg.norm(begun)
    return {"kernels.moved": percent(float(moved), 0)}


def training_numbers(result: loop.TrainingResult, digits: Digits) -> Numbers:
    """Returns the training's first and last line, and the accuracy and loss on the test images."""
    accuracy, loss = loop.accuracy_and_loss(
        loop.predictor(result.model, job_of("mnist").shape)(digits.test.images), digits.test.labels
    )
    first = result.history[0]
    return {
        "training.steps": f"{result.history[-1]['step']:,}",
        "training.first_accuracy": percent(first["accuracy"], 0),
        "training.first_loss": f"{first['loss']:.3f}",
        "training.hundred_accuracy": percent(result.history[1]["accuracy"], 0),
        "training.test_accuracy": percent(accuracy, 2),
        "training.test_loss": f"{loss:.3f}",
    }


# The pictures.


def save(figure: Figure, name: str) -> None:
    """Writes a picture as PNG, without the name of what wrote it."""
    FIGURES.mkdir(parents=True, exist_ok=True)
    path = FIGURES / f"tutorial_{name}.png"
    figure.savefig(path, dpi=110, bbox_inches="tight", pad_inches=0.08, metadata={"Software": None})


def picture(axes: Axes, image: np.ndarray, title: str = "", **options: Any) -> None:
    """Shows a map [height, width] without ticks."""
    axes.imshow(image, **{"cmap": "gray", **options})
    axes.set_title(title)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def table(axes: Axes, values: np.ndarray, title: str, **options: Any) -> None:
    """Shows a small map [height, width] with its values written into it."""
    picture(axes, values, title, **options)
    for (row, column), value in np.ndenumerate(values):
        axes.text(column, row, f"{value + 0.0:g}", ha="center", va="center", color=INK)
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=MUTED, linewidth=0.5))


def outline(axes: Axes, top: float, left: float, size: float, color: str) -> None:
    """Draws the frame of a window, whose first pixel is at `top` and `left`."""
    axes.add_patch(Rectangle((left - 0.5, top - 0.5), size, size, fill=False, edgecolor=color, linewidth=2))


def draw_sliding(digit: np.ndarray) -> Numbers:
    """Draws a kernel sliding over a digit [28, 28], and returns the products at the two places that it marks."""
    maps = convolve(digit[..., np.newaxis], EDGE_KERNEL[..., np.newaxis, np.newaxis])[..., 0]
    best = tuple(int(index) for index in np.unravel_index(maps.argmax(), maps.shape))
    figure = Figure(figsize=(8, 2.9), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(28, 14, 24))
    picture(left, digit, "digit, 28 × 28")
    limit = {"cmap": "RdBu_r", "vmin": -2.5, "vmax": 2.5}
    table(middle, EDGE_KERNEL, "kernel, 5 × 5", **limit)
    picture(right, maps, f"map, {maps.shape[0]} × {maps.shape[1]}", cmap="RdBu_r", vmin=-10, vmax=10)
    for (row, column), color in ((best, BRIGHT), ((0, 0), ACCENT)):
        outline(left, row, column, 5, color)
        outline(right, row, column, 1, color)
    save(figure, "sliding")
    return {"sliding.edge": f"{maps[best]:.1f}", "sliding.blank": f"{maps[0, 0]:.1f}"}


def draw_windows() -> None:
    """Draws what stride, SAME and dilation do to a 3 x 3 kernel on a 7 x 7 image."""
    cases = (
        ("stride 2", {"stride": 2}, 0, ((0, 0), (0, 2))),
        ("SAME: zeros (gray) around", {"padding": "SAME"}, 1, ((0, 0), (0, 1))),
        ("dilation 2", {"dilation": 2}, 0, ((0, 0), (0, 1))),
    )
    figure = Figure(figsize=(8, 3), layout="constrained")
    for axes, (name, options, border, places) in zip(figure.subplots(1, 3), cases, strict=True):
        cells = np.pad(np.zeros((7, 7)), border, constant_values=1.0)
        out = output_size(7, 3, **options)
        picture(axes, cells, f"{name}\n7 × 7 gives {out} × {out}", cmap="Greys", vmin=0, vmax=4)
        for row, column in np.ndindex(cells.shape):
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=MUTED, linewidth=0.5))
        step = options.get("dilation", 1)
        for (top, left), color, size in zip(places, (WARN, ACCENT), (70, 25), strict=True):
            outline(axes, top, left, 2 * step + 1, color)
            rows, columns = np.meshgrid(np.arange(3) * step + top, np.arange(3) * step + left)
            axes.scatter(columns, rows, s=size, color=color, alpha=0.75, linewidth=0)
    save(figure, "windows")


def draw_kernels(kernels: np.ndarray) -> None:
    """Draws the first layer's kernels, [5, 5, 1, 32]."""
    limit = float(np.abs(kernels).max())
    figure = Figure(figsize=(8, 1.2), layout="constrained")
    for number, axes in enumerate(figure.subplots(2, 16).flat):
        picture(axes, kernels[:, :, 0, number], cmap="RdBu_r", vmin=-limit, vmax=limit)
    save(figure, "kernels")


def draw_maps(network: keras.Model, image: np.ndarray, shown: int = 12) -> None:
    """Draws the liveliest activation maps of an image, uint8 [28, 28, 1], after each layer."""
    names = ("convolution 1", "pooling 1", "convolution 2", "pooling 2")
    maps = [item[0].numpy() for item in convolutional_maps(network)(pixels_of(image[np.newaxis]))]
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    rows = figure.subplots(4, shown + 1)
    for number, (axes, name, one) in enumerate(zip(rows, names, maps, strict=True)):
        if number % 2 == 0:  # a pooling's maps are shown in the order of the convolution before it
            order = np.argsort(-one.std(axis=(0, 1)))[:shown]
        size = f"{one.shape[0]} × {one.shape[1]} × {one.shape[2]}"
        axes[0].axis("off")
        axes[0].text(1.0, 0.5, f"{name}\n{size}", ha="right", va="center", fontsize=8, transform=axes[0].transAxes)
        for panel, channel in zip(axes[1:], order, strict=True):
            picture(panel, one[:, :, channel], cmap="magma", vmin=0)
    save(figure, "maps")


def draw_relu(relu: Sequence[float], sigmoid: Sequence[float]) -> None:
    """Draws ReLU and the sigmoid, their slopes, and the gradient by layer with each."""
    x = np.linspace(-6, 6, 241)
    value = 1 / (1 + np.exp(-x))
    figure = Figure(figsize=(8, 2.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    left.plot(x, np.maximum(x, 0), color=ACCENT, label="ReLU")
    left.plot(x, value, color=WARN, label="sigmoid")
    left.set(title="value", ylim=(-0.2, 3), xlabel="x")
    middle.plot(x, x > 0, color=ACCENT)
    middle.plot(x, value * (1 - value), color=WARN)
    middle.set(title="slope", ylim=(-0.05, 1.1), xlabel="x")
    layers = ("conv 1", "conv 2", "conv 3", "conv 4", "conv 5", "dense 1", "dense 2")
    right.semilogy(layers, relu, "o-", color=ACCENT, markersize=3)
    right.semilogy(layers, sigmoid, "o-", color=WARN, markersize=3)
    right.set_title("size of the kernels' gradient, by layer")
    right.tick_params(axis="x", rotation=60)
    left.legend(frameon=False)
    for axes in (left, middle):
        axes.set_xticks(range(-6, 7, 3))
    save(figure, "relu")


def draw_pooling() -> None:
    """Draws both poolings of a 4 x 4 map, and how a gradient comes back through them."""
    maps = np.array([[1, 3, 0, 2], [5, 2, 1, 1], [0, 4, 7, 6], [2, 2, 3, 8]], float)[..., np.newaxis]
    delta = np.array([[4, -8], [2, 6]], float)[..., np.newaxis]
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    top, bottom = figure.subplots(2, 4)
    blue = {"cmap": "Blues", "vmin": 0, "vmax": 12}
    table(top[0], maps[..., 0], "values before pooling", **blue)
    table(top[1], max_pool(maps)[..., 0], "max pooling", **blue)
    table(top[2], mean_pool(maps)[..., 0], "mean pooling", **blue)
    table(top[3], winners(maps)[..., 0], "m: where the largest is", cmap="Greys", vmin=0, vmax=3)
    red = {"cmap": "RdBu_r", "vmin": -14, "vmax": 14}
    table(bottom[0], delta[..., 0], "gradient after pooling", **red)
    table(bottom[1], upsample(delta)[..., 0], "up-sampled", **red)
    table(bottom[2], max_pool_gradient(maps, delta)[..., 0], "through max pooling", **red)
    table(bottom[3], mean_pool_gradient(delta)[..., 0], "through mean pooling", **red)
    for axes in (top[0], top[3], *bottom[1:]):
        for row, column in np.ndindex(2, 2):
            outline(axes, 2 * row, 2 * column, 2, INK)
    save(figure, "pooling")


def draw_shift(changes: dict[str, float]) -> None:
    """Draws by how much the maps change where the digit moves by a pixel."""
    names = {
        "image": "image",
        "conv1": "convolution 1",
        "sampled1": "convolution 1, every second value",
        "pool1": "pooling 1",
        "conv2": "convolution 2",
        "sampled2": "convolution 2, every second value",
        "pool2": "pooling 2",
    }
    figure = Figure(figsize=(8, 2.6), layout="constrained")
    axes = figure.subplots()
    colors = [WARN if name.startswith("pool") else MUTED for name in names]
    bars = axes.barh(range(len(names)), [100 * changes[name] for name in names], color=colors)
    axes.bar_label(bars, fmt="%.1f %%", padding=3)
    axes.set_yticks(range(len(names)), names.values())
    axes.invert_yaxis()
    axes.set(xlabel="change where the digit moves by one pixel, %", xlim=(0, 70))
    save(figure, "shift")


def draw_training(history: Sequence[dict[str, float]]) -> None:
    """Draws accuracy and loss of the training batches, every 100 steps."""
    steps = [entry["step"] for entry in history]
    figure = Figure(figsize=(8, 2.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("accuracy", "loss"), strict=True):
        axes.plot(steps, [entry[name] for entry in history], ".-", color=ACCENT, linewidth=1)
        axes.set(xlabel="step", title=f"{name} on a training batch of 50")
    axes.set_yscale("log")
    save(figure, "training")


def measure_and_draw(result: loop.TrainingResult, digits: Digits) -> Numbers:
    """Draws all pictures and returns all numbers."""
    network = result.model
    digit = digits.test.images[0, :, :, 0] / 255.0
    numbers, relu, sigmoid = sigmoid_numbers(digits)
    changes = shift_changes(network, digits)
    numbers |= {f"shift.{name}": percent(change) for name, change in changes.items()}
    for more in (
        *(parameter_numbers(name) for name in ("mnist", "cifar10")),
        *(view_numbers(name) for name in ("mnist", "cifar10")),
        size_numbers(),
        slope_numbers(),
        map_numbers(network, digits),
        dropout_numbers(),
        kernel_numbers(network),
        softmax_numbers(network, digits),
        training_numbers(result, digits),
    ):
        numbers |= more
    draw_windows()
    draw_kernels(networks.first_kernels(network))
    draw_maps(network, digits.test.images[0])
    draw_relu(relu, sigmoid)
    draw_pooling()
    draw_shift(changes)
    draw_training(result.history)
    return numbers | draw_sliding(digit)


def main() -> None:
    """Trains, measures, draws, and says which numbers the page lacks."""
    parser = argparse.ArgumentParser(description="Makes the pictures and the numbers of docs/tutorial.md.")
    home = Path(os.environ.get("CONVEYOR_HOME", ROOT / ".conveyor"))
    parser.add_argument("--home", type=Path, default=home, help="folder of the data and of the trained weights")
    arguments = parser.parse_args()
    tf.config.experimental.enable_op_determinism()
    digits = read_digits(fetch("mnist", arguments.home / "data"))
    result = train(digits, arguments.home)
    with matplotlib.rc_context(STYLE):
        numbers = measure_and_draw(result, digits)
    NUMBERS.write_text(json.dumps(dict(sorted(numbers.items())), indent=1, ensure_ascii=False) + "\n")
    page = PAGE.read_text() if PAGE.exists() else ""
    lacking = [f"The page lacks {name}: {text}" for name, text in numbers.items() if text not in page]
    print("\n".join(lacking) or "The page holds all numbers.")


if __name__ == "__main__":
    main()
