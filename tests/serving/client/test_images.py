import io

import numpy as np
import PIL.Image
import pytest

from serving.client.images import request_of

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 8, 6, 3), np.uint8)


@pytest.fixture
def path(tmp_path):
    PIL.Image.fromarray(PIXELS[0]).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_arrays_go_to_the_signature_of_their_type():
    assert request_of(PIXELS) == ("predict_pixels", {"images": PIXELS})
    signature, inputs = request_of(PIXELS.astype(np.float64) / 255)
    assert (signature, inputs["images"].dtype) == ("predict_images", np.float32)
    signature, inputs = request_of(list(PIXELS))
    assert signature == "predict_pixels"
    assert np.array_equal(inputs["images"], PIXELS)


def test_a_file_is_a_path_its_bytes_or_an_open_picture(path):
    with PIL.Image.open(path) as opened:
        given = [str(path), path, path.read_bytes(), opened, opened.convert("CMYK"), opened.convert("P")]
        signature, inputs = request_of(given)
    assert signature == "predict_encoded"
    assert inputs["image_bytes"].shape == (6,)
    decoded = [np.asarray(PIL.Image.open(io.BytesIO(file)).convert("RGB")) for file in inputs["image_bytes"]]
    assert all(np.array_equal(pixels, PIXELS[0]) for pixels in decoded[:4])
    assert all(pixels.shape == (8, 6, 3) for pixels in decoded)


def test_one_file_needs_no_list(path):
    content = path.read_bytes()
    for one in (str(path), path, content, bytearray(content), memoryview(content), PIL.Image.fromarray(PIXELS[0])):
        assert request_of(one)[1]["image_bytes"].shape == (1,)


def test_files_may_be_in_an_array_as_a_data_frame_has_them(path):
    content = path.read_bytes()
    for files in (np.array([content, content], dtype=object), np.array([content]), np.array([str(path)])):
        signature, inputs = request_of(files)
        assert (signature, set(inputs["image_bytes"])) == ("predict_encoded", {content})


def test_what_rounding_leaves_beyond_the_range_is_taken():
    assert request_of(np.array([[-1e-7, 1.0000001]]))[0] == "predict_images"


def test_16_bits_are_sent_as_they_are():
    _, inputs = request_of(PIL.Image.fromarray(np.full((2, 2), 51400, np.uint16)))
    assert (np.asarray(PIL.Image.open(io.BytesIO(inputs["image_bytes"][0]))) == 51400).all()


def test_an_open_picture_is_sent_upright(tmp_path):
    turned = PIL.Image.fromarray(PIXELS[0])
    turned.getexif()[0x0112] = 6
    _, inputs = request_of(turned)
    assert PIL.Image.open(io.BytesIO(inputs["image_bytes"][0])).size == (8, 6)  # from 6 x 8


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([], ValueError, "there are no images"),
        (PIXELS[:0], ValueError, "there are no images"),
        (None, TypeError, "not NoneType"),
        (7, TypeError, "not int"),
        ([7], TypeError, "not int"),
        ({"a": 1}, TypeError, "not dict"),
        (io.BytesIO(b"x"), TypeError, "not BytesIO"),
        ([PIXELS[0], b"x"], TypeError, "not ndarray"),
        ([b"no picture"], ValueError, "image 0: expected PNG, JPEG, GIF, BMP or WebP, found something else"),
        ([__file__], ValueError, r"test_images.py: expected PNG, .* found something else"),
        (PIXELS > 7, TypeError, "not an array of bool$"),
        (PIXELS.astype(np.int64), TypeError, r"not an array of int64; images.astype\('uint8'\)"),
        ([PIXELS[0], PIXELS[0, 1:]], ValueError, r"not uint8 \[7, 6, 3\], uint8 \[8, 6, 3\]"),
        (PIXELS.astype(np.float32), ValueError, r"must lie in \[0, 1\], and these are from 0 to 255"),
        (np.array([[0.5, np.nan]]), ValueError, "from nan to nan"),
        (np.array([[0.5, 1e39]]), ValueError, "from 0.5 to 1e\\+39"),
        (PIL.Image.fromarray(np.zeros((2, 2), np.float32)), ValueError, "whose pixels have 32 bits"),
        (PIL.Image.fromarray(np.zeros((2, 2), np.int32)), ValueError, "whose pixels have 32 bits"),
        (["nowhere.png"], FileNotFoundError, "nowhere.png"),
    ],
)
def test_what_cannot_be_asked_is_told(images, error, message):
    with pytest.raises(error, match=message):
        request_of(images)
