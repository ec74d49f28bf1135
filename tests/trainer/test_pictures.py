import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from conveyor.pictures import reason
from tests.pictures import encode, noise, of_all_kinds, turned
from trainer import pictures
from trainer.settings import Pictures

ROOT = Path(__file__).parents[2]
FILES = of_all_kinds()
TRANSPARENT_GREY = FILES.pop("2 bits with one transparent.png")  # which Pillow takes for opaque


def decode(*files, shape, **rules):
    return pictures.decoder(Pictures(shape, **rules))(tf.constant(files)).numpy()


def by_pillow(file, background):
    """Returns what another decoder makes of a file: uint8 [height, width, 4]."""
    image = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(file)))
    if image.mode.startswith("I"):
        grey = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
        image = PIL.Image.fromarray(grey)
    rgba = np.asarray(image.convert("RGBA")).astype(int)
    alpha = rgba[..., 3:]
    return (rgba[..., :3] * alpha + background * (255 - alpha) + 127) // 255


@pytest.mark.parametrize("background", ["white", "black"])
@pytest.mark.parametrize("name", FILES)
def test_a_picture_is_what_other_decoders_make_of_it(name, background):
    expected = by_pillow(FILES[name], 255 if background == "white" else 0)
    (found,) = decode(FILES[name], shape=(*expected.shape[:2], 3), background=background)
    assert abs(found.astype(int) - expected).max() <= (1 if "cmyk" in name else 0)  # of CMYK, decoders round otherwise


@pytest.mark.parametrize("name", [name for name in FILES if "cmyk" not in name])
def test_a_network_of_four_channels_gets_the_transparency(name):
    image = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(FILES[name])))
    (found,) = decode(FILES[name], shape=(image.height, image.width, 4))
    if image.mode.startswith("I"):
        image = PIL.Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    assert np.array_equal(found, np.asarray(image.convert("RGBA")))


def test_grey_of_few_bits_may_be_transparent():
    (found,) = decode(TRANSPARENT_GREY, shape=(24, 30, 4))
    values = np.indices((24, 30)).sum(axis=0) % 4
    assert np.array_equal(found[..., :3], np.repeat(values[..., np.newaxis] * 85, 3, axis=2))
    assert np.array_equal(found[..., 3], np.where(values == 1, 0, 255))


def test_colours_become_grey_by_their_brightness():
    (found,) = decode(encode(noise(5, 4, 3), "PNG"), shape=(5, 4, 1))
    expected = np.asarray(noise(5, 4, 3)) @ [0.299, 0.587, 0.114]
    assert abs(found[..., 0] - expected).max() <= 0.5001
    grey = PIL.Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    assert np.array_equal(decode(encode(grey, "PNG"), shape=(16, 16, 1))[0, ..., 0], np.asarray(grey))


# A picture of 40 x 20 pixels, red, green, blue and grey from left to right, for a network of 10 x 10.
STRIPES = np.repeat(np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [90, 90, 90]], np.uint8), 10, axis=0)[np.newaxis]
WIDE = encode(PIL.Image.fromarray(np.repeat(STRIPES, 20, axis=0)), "PNG")
HIGH = encode(PIL.Image.fromarray(np.repeat(STRIPES, 20, axis=0).transpose(1, 0, 2)), "PNG")


@pytest.mark.parametrize("turn", [False, True], ids=["wide", "high"])
def test_a_picture_of_another_shape_is_squashed_cropped_or_padded(turn):
    file = HIGH if turn else WIDE
    squashed, cropped, padded = (
        decode(file, shape=(10, 10, 3), resize=resize, background="black")[0] for resize in ("squash", "crop", "pad")
    )
    if turn:
        squashed, cropped, padded = (image.transpose(1, 0, 2) for image in (squashed, cropped, padded))
    assert (squashed[:, [0, 9]] == [[255, 0, 0], [90, 90, 90]]).all()
    assert (cropped[:, [0, 9]] == [[0, 255, 0], [0, 0, 255]]).all()
    assert (padded[:2] == 0).all()
    assert (padded[-3:] == 0).all()
    assert (padded[2:7, 0] == (255, 0, 0)).all()
    white = decode(file, shape=(10, 10, 3), resize="pad")[0]
    assert (white[0, 0] == 255).all()
    opaque = decode(file, shape=(10, 10, 4), resize="pad")[0]
    assert (opaque[0, 0] == 255).all()


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (7, 9), (28, 28)], ids=str)
def test_any_size_is_brought_to_the_networks(resize, size):
    image = PIL.Image.new("RGB", size[::-1], (10, 20, 30))
    found = decode(encode(image, "PNG"), shape=(28, 28, 3), resize=resize)[0]
    assert (found[13, 13] == (10, 20, 30)).all()
    if resize != "pad":
        assert (found == (10, 20, 30)).all()


def test_large_pictures_are_made_smaller_by_averaging():
    checkered = (np.indices((280, 280)).sum(axis=0) % 2 * 255).astype(np.uint8)
    found = decode(encode(PIL.Image.fromarray(checkered), "PNG"), shape=(28, 28, 1))
    assert abs(found.astype(int) - 127).max() <= 3


BAD = {
    "empty": (b"", "it is neither PNG nor JPEG"),
    "gif": (encode(noise(3, 3, 1), "GIF"), "it is neither PNG nor JPEG"),
    "cut off in the header": (FILES["rgb.png"][:24], "it ends within its header"),
    "cut off": (FILES["rgb.png"][:200], "Invalid PNG data"),
    "cut off jpeg": (FILES["rgb.jpg"][:-200], "Invalid JPEG data or crop window"),
    "no jpeg": (b"\xff\xd8\xff", "Invalid JPEG data"),
    "large png": (
        FILES["rgb.png"][:16] + struct.pack(">II", 10_000, 5_001) + FILES["rgb.png"][24:],
        "it has more than 50,000,000 pixels",
    ),
    "large jpeg": (
        (jpeg := FILES["rgb.jpg"])[: (at := jpeg.index(b"\xff\xc0") + 5)]
        + struct.pack(">HH", 10_000, 5_001)
        + jpeg[at + 4 :],
        "it has more than 50,000,000 pixels",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_a_file_is_said_in_few_words(name):
    file, why = BAD[name]
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        decode(FILES["rgb.png"], file, shape=(8, 8, 3))
    assert reason(error.value.message) == why


def orientation(file):
    return int(pictures._orientation(tf.constant(file)))


@given(st.binary(max_size=60))
def test_whatever_is_in_an_exif_block_there_is_an_orientation(content):
    exif = b"Exif\0\0" + content
    file = b"\xff\xd8\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif + FILES["rgb.jpg"][2:]
    assert 1 <= orientation(file) <= 8


def jpeg_head(*segments):
    """Returns the beginning of a JPEG: pairs of a marker and its data."""
    return b"\xff\xd8" + b"".join(
        b"\xff" + bytes([marker]) + struct.pack(">H", 2 + len(data)) + data for marker, data in segments
    )


def exif(order, value, kind=3, too_many=0):
    """Returns an EXIF block of two entries: a SHORT or LONG orientation behind another tag."""
    number = struct.pack(f"{order}I", value) if kind == 4 else struct.pack(f"{order}HH", value, 0)
    entries = [struct.pack(f"{order}HHI", 0x010F, 2, 1) + b"abcd", struct.pack(f"{order}HHI", 0x0112, kind, 1) + number]
    tiff = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 10) + b"??"
    return b"Exif\0\0" + tiff + struct.pack(f"{order}H", len(entries) + too_many) + b"".join(entries)


REST = FILES["rgb.jpg"][2:]


@pytest.mark.parametrize("order", ["<", ">"], ids=["little endian", "big endian"])
@pytest.mark.parametrize("kind", [3, 4], ids=["short", "long"])
@pytest.mark.parametrize(("value", "expected"), [(6, 6), (0, 1), (9, 1)])
@pytest.mark.parametrize("too_many", [0, 3, 60_000])
def test_an_orientation_is_found_behind_other_segments(order, kind, value, expected, too_many):
    block = exif(order, value, kind, too_many)
    segments = [(0xE0, b"JFIF\0"), (0xFE, b"a comment"), (0xE1, b"http://ns.adobe.com/xap/1.0/\0"), (0xE1, block)]
    assert orientation(jpeg_head(*segments) + REST) == expected


def test_bytes_that_fill_up_before_a_marker_are_passed_over():
    whole = jpeg_head((0xE0, b"JFIF\0"), (0xE1, exif(">", 6)))
    at = whole.index(b"\xff\xe1")
    assert orientation(whole[:at] + b"\xff\xff" + whole[at:] + REST) == 6


def test_segments_without_an_end_are_not_looked_through():
    many = [(0xFE, b"")] * 10_000
    assert orientation(jpeg_head(*many[:60], (0xE1, exif("<", 6))) + REST) == 6
    assert orientation(jpeg_head(*many, (0xE1, exif("<", 6))) + REST) == 1
    assert orientation(jpeg_head((0xDB, bytes(64)), (0xE1, exif("<", 6))) + REST) == 1  # behind the first table


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_chunk_of_transparent_colours_that_says_none_makes_nothing_transparent(bits):
    file = FILES[f"{bits} bits.png"]
    chunk = b"tRNS" + b""
    chunk = struct.pack(">I", 0) + chunk + struct.pack(">I", zlib.crc32(chunk))
    at = file.index(b"IDAT") - 4
    (found,) = decode(file[:at] + chunk + file[at:], shape=(24, 30, 4))
    assert (found[..., 3] == 255).all()


@pytest.mark.slow
def test_the_memory_that_a_large_picture_takes_is_bounded():
    """A picture of as many pixels as may be, with an alpha channel, in a process of its own."""
    code = """
import io, resource, tensorflow as tf, PIL.Image
from trainer import pictures
from trainer.settings import Pictures
file = io.BytesIO()
PIL.Image.new("RGBA", (7000, 7000), (10, 20, 30, 128)).save(file, "PNG", compress_level=1)
decode = pictures.decoder(Pictures((8, 8, 3)))
small = io.BytesIO()
PIL.Image.new("RGBA", (70, 70), (10, 20, 30, 128)).save(small, "PNG")
decode(tf.constant([small.getvalue()]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pixels = decode(tf.constant([file.getvalue()])).numpy()
assert (pixels == [132, 137, 142]).all(), pixels
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 600  # MiB: the picture with its alpha channel is 187, and without it 140


def test_an_orientation_without_a_picture_is_none():
    for file in (b"", b"\xff\xd8", b"\xff\xd8\xff\xe1", b"\xff\xd8\xff\xe1\x00\x00", turned(noise(3, 3, 3), 6)[:30]):
        assert orientation(file) == 1
