"""Builds the networks of experiments: plain Keras models, from code that stands with the experiment."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_origin

import keras
import numpy as np
import tensorflow as tf

from conveyor import modules
from conveyor.errors import ConfigError
from trainer.settings import FACTS, NetworkSource, TrainingJob

ONEDNN_BLOCK = 16  # channels that it computes at once, at most
SAME = 1e-4  # of the largest logit: float32 arithmetic in another order
TRIED = 2  # images of the first call, which shows a network's outputs


class NetworkError(ConfigError):
    """The code of a network is wrong: it raises, or what it returns cannot be trained or served."""


def build(job: TrainingJob, precision: str, images: Callable[[], np.ndarray] | None = None) -> keras.Model:
    """Returns a new network with freshly drawn weights, compiled.

    The experiment's function is called with the images' shape, the number of classes, and its parameters by name; with
    `steps` and `batch_size` of the training, and `images`, where it has parameters of these names. A model that is
    compiled without an optimizer or a loss gets Keras's own Adam, and the cross-entropy of logits.

    Args:
      job: names the function and gives it its arguments; the same job gives the same weights.
      precision: `float32`, or `mixed_bfloat16` for bfloat16 arithmetic on float32 variables; it is Keras's policy while
        the function runs.
      images: returns some training images, uint8 [N, height, width, channels], for layers that are fitted to them;
        None where the weights come from elsewhere.

    Returns:
      A model from raw pixels, float32 [N, height, width, channels] in 0 to 255, to logits, [N, classes].

    Raises:
      NetworkError: the function raises, or its model is none that can be trained and served.

    Example:
      >>> from pipeline.experiments import load
      >>> build(load("mnist").training_job(), "float32").count_params()
      3274634
    """
    source = job.network
    before = keras.config.dtype_policy()
    keras.utils.set_random_seed(job.training.seed)
    keras.config.set_dtype_policy(precision)
    try:
        with _code(source) as module:
            function = getattr(module, source.build)
            given = _parameters(function, source) | _facts(function, job, images)
            model = function(job.shape, len(job.classes), **given)
            _check(model, job)
    finally:
        keras.config.set_dtype_policy(before)
    optimizer = model.optimizer if model.compiled else keras.optimizers.Adam()
    if not model.compiled or (model.loss is None and not has_own_loss(model)):
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    _check_loss(model, job)
    return model


def callbacks(source: NetworkSource) -> list[keras.callbacks.Callback]:
    """Returns the callbacks of a training, made anew.

    Raises:
      NetworkError: the experiment's function for them raises, or returns something else.
    """
    if not source.callbacks:
        return []
    with _code(source) as module:
        made = getattr(module, source.callbacks)()
    if not isinstance(made, list) or not all(isinstance(each, keras.callbacks.Callback) for each in made):
        raise NetworkError(f"{source.callbacks} in {source.module}.py must return a list of keras.callbacks.Callback.")
    return made


@contextlib.contextmanager
def _code(source: NetworkSource) -> Iterator[Any]:
    """Imports a network's module for the block; an error of the user's code, there or in the block, is a sentence."""
    folder = Path(source.folder)
    try:
        with modules.importable(folder):
            yield modules.import_file(folder, source.module)
    except NetworkError:
        raise
    except Exception as error:  # it is the user's code: where it failed, and how, is what they need
        hint = " Is it a file of yours? Network(files=...) names those." if isinstance(error, FileNotFoundError) else ""
        raise NetworkError(f"The network cannot be built: {modules.explained(error, folder)}.{hint}") from error


def _parameters(function: Callable[..., Any], source: NetworkSource) -> dict[str, Any]:
    """Returns the function's own parameters; what JSON made a tuple is a list where the function has one."""
    asked = inspect.signature(function).parameters
    is_list = {name: list in (type(p.default), p.annotation, get_origin(p.annotation)) for name, p in asked.items()}
    return {name: list(value) if is_list.get(name) else value for name, value in source.parameters.items()}


def _facts(function: Callable[..., Any], job: TrainingJob, images: Callable[[], np.ndarray] | None) -> dict[str, Any]:
    """Returns what the trainer knows and the function has a parameter for."""
    asked = inspect.signature(function).parameters
    facts = {name: getattr(job.training, name) for name in FACTS if name in asked and name != "images"}
    return facts | ({"images": images() if images else None} if "images" in asked else {})


def _check(model: Any, job: TrainingJob) -> None:
    """Refuses what is no classifier of the images; a model that is not built yet is built by its first call."""
    name = f"{job.network.build} in {job.network.module}.py"
    if not isinstance(model, keras.Model):
        raise NetworkError(f"{name} must return a keras.Model; it returned {type(model).__name__}.")
    if _has_own(model, "train_step"):
        raise NetworkError(
            f"The model of {name} has a train_step of its own, which is not called here: compile() takes its loss, and "
            "compute_loss() may be its own."
        )
    images = np.random.default_rng(0).integers(0, 256, (TRIED, *job.shape)).astype(np.float32)
    _check_outputs(model(images, training=False), (TRIED, len(job.classes)), name)
    if getattr(_last_operation(model), "activation", None) is keras.activations.sigmoid:
        raise NetworkError(
            f"The model of {name} ends in a sigmoid, and must return logits: leave it out. Each image has one label."
        )
    if wrong := [layer.name for layer in model._flatten_layers() if _has_wrong_gradient(layer)]:
        raise NetworkError(
            f"The model of {name} has 1 x 1 convolutions with strides and fewer than {ONEDNN_BLOCK} channels "
            f"({', '.join(wrong)}). On a CPU their gradients are wrong, and may crash: pool first, and convolve "
            "without strides."
        )


def _last_operation(model: keras.Model) -> Any:
    """Returns the operation that makes a model's outputs, within models of models; None of a subclass's own call()."""
    last: Any = model
    while isinstance(last, keras.Model):
        outputs = getattr(last, "outputs", None)
        last = outputs[0]._keras_history.operation if outputs else None
    return last


def _check_outputs(outputs: Any, wanted: tuple[int, int], name: str) -> None:
    """Refuses outputs that are no logits."""
    if not hasattr(outputs, "shape") or tuple(outputs.shape) != wanted:
        found = tuple(outputs.shape) if hasattr(outputs, "shape") else type(outputs).__name__
        raise NetworkError(
            f"The model of {name} returns {found} for {TRIED} images; it must return logits, one a class: {wanted}."
        )
    values = keras.ops.convert_to_numpy(keras.ops.cast(outputs, "float32"))
    if (values >= 0).all() and np.allclose(values.sum(axis=1), 1, atol=1e-2):  # bfloat16 has three digits
        raise NetworkError(
            f"The model of {name} returns probabilities, and must return logits: leave the softmax at its end out, and "
            "give a loss from_logits=True."
        )


def _has_wrong_gradient(layer: keras.layers.Layer) -> bool:
    """Whether oneDNN computes a layer's gradient wrongly, and writes where it must not while it does.

    Source: https://github.com/uxlfoundation/oneDNN/issues/6035.
    """
    if not isinstance(layer, keras.layers.Conv2D) or not layer.trainable or tf.config.list_physical_devices("GPU"):
        return False
    return tuple(layer.kernel_size) == (1, 1) and max(layer.strides) > 1 and layer.kernel.shape[2] < ONEDNN_BLOCK


def has_own_loss(model: keras.Model) -> bool:
    """Whether a model's `compute_loss` is its own."""
    return _has_own(model, "compute_loss")


def _has_own(model: keras.Model, method: str) -> bool:
    """Whether a model's class has its own version of one of Keras's methods."""
    return getattr(type(model), method) is not getattr(keras.Model, method)


def _check_loss(model: keras.Model, job: TrainingJob) -> None:
    """Refuses a loss that expects probabilities, or that cannot be computed of what the trainer gives it."""
    try:
        loss = keras.losses.get(model.loss)
    except (TypeError, ValueError) as error:
        raise NetworkError(f"The model is compiled with a loss that is none: {error}") from error
    choice = inspect.signature(loss).parameters.get("from_logits") if callable(loss) else None
    from_logits = choice is None or choice.default is not False
    if isinstance(loss, keras.Loss):
        from_logits = loss.get_config().get("from_logits", True)
    try:
        tried_loss(model, job)
    except Exception as error:  # the loss may be the user's code
        what = " ".join(str(error).split()) or type(error).__name__
        raise NetworkError(f"The model's loss cannot be computed of labels and logits: {what}") from error
    if not from_logits:
        raise NetworkError(
            f"The model is compiled with {model.loss if isinstance(model.loss, str) else type(loss).__name__}, which "
            "expects probabilities, and returns logits: give the loss from_logits=True."
        )


def tried_loss(model: keras.Model, job: TrainingJob) -> tf.Tensor:
    """Returns a model's loss of black images of the first classes, and of logits that are all the same."""
    labels = np.arange(TRIED, dtype=np.int64)
    targets = labels if takes_class_numbers(model) else np.eye(len(job.classes), dtype=np.float32)[labels]
    logits = tf.zeros([TRIED, len(job.classes)])
    return model.compute_loss(tf.zeros([TRIED, *job.shape]), tf.constant(targets), logits)


def check_rebuilt(network: keras.Model, job: TrainingJob, images: np.ndarray) -> None:
    """Refuses a network that answers otherwise once it is built again: one that is more than its weights.

    Raises:
      NetworkError: its logits differ.
    """
    again = build(job, "float32")
    set_weights(again, network.get_weights())
    ours, theirs = (
        keras.ops.convert_to_numpy(each(images.astype(np.float32), training=False)) for each in (network, again)
    )
    other = ~np.equal(ours, theirs) & ~(np.isnan(ours) & np.isnan(theirs))  # infinities are equal to themselves
    difference = float(np.abs(ours[other] - theirs[other]).max(initial=0.0))
    if not difference <= SAME * max(1.0, float(np.abs(ours).max())):
        raise NetworkError(
            f"The network answers otherwise when it is built again with the same weights: up to {difference:.3g} in a "
            "logit. What its function draws or reads must be weights, or the same each time."
        )


def set_weights(model: keras.Model, weights: Sequence[np.ndarray]) -> None:
    """Gives a model weights, in the order of `model.weights`, and brings up to date what its layers derive of them."""
    model.set_weights(list(weights))
    derive(model)


def derive(model: keras.Model) -> None:
    """Brings up to date what layers derive of weights that were set from outside, such as Normalization's scale."""
    for layer in model._flatten_layers():
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()


def takes_class_numbers(model: keras.Model) -> bool:
    """Whether a model's loss takes labels as numbers, int64 [N]; for others they are one-hot, float32 [N, classes].

    A model that is compiled without a loss, as its `compute_loss` is its own, takes numbers.
    """
    loss = keras.losses.get(model.loss)
    while isinstance(loss, functools.partial):
        loss = loss.func
    is_sparse = isinstance(loss, keras.losses.SparseCategoricalCrossentropy)
    return loss is None or is_sparse or loss is keras.losses.sparse_categorical_crossentropy


def first_kernels(model: keras.Model) -> np.ndarray | None:
    """Returns the first convolution's weights: float32 [height, width, input channels, filters]; None without any."""
    kernels = (weight for weight in model.weights if weight.path.endswith("kernel") and len(weight.shape) == 4)
    first = next(kernels, None)
    return None if first is None else keras.ops.convert_to_numpy(first)
