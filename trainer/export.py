"""Writes a trained network as a SavedModel for TensorFlow Serving."""

import dataclasses
import functools
import json
import math
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from conveyor.errors import ConveyorError
from trainer import networks, pictures
from trainer.settings import CHANNELS, TrainingJob

DATASET_ASSET = "dataset.json"


def save(model: keras.Model, job: TrainingJob, folder: Path, scratch: Path) -> keras.Model:
    """Writes a SavedModel of a trained network; see `in_float32` and `write`. Returns the network that was written."""
    network = in_float32(model, job)
    write(network, job, folder, scratch)
    return network


def in_float32(model: keras.Model, job: TrainingJob) -> keras.Model:
    """Returns a network whose arithmetic is float32, with the weights of one that may be trained in another.

    A lower precision gains nothing at the small batches of a server, and is not computed in on every processor.
    """
    network = networks.build(job, "float32")
    networks.set_weights(network, model.get_weights())
    return network


def write(network: keras.Model, job: TrainingJob, folder: Path, scratch: Path) -> None:
    """Writes a SavedModel.

    Args:
      network: in float32.
      job: its shape and classes, which travel with the model as the asset `dataset.json`.
      folder: where the SavedModel goes.
      scratch: an existing folder for a file that the SavedModel copies.
    """
    asset = scratch / DATASET_ASSET
    asset.write_text(json.dumps({**dataclasses.asdict(job.pictures), "classes": job.classes}, indent=1))
    servable = _Servable(network, job, asset)
    signatures = {
        "serving_default": servable.examples,
        "predict_images": servable.images,
        "predict_pixels": servable.pixels,
    }
    if job.shape[2] in CHANNELS:
        signatures |= {"predict_encoded": servable.encoded, "decode": servable.decoded}
    tf.saved_model.save(servable, str(folder), signatures=signatures)


class OtherNetwork(ConveyorError):
    """The weights of a model do not fit the network."""


def read_weights(folder: Path) -> list[np.ndarray]:
    """Returns the weights in a SavedModel that `save` wrote, in the order of `network.weights`.

    Raises:
      OtherNetwork: the model has no such weights.
    """
    reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    shapes = reader.get_variable_to_shape_map()
    names = [f"_weights/{number}/.ATTRIBUTES/VARIABLE_VALUE" for number in range(len(shapes))]
    weights = [reader.get_tensor(name) for name in names if name in shapes]
    if not weights:
        raise OtherNetwork(f"The model in {folder} was not made by this trainer, so training cannot start from it.")
    return weights


def set_weights(network: keras.Model, weights: Sequence[np.ndarray]) -> None:
    """Gives a network the weights of another of the same layers.

    Raises:
      OtherNetwork: their shapes differ.
    """
    found, wanted = [w.shape for w in weights], [tuple(v.shape) for v in network.weights]
    if found != wanted:
        raise OtherNetwork(
            f"The stable version has weights of shapes {found}, and this network {wanted}: training cannot start "
            "from it. Set training.warm_steps=0 once."
        )
    networks.set_weights(network, weights)


class _Servable(tf.Module):
    """The signatures. All but `decode` return `scores`, `classes` and `label`; see `_reply`.

    The network's weights are attributes and the network is not: found through Keras 3's objects, they could not be
    restored by the loader that TensorFlow Serving uses, and found through both, they would be stored twice.
    """

    def __init__(self, network: keras.Model, job: TrainingJob, asset: Path) -> None:
        super().__init__()
        self._logits = functools.partial(network, training=False)
        self._shape, self._pictures = job.shape, job.pictures
        self._weights = [weight.value for weight in network.weights]  # without the state of dropout's generator
        self._classes = tf.constant(job.classes)
        self._dataset = tf.saved_model.Asset(str(asset))
        self.pixels = tf.function(
            self._predict_pixels,
            input_signature=[tf.TensorSpec([None, *job.shape], tf.uint8, name="images")],
            autograph=False,
        )

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")], autograph=False)
    def examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """Takes serialized tf.Examples, as the ingestion writes them: string [N]."""
        if self._pictures.encoded:
            files = tf.io.parse_example(examples, {"image/encoded": tf.io.FixedLenFeature([], tf.string)})
            return self._predict_pixels(pictures.decode(files["image/encoded"], self._pictures))
        features = tf.io.parse_example(examples, {"image": tf.io.FixedLenFeature([], tf.string)})
        pixels = tf.io.decode_raw(features["image"], tf.uint8, fixed_length=math.prod(self._shape))
        return self._reply(tf.cast(tf.reshape(pixels, [-1, *self._shape]), tf.float32))

    @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, name="images")], autograph=False)
    def images(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Takes images in [0, 1], in any shape that reshapes to [N, height, width, channels]."""
        return self._reply(tf.reshape(images, [-1, *self._shape]) * 255.0)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")], autograph=False)
    def encoded(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """Takes PNG or JPEG files of any size: string [N]; see `trainer.pictures`."""
        return self._predict_pixels(pictures.decode(image_bytes, self._pictures))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")], autograph=False)
    def decoded(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """Takes what `encoded` takes, and returns what the network sees of it: uint8 [N, height, width, channels]."""
        return {"images": pictures.decode(image_bytes, self._pictures)}

    def _predict_pixels(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._reply(tf.cast(images, tf.float32))

    def _reply(self, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns probabilities [N, classes], the classes' names [N, classes] and the likeliest label [N]."""
        scores = tf.nn.softmax(tf.cast(self._logits(pixels), tf.float32))
        names = tf.repeat(self._classes[tf.newaxis], tf.shape(scores)[0], axis=0)
        return {"scores": scores, "classes": names, "label": tf.argmax(scores, axis=1)}
