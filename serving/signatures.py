"""The signatures of every model that Conveyor pushes, and how a request to each is made of images."""

import io
from collections.abc import Callable

import numpy as np
import PIL.Image
import tensorflow as tf

OUTPUTS = ("scores", "classes", "label")
DRAWN = (1, 3, 4)  # channels that a PNG may have


def examples(images: np.ndarray) -> np.ndarray:
    """Returns serialized tf.Examples of pixels, and of a PNG for models that want a file: bytes [N]."""

    def serialize(image: np.ndarray, file: bytes | None) -> bytes:
        example = tf.train.Example()
        example.features.feature["image"].bytes_list.value.append(image.tobytes())
        if file is not None:
            example.features.feature["image/encoded"].bytes_list.value.append(file)
        return example.SerializeToString()

    files = encoded(images) if images.shape[-1] in DRAWN else [None] * len(images)
    return np.array([serialize(image, file) for image, file in zip(images, files, strict=True)], dtype=object)


def encoded(images: np.ndarray) -> np.ndarray:
    """Returns PNG files: bytes [N]."""

    def encode(image: np.ndarray) -> bytes:
        file = io.BytesIO()
        PIL.Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(file, "PNG")
        return file.getvalue()

    return np.array([encode(image) for image in images], dtype=object)


def unit_floats(images: np.ndarray) -> np.ndarray:
    """Returns images in [0, 1], each a row: float32 [N, height * width * channels]."""
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)


# Signature name -> (the name of its input, the function from images, uint8 [N, height, width, channels], to it).
SIGNATURES: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "serving_default": ("examples", examples),
    "predict_images": ("images", unit_floats),
    "predict_pixels": ("images", lambda images: images),
    "predict_encoded": ("image_bytes", encoded),
}
DECODE = "decode"  # the signature that returns what the network sees of picture files: `image_bytes` to `images`
