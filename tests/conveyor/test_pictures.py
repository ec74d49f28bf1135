import io

import numpy as np
import PIL.Image
import pytest

from conveyor import pictures
from conveyor.pictures import PictureError, as_png_or_jpeg
from tests.pictures import encode, noise, of_all_kinds, of_converted_kinds

CONVERTED = of_converted_kinds()


@pytest.mark.parametrize("name", CONVERTED)
def test_other_kinds_become_a_png_of_the_same_pixels(name):
    file, seen = CONVERTED[name]
    made = as_png_or_jpeg(file)
    assert made.startswith(pictures.MAGIC[0])
    found = PIL.Image.open(io.BytesIO(made))
    assert np.array_equal(np.asarray(found.convert("RGBA")), np.asarray(seen))


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I;16N"])
def test_pixels_of_sixteen_bits_stay_what_they_are(mode):
    pixels = [0, 100, 255, 256, 513, 40000]
    content = np.array(pixels, ">u2" if mode == "I;16B" else "<u2").tobytes()
    made = PIL.Image.open(io.BytesIO(pictures.as_png(PIL.Image.frombytes(mode, (6, 1), content))))
    assert np.asarray(made).ravel().tolist() == pixels


def test_png_and_jpeg_stay_what_they_are():
    for file in of_all_kinds().values():
        assert as_png_or_jpeg(file) is file


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (b"", "^an empty file$"),
        (b"text", "^something else$"),
        (encode(noise(3, 3, 1), "TIFF"), "^TIFF, which is not supported: convert it$"),
        (encode(noise(30, 30, 3), "WEBP")[:40], "^(a file with this: |something else)"),
        (encode(noise(30, 30, 3), "BMP")[:60], "^a file with this: .*truncated"),
    ],
    ids=["empty", "text", "tiff", "cut off webp", "cut off bmp"],
)
def test_what_cannot_be_used_is_explained(file, reason):
    with pytest.raises(PictureError, match=reason):
        as_png_or_jpeg(file)


def test_a_picture_that_is_too_large_is_not_decoded(monkeypatch):
    monkeypatch.setattr(pictures, "MAX_PIXELS", 100)
    with pytest.raises(PictureError, match="more than 100 pixels"):
        as_png_or_jpeg(encode(noise(11, 10, 3), "GIF"))
