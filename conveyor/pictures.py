"""What there is to say of a picture file that cannot be used."""

import io
import re

import PIL.Image

SUPPORTED = ("PNG", "JPEG")


def other_kind(content: bytes) -> str | None:
    """Returns the kind of a picture that is neither PNG nor JPEG, such as `GIF`; None for one of them, or for none."""
    try:
        with PIL.Image.open(io.BytesIO(content)) as picture:
            kind = "JPEG" if picture.format == "MPO" else picture.format  # a JPEG with others behind it, of a telephone
    except Exception:  # whatever a damaged file makes of a decoder, its kind is not known
        return None
    return None if kind in SUPPORTED else kind


def reason(message: str) -> str:
    """Returns what is wrong with a picture, of an error's message: without TensorFlow's words about where it arose."""
    stated = re.search(r"assertion failed: \[(.*?)\]", message)
    if stated:
        return stated[1]
    lines = [line for line in message.splitlines() if line and not re.match(r"Graph execution|Detected at|\s", line)]
    return re.sub(
        r"\{\{.*?\}\} *|jpeg::[^.]*\. *|,? (?:data )?size \d+| *\[Op:.*", "", lines[0] if lines else message
    ).strip(" .")
