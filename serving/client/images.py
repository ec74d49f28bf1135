"""What a caller has of images, as the signature that takes it and its inputs."""

import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import PIL.Image

    File = bytes | str | os.PathLike[str] | PIL.Image.Image
    Images = np.ndarray | File | Iterable[np.ndarray | File]

ROUNDING = 1e-3  # beyond [0, 1], such as resizing leaves; what is to be caught are pixels up to 255
_TAKEN = "uint8 arrays, floats in [0, 1], or picture files (paths, bytes or PIL images)"


def request_of(images: "Images") -> tuple[str, dict[str, np.ndarray]]:
    """Returns the signature that takes images, and its inputs.

    Args:
      images: as `Client.predict` takes them.

    Raises:
      OSError: a file cannot be read.
      TypeError: they are of another type, or of several.
      ValueError: there is none, a file is no picture, floats are not in [0, 1], or the arrays of a list differ in type
        or shape.
    """
    given = images if isinstance(images, np.ndarray) and images.dtype.kind not in "OSU" else _listed(images)
    if not len(given) if isinstance(given, list) else not given.size:
        raise ValueError("there are no images to ask for")
    if isinstance(given, list) and all(isinstance(item, np.ndarray) for item in given):
        given = _stacked(given)
    if isinstance(given, np.ndarray):
        return _of_array(given)
    files = [_file(item, number) for number, item in enumerate(given)]
    return "predict_encoded", {"image_bytes": np.array([*files, None], dtype=object)[:-1]}


def _listed(images: Any) -> list[Any]:
    if isinstance(images, (bytes, bytearray, memoryview, str, os.PathLike)) or _is_pil(images):
        return [images]
    try:
        if isinstance(images, (Mapping, io.IOBase)):
            raise TypeError
        return list(images)
    except TypeError:
        raise TypeError(f"images are {_TAKEN}, not {type(images).__name__}") from None


def _stacked(arrays: list[np.ndarray]) -> np.ndarray:
    kinds = {(array.dtype.name, array.shape) for array in arrays}
    if len(kinds) > 1:
        listed = ", ".join(sorted(f"{name} {list(shape)}" for name, shape in kinds)[:3])
        raise ValueError(f"the arrays of one request have one type and one shape, not {listed}")
    return np.stack(arrays)


def _of_array(images: np.ndarray) -> tuple[str, dict[str, np.ndarray]]:
    if images.dtype == np.uint8:
        return "predict_pixels", {"images": images}
    if images.dtype.kind != "f":
        hint = "; images.astype('uint8') makes pixels" if images.dtype.kind in "iu" else ""
        raise TypeError(f"images are {_TAKEN}, not an array of {images.dtype}{hint}")
    least, most = images.min(), images.max()
    if not (least >= -ROUNDING and most <= 1 + ROUNDING):  # also where there are NaN
        raise ValueError(
            f"images as floats must lie in [0, 1], and these are from {least:g} to {most:g}; pixels from 0 to 255 are "
            "given as uint8, or divided by 255"
        )
    return "predict_images", {"images": images.astype(np.float32)}


def _file(item: Any, number: int) -> bytes:
    """Returns a picture file as networks decode it."""
    from conveyor.pictures import KINDS, PictureError, as_png, as_png_or_jpeg  # Pillow, which arrays do not need

    name = f"image {number}"
    if isinstance(item, (str, os.PathLike)):
        name, item = str(item), Path(item).read_bytes()
    if not isinstance(item, (bytes, bytearray, memoryview)) and not _is_pil(item):
        raise TypeError(f"images are {_TAKEN}, not {type(item).__name__}")
    try:
        return as_png(item) if _is_pil(item) else as_png_or_jpeg(bytes(item))
    except PictureError as error:
        raise ValueError(f"{name}: expected {KINDS}, found {error}") from error


def _is_pil(item: Any) -> bool:
    return hasattr(item, "save") and hasattr(item, "getbands")  # without Pillow's import
