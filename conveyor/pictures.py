"""Picture files before they are decoded: other kinds become PNG, and what cannot be used is explained."""

import io
import re

import numpy as np
import PIL.Image
import PIL.ImageOps

MAX_PIXELS = 50_000_000  # of one picture: what a telephone makes; decoding it takes some hundreds of MB
MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")  # how PNG and JPEG files begin, which networks decode themselves
CONVERTED = ("GIF", "BMP", "WEBP")
# Others that people bring, and how they begin.
OTHERS = {
    "TIFF": rb"II\*\0|MM\0\*",
    "HEIC": rb"....ftyp(heic|heix|mif1)",
    "AVIF": rb"....ftypavif",
    "JPEG 2000": rb"\0\0\0\x0cjP",
    "PSD": rb"8BPS",
    "PDF": rb"%PDF",
    "SVG": rb"\s*(<\?xml|<svg)",
    "ICO": rb"\x00\x00\x01\x00",
}
KINDS = "PNG, JPEG, GIF, BMP or WebP"


class PictureError(ValueError):
    """A file that is no picture, or one that cannot be used; its text says why."""


def as_png_or_jpeg(content: bytes) -> bytes:
    """Returns a picture file as networks decode it: PNG and JPEG as they are, of others a PNG of the same pixels.

    Of a GIF, and of a WebP with several pictures, it is the first. One that its file says is turned is turned upright.

    Raises:
      PictureError: it is no picture, of a kind that is not supported, damaged, or larger than `MAX_PIXELS`.

    Example:
      >>> file = io.BytesIO()
      >>> PIL.Image.new("RGB", (4, 4), "red").save(file, "BMP")
      >>> as_png_or_jpeg(file.getvalue())[1:4]
      b'PNG'
    """
    if content.startswith(MAGIC):
        return content
    if not content:
        raise PictureError("an empty file")
    try:
        with PIL.Image.open(io.BytesIO(content), formats=CONVERTED) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise PictureError(f"a picture of more than {MAX_PIXELS:,} pixels")
            return as_png(picture)
    except PictureError:
        raise
    except PIL.UnidentifiedImageError:
        kind = next((name for name, begin in OTHERS.items() if re.match(begin, content, re.DOTALL)), None)
        raise PictureError(f"{kind}, which is not supported: convert it" if kind else "something else") from None
    except Exception as error:  # whatever a damaged file makes of a decoder
        raise PictureError(f"a file with this: {error}") from error


def as_png(picture: PIL.Image.Image) -> bytes:
    """Returns an opened picture as a PNG file, turned upright where it says that it is turned.

    Raises:
      PictureError: its pixels have 32 bits, floats or not, which PNG has not.
    """
    if picture.mode in ("F", "I"):
        raise PictureError("a picture whose pixels have 32 bits: give them as an array, of uint8 or of floats")
    file = io.BytesIO()
    _in_colours(PIL.ImageOps.exif_transpose(picture)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _in_colours(picture: PIL.Image.Image) -> PIL.Image.Image:
    """Returns a picture without a palette, which PNG could hold, but not with everything that GIF says of it."""
    if picture.mode in ("1", "L", "LA", "RGB", "RGBA", "I;16", "I;16B"):
        return picture
    if picture.mode.startswith("I;16"):
        return PIL.Image.fromarray(np.asarray(picture).astype("<u2"))  # `convert` would make all above 255 that
    return picture.convert("RGBA" if picture.has_transparency_data else "RGB")


def reason(message: str) -> str:
    """Returns what is wrong with a picture, of an error's message: without TensorFlow's words about where it arose."""
    stated = re.search(r"assertion failed: \[(.*?)\]", message)
    if stated:
        return stated[1]
    lines = [line for line in message.splitlines() if line and not re.match(r"Graph execution|Detected at|\s", line)]
    return re.sub(
        r"\{\{.*?\}\} *|jpeg::[^.]*\. *|,? (?:data )?size \d+| *\[Op:.*", "", lines[0] if lines else message
    ).strip(" .")
