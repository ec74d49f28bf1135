"""Builds the networks of experiments: plain Keras models, from code that stands with the experiment."""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from conveyor import modules
from conveyor.errors import ConfigError
from trainer.settings import FACTS, NetworkSource, TrainingJob

ONEDNN_BLOCK = 16  # channels that it computes at once, at most
TRIED = 2  # images of the first call, which shows a network's outputs


class NetworkError(ConfigError):
    """The code of a network is wrong: it raises, or what it returns cannot be trained or served."""


def build(job: TrainingJob, precision: str, images: np.ndarray | None = None) -> keras.Model:
    """Returns a new network with freshly drawn weights, compiled.

    The experiment's function is called with the images' shape, the number of classes, and its parameters by name; with
    `steps` and `batch_size` of the training, and `images`, where it has parameters of these names. A model that is
    compiled without an optimizer or a loss gets Keras's own Adam, and the cross-entropy of logits.

    Args:
      job: names the function and gives it its arguments; the same job gives the same weights.
      precision: `float32`, or `mixed_bfloat16` for bfloat16 arithmetic on float32 variables; it is Keras's policy while
        the function runs.
      images: some training images, uint8 [N, height, width, channels], for layers that are fitted to them; None where
        the weights come from elsewhere.

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
            model = function(job.shape, len(job.classes), **source.parameters, **_facts(function, job, images))
            _check(model, job)
    finally:
        keras.config.set_dtype_policy(before)
    optimizer = model.optimizer if model.compiled else keras.optimizers.Adam()
    if not model.compiled or (model.loss is None and not _has_own(model, "compute_loss")):
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    if model.loss is not None:
        _check_loss(model)
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


def _facts(function: Callable[..., Any], job: TrainingJob, images: np.ndarray | None) -> dict[str, Any]:
    """Returns what the trainer knows and the function has a parameter for."""
    known = {"steps": job.training.steps, "batch_size": job.training.batch_size, "images": images}
    asked = inspect.signature(function).parameters
    return {name: known[name] for name in FACTS if name in asked}


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
    if wrong := [layer.name for layer in model._flatten_layers() if _has_wrong_gradient(layer)]:
        raise NetworkError(
            f"The model of {name} has 1 x 1 convolutions with strides and fewer than {ONEDNN_BLOCK} channels "
            f"({', '.join(wrong)}). On a CPU their gradients are wrong, and may crash: pool first, and convolve "
            "without strides."
        )


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
    if not isinstance(layer, keras.layers.Conv2D) or not layer.trainable:
        return False
    return tuple(layer.kernel_size) == (1, 1) and max(layer.strides) > 1 and layer.kernel.shape[2] < ONEDNN_BLOCK


def _has_own(model: keras.Model, method: str) -> bool:
    """Whether a model's class has its own version of one of Keras's methods."""
    return getattr(type(model), method) is not getattr(keras.Model, method)


def _check_loss(model: keras.Model) -> None:
    try:
        loss = keras.losses.get(model.loss)
    except (TypeError, ValueError) as error:
        raise NetworkError(f"The model is compiled with a loss that is none: {error}") from error
    if isinstance(loss, keras.Loss):
        from_logits = loss.get_config().get("from_logits", True)
    elif callable(loss):
        choice = inspect.signature(loss).parameters.get("from_logits")
        from_logits = choice is None or choice.default is not False
    else:
        raise NetworkError(f"The model is compiled with a loss that is none: {model.loss!r}.")
    if not from_logits:
        raise NetworkError(
            f"The model is compiled with {model.loss if isinstance(model.loss, str) else type(loss).__name__}, which "
            "expects probabilities, and returns logits: give the loss from_logits=True."
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
    if loss is None:  # compute_loss is the model's own
        return True
    return "sparse" in (type(loss).__name__ if isinstance(loss, keras.Loss) else loss.__name__).lower()


def first_kernels(model: keras.Model) -> np.ndarray | None:
    """Returns the first convolution's weights: float32 [height, width, input channels, filters]; None without any."""
    kernels = (weight for weight in model.weights if weight.path.endswith("kernel") and len(weight.shape) == 4)
    first = next(kernels, None)
    return None if first is None else keras.ops.convert_to_numpy(first)
