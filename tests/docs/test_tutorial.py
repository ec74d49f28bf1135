"""The page docs/tutorial.md: its numbers, its code, its formulas, and what it points to."""

import ast
import importlib.util
import json
import re
from pathlib import Path

import latex2mathml.converter
import numpy as np
import pytest
import tensorflow as tf

from pipeline.experiments import load
from trainer import networks

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text()
NUMBERS = json.loads((ROOT / "docs" / "tutorial_numbers.json").read_text())
BLOCKS = re.findall(r"```python\n# ([^\n]+)\n(.+?)```", PAGE, re.DOTALL)  # what the first line says, the code
PROSE = re.sub(r"```.+?```", "", PAGE, flags=re.DOTALL)
NAMES = r"(?:functions?|class(?:es)?|constants?)\s+((?:`\w+`(?:,\s+|\s+and\s+)?)+)"
FORMULAS = re.findall(r"^\$\$(.+)\$\$$", PROSE, re.MULTILINE)
INLINE = [
    formula for line in PROSE.splitlines() if not line.startswith("$$") for formula in re.findall(r"\$(.+?)\$", line)
]


@pytest.fixture(scope="module")
def page_code():
    """The functions that the page quotes."""
    spec = importlib.util.spec_from_file_location("make_tutorial", ROOT / "docs" / "make_tutorial.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).normal(size=shape)


def defined(path: Path) -> set[str]:
    """Returns the functions, classes and constants that a file defines."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def test_maps_are_of_each_convolution_and_pooling_of_a_network_as_it_is_built(page_code):
    maps = page_code.convolutional_maps(networks.build(load("mnist").training_job(), "float32"))
    shapes = [tuple(each.shape) for each in maps(np.zeros((2, 28, 28, 1), np.float32))]
    assert shapes == [(2, 28, 28, 32), (2, 14, 14, 32), (2, 14, 14, 64), (2, 7, 7, 64)]


# Numbers.


def test_the_page_holds_each_number():
    text = " ".join(PAGE.split())
    lacking = {
        name: number
        for name, number in NUMBERS.items()
        if not re.search(rf"(?<![\d.,]){re.escape(number)}(?!\d|[.,]\d)", text)
    }
    assert NUMBERS
    assert not lacking


def test_numbers_that_need_no_training_are_still_so(page_code):
    numbers = page_code.size_numbers() | page_code.slope_numbers()
    for experiment in ("mnist", "cifar10"):
        numbers |= page_code.parameter_numbers(experiment) | page_code.view_numbers(experiment)
    assert numbers.items() <= NUMBERS.items()


def test_the_settings_are_those_of_the_experiments():
    mnist, cifar10 = load("mnist").training, load("cifar10").training
    assert f"| images in a batch | {mnist.batch_size} | {cifar10.batch_size} |" in PAGE
    assert f"| steps | {mnist.steps:,} | {cifar10.steps:,} |" in PAGE


# The code that the page quotes, against TensorFlow.

OPTIONS = [
    {},
    {"padding": "SAME"},
    {"stride": 2},
    {"stride": 3, "padding": "SAME"},
    {"dilation": 2},
    {"dilation": 3, "padding": "SAME"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("size", "kernel"), [(28, 5), (11, 3), (12, 4)])
def test_convolution(page_code, size, kernel, options):
    image, kernels = random(size, size + 2, 3), random(kernel, kernel, 3, 4)
    ours = page_code.convolve(image, kernels, **options)
    theirs = tf.nn.conv2d(
        image[np.newaxis],
        kernels,
        options.get("stride", 1),
        options.get("padding", "VALID"),
        dilations=options.get("dilation", 1),
    )[0]
    np.testing.assert_allclose(ours, theirs, atol=1e-10)
    assert ours.shape[:2] == tuple(page_code.output_size(side, kernel, **options) for side in image.shape[:2])


@pytest.mark.parametrize(
    ("options", "size"), [({}, 24), ({"padding": "SAME"}, 28), ({"stride": 2}, 12), ({"dilation": 2}, 20)], ids=str
)
def test_sizes_in_the_text(page_code, options, size):
    assert page_code.output_size(28, 5, **options) == size
    assert page_code.convolve(random(28, 28, 1), random(5, 5, 1, 1), **options).shape == (size, size, 1)


def test_gradients_of_a_convolution(page_code):
    image, kernels, delta = tf.constant(random(9, 8, 3)), tf.constant(random(5, 5, 3, 4)), random(5, 4, 4)
    with tf.GradientTape() as tape:
        tape.watch([image, kernels])
        loss = tf.reduce_sum(tf.nn.conv2d(image[tf.newaxis], kernels, 1, "VALID")[0] * delta)
    ours = page_code.convolution_gradients(image.numpy(), kernels.numpy(), delta)
    theirs = tape.gradient(loss, [image, kernels])
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-10)
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-10)


def test_gradient_of_a_padded_convolution_is_cut_off(page_code):
    image, kernels, delta = tf.constant(random(9, 8, 3)), random(5, 5, 3, 4), random(9, 8, 4)
    with tf.GradientTape() as tape:
        tape.watch(image)
        loss = tf.reduce_sum(tf.nn.conv2d(image[tf.newaxis], kernels, 1, "SAME")[0] * delta)
    ours, _ = page_code.convolution_gradients(page_code.pad_same(image.numpy(), (5, 5)), kernels, delta)
    np.testing.assert_allclose(ours[2:-2, 2:-2], tape.gradient(loss, image), atol=1e-10)


POOLINGS = {"max": tf.nn.max_pool2d, "mean": tf.nn.avg_pool2d}


@pytest.mark.parametrize("values", ["all different", "many the same"])
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("kind", POOLINGS)
def test_gradient_through_pooling(page_code, kind, size, values):
    maps = random(2 * size, 4 * size, 5)
    if values == "many the same":
        maps = np.round(maps)
    delta = random(2, 4, 5)
    source = tf.constant(maps)
    with tf.GradientTape() as tape:
        tape.watch(source)
        pooled = POOLINGS[kind](source[tf.newaxis], size, size, "VALID")[0]
        loss = tf.reduce_sum(pooled * delta)
    if kind == "max":
        forward, ours = page_code.max_pool(maps, size), page_code.max_pool_gradient(maps, delta, size)
    else:
        forward, ours = page_code.mean_pool(maps, size), page_code.mean_pool_gradient(delta, size)
    np.testing.assert_allclose(forward, pooled, atol=1e-10)
    np.testing.assert_allclose(ours, tape.gradient(loss, source), atol=1e-10)


@pytest.mark.parametrize("kind", POOLINGS)
def test_the_formula(page_code, kind):
    x, kernels, next_delta = random(12, 10, 3), random(3, 3, 3, 4), random(4, 3, 4)
    source = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(source)
        pooled = POOLINGS[kind](tf.nn.relu(source)[tf.newaxis], 2, 2, "VALID")
        loss = tf.reduce_sum(tf.nn.conv2d(pooled, kernels, 1, "VALID")[0] * next_delta)
    ours = page_code.delta_before_pooling(x, kernels, next_delta, kind)
    np.testing.assert_allclose(ours, tape.gradient(loss, source), atol=1e-10)


def test_gradient_of_the_logits():
    logits = tf.constant(random(1, 10))
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits([3], logits)
    np.testing.assert_allclose(tf.nn.softmax(logits) - np.eye(10)[[3]], tape.gradient(loss, logits), atol=1e-10)


def test_quoted_functions_are_those_of_the_script():
    source = ast.parse((ROOT / "docs" / "make_tutorial.py").read_text())
    functions = {node.name: node for node in source.body if isinstance(node, ast.FunctionDef)}
    quoted = [node for title, code in BLOCKS if title == "docs/make_tutorial.py" for node in ast.parse(code).body]
    assert len(quoted) >= 10
    for node in quoted:
        ours = functions[node.name]
        assert [ast.unparse(line) for line in node.body] == [ast.unparse(line) for line in ours.body[1:]], node.name
        assert [arg.arg for arg in node.args.args] == [arg.arg for arg in ours.args.args]


def test_quoted_lines_are_those_of_the_project():
    quoted = [(title, code) for title, code in BLOCKS if title not in ("docs/make_tutorial.py", "TensorFlow 1")]
    assert quoted
    for title, code in quoted:
        lines = {line.strip() for line in (ROOT / title).read_text().splitlines()}
        missing = [line for line in code.splitlines() if line.strip() not in lines]
        assert not missing, f"{title} has no such lines any more"


# What the page points to.


def test_figures_exist_and_are_small():
    named = re.findall(r"!\[[^\]]+\]\((figures/tutorial_\w+\.png)\)", PAGE)
    assert sorted(named) == sorted(f"figures/{path.name}" for path in (ROOT / "docs/figures").glob("tutorial_*"))
    sizes = [(ROOT / "docs" / name).stat().st_size for name in named]
    assert max(sizes) < 150_000
    assert sum(sizes) < 700_000


def test_files_exist():
    paths = set(re.findall(r"`([a-z]\w*/[\w/]*(?:\.\w+)?)`", PROSE))
    assert len(paths) > 15
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_names_are_defined_where_the_page_says():
    pointers = re.findall(rf"`([\w/]+\.py)`,\s+{NAMES}", PROSE)
    assert len(pointers) > 20
    for path, names in pointers:
        assert set(re.findall(r"`(\w+)`", names)) <= defined(ROOT / path), path


@pytest.mark.parametrize("formula", [*FORMULAS, *dict.fromkeys(INLINE)])
def test_formulas_convert(formula):
    mathml = latex2mathml.converter.convert(formula)
    assert mathml.startswith("<math")
    assert "\\" not in mathml  # a command that the library does not know
    assert "}_" not in formula  # Markdown may take it for emphasis
    assert "*" not in formula


def test_there_are_formulas_and_none_is_broken():
    assert len(FORMULAS) >= 12
    assert re.sub(r"^\$\$.+\$\$$", "", PROSE, flags=re.MULTILINE).count("$") == 2 * len(INLINE)
