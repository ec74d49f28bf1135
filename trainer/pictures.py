"""What is done to a picture file before a network sees it: one function, for ingestion and for the exported model.

A file goes through these steps, in TensorFlow's own operations, so that every way to the network gives the same pixels:

1. PNG or JPEG is decoded to 8 bits a channel: of 16 bits the upper 8, of CMYK what it is in RGB.
2. A JPEG is turned as its EXIF orientation says.
3. What is transparent shows the background, unless the network takes the fourth channel itself.
4. The picture is brought to the network's size: see `Pictures.resize`. Bilinear, with antialiasing.
5. For one channel the colours become grey: 0.299 red + 0.587 green + 0.114 blue (ITU-R BT.601).

Sources: EXIF 2.32, tag 0x0112, http://www.cipa.jp/std/documents/e/DC-008-Translation-2019-E.pdf; PNG,
https://www.w3.org/TR/png-3/.
"""

import functools
from collections.abc import Callable

import tensorflow as tf

from trainer.settings import Pictures

MAX_PIXELS = 50_000_000  # of one picture: what a telephone makes, and 200 MB when it is decoded
CHANNELS = (1, 3, 4)  # grey, RGB, RGBA: the networks whose pictures can be decoded
_AT_ONCE = 2  # pictures that are decoded side by side
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_GREY = (0.299, 0.587, 0.114)
_ORIENTATION = 0x0112


@functools.cache
def decoder(rules: Pictures) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns `decode` for one set of rules, compiled."""
    return tf.function(
        functools.partial(decode, rules=rules), input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")]
    )


def decode(files: tf.Tensor, rules: Pictures) -> tf.Tensor:
    """Returns the pixels of picture files.

    Args:
      files: PNG or JPEG, of any size up to `MAX_PIXELS`: string [N].
      rules: the network's image shape, of 1, 3 or 4 channels, and how a picture is brought to it.

    Returns:
      uint8 [N, height, width, channels].

    Raises:
      tf.errors.InvalidArgumentError: a file is no whole PNG or JPEG, or is too large; see `conveyor.pictures.reason`.
    """
    one = functools.partial(_decode_one, rules=rules)
    specification = tf.TensorSpec(rules.shape, tf.uint8)
    return tf.map_fn(one, files, fn_output_signature=specification, parallel_iterations=_AT_ONCE)


def _decode_one(file: tf.Tensor, rules: Pictures) -> tf.Tensor:
    is_png = tf.strings.substr(file, 0, len(_PNG)) == _PNG
    is_jpeg = tf.strings.substr(file, 0, len(_JPEG)) == _JPEG
    with tf.control_dependencies([tf.debugging.Assert(is_png | is_jpeg, ["it is neither PNG nor JPEG"])]):
        file = tf.identity(file)
    pixels = tf.cond(is_png, lambda: _png(file, rules), lambda: _jpeg(file, rules))
    return _mode(_geometry(pixels, rules), rules)


def _png(file: tf.Tensor, rules: Pictures) -> tf.Tensor:
    header = tf.cast(tf.io.decode_raw(tf.strings.substr(file, 0, 25), tf.uint8), tf.int64)
    with tf.control_dependencies([tf.debugging.Assert(tf.size(header) == 25, ["it ends within its header"])]):
        width, height, depth = _numbers(header[16:20], 4)[0], _numbers(header[20:24], 4)[0], header[24]
    with tf.control_dependencies([_small_enough(height, width)]):
        rgba = tf.io.decode_png(file, channels=4)
    # Of less than 8 bits a pixel, TensorFlow makes four channels rightly only where the file has transparent colours,
    # and then without stretching grey to 8 bits.
    is_low = depth < 8
    opaque = is_low & ~_has_transparent_colours(file)
    pixels = tf.cond(is_low, lambda: tf.io.decode_png(file, channels=3), lambda: rgba[..., :3])
    alpha = tf.cond(opaque, lambda: tf.fill(tf.shape(rgba[..., 3:]), tf.constant(255, tf.uint8)), lambda: rgba[..., 3:])
    if rules.shape[2] == 4:
        return tf.concat([pixels, alpha], axis=2)
    return tf.cond(tf.reduce_all(alpha == 255), lambda: pixels, lambda: _over_background(pixels, alpha, rules))


def _has_transparent_colours(file: tf.Tensor) -> tf.Tensor:
    """Whether a PNG has the chunk tRNS."""
    content = tf.cast(tf.io.decode_raw(file, tf.uint8), tf.int64)
    place, found = tf.constant(8, tf.int64), tf.constant(False)
    # Chunks: the length of the data in four bytes, a name, the data, four bytes of a checksum. IDAT is the picture.
    while place + 8 <= tf.size(content, tf.int64):
        name = tf.strings.substr(file, tf.cast(place + 4, tf.int32), 4)
        if name == b"IDAT":
            break
        found = found | (name == b"tRNS")
        place += 12 + _numbers(content[place : place + 4], 4)[0]
    return found


def _over_background(pixels: tf.Tensor, alpha: tf.Tensor, rules: Pictures) -> tf.Tensor:
    opacity, behind = tf.cast(alpha, tf.uint16), tf.cast(_background(rules), tf.uint16)
    mixed = tf.cast(pixels, tf.uint16) * opacity + behind * (255 - opacity)  # at most 255 times 255
    return tf.cast((mixed + 127) // 255, tf.uint8)


def _jpeg(file: tf.Tensor, rules: Pictures) -> tf.Tensor:
    size = tf.io.extract_jpeg_shape(file, output_type=tf.int64)
    with tf.control_dependencies([_small_enough(size[0], size[1])]):
        # As other decoders do it; the default is faster, and up to 5 of 255 away.
        pixels = tf.io.decode_jpeg(file, channels=3, dct_method="INTEGER_ACCURATE")
    pixels = _turned(pixels, _orientation(file))
    if rules.shape[2] == 4:
        return tf.concat([pixels, tf.fill(tf.concat([tf.shape(pixels)[:2], [1]], 0), tf.constant(255, tf.uint8))], 2)
    return pixels


def _small_enough(height: tf.Tensor, width: tf.Tensor) -> tf.Operation:
    return tf.debugging.Assert(height * width <= MAX_PIXELS, [f"it has more than {MAX_PIXELS:,} pixels"])


def _turned(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Returns a picture upright: EXIF's orientations are a transposition or none, then a mirror in either direction."""
    o = orientation
    pixels = tf.cond(o >= 5, lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
    pixels = tf.cond((o == 2) | (o == 3) | (o == 6) | (o == 7), lambda: tf.reverse(pixels, [1]), lambda: pixels)
    return tf.cond((o == 3) | (o == 4) | (o == 7) | (o == 8), lambda: tf.reverse(pixels, [0]), lambda: pixels)


@tf.function(reduce_retracing=True)
def _orientation(file: tf.Tensor) -> tf.Tensor:
    """Returns the EXIF orientation of a JPEG file, 1 to 8; 1, which is upright, where it says none."""
    content = tf.cast(tf.io.decode_raw(file, tf.uint8), tf.int64)
    place, found = tf.constant(2, tf.int64), tf.constant(1, tf.int64)
    # Segments: 0xFF, a marker, the length of the rest in two bytes. 0xDA begins the picture itself.
    while place + 4 <= tf.size(content, tf.int64) and content[place] == 0xFF and content[place + 1] != 0xDA:
        length = _numbers(content[place + 2 : place + 4], 2)[0]
        segment = content[place + 4 : place + 2 + length]
        is_exif = content[place + 1] == 0xE1 and tf.strings.substr(file, tf.cast(place + 4, tf.int32), 6) == b"Exif\0\0"
        if is_exif:
            found = _orientation_of_tiff(segment[6:])
            place = tf.size(content, tf.int64)
        else:
            place += 2 + length
    return found


def _orientation_of_tiff(tiff: tf.Tensor) -> tf.Tensor:
    """Returns the orientation in the first directory of a TIFF structure: int64 [bytes]."""
    tiff = tf.concat([tiff, tf.zeros([10], tf.int64)], 0)  # so that a short one has a header and a directory
    is_little = tiff[0] == ord("I")  # Intel's order of bytes, else Motorola's
    size = tf.size(tiff, tf.int64)
    start = tf.minimum(_numbers(tiff[4:8], 4, is_little)[0], size - 2)
    count = tf.minimum(_numbers(tiff[start : start + 2], 2, is_little)[0], (size - start - 2) // 12)
    entries = tf.reshape(tiff[start + 2 : start + 2 + 12 * count], [-1, 12])
    tags, values = _numbers(entries[:, :2], 2, is_little), _numbers(entries[:, 8:10], 2, is_little)
    value = tf.concat([tf.boolean_mask(values, tags == _ORIENTATION), [1]], 0)[0]
    return tf.where((value >= 1) & (value <= 8), value, 1)


def _numbers(values: tf.Tensor, count: int, is_little: tf.Tensor | bool = False) -> tf.Tensor:
    """Returns the numbers that each `count` bytes make, most significant first or last: int64 [N * count] to [N]."""
    powers = [256**n for n in range(count)]
    factors = tf.where(is_little, tf.constant(powers, tf.int64), tf.constant(powers[::-1], tf.int64))
    return tf.reduce_sum(tf.reshape(values, [-1, count]) * factors, axis=1)


def _geometry(pixels: tf.Tensor, rules: Pictures) -> tf.Tensor:
    """Returns a picture in the network's height and width: float32 [height, width, channels]."""
    if rules.resize == "squash":
        return tf.image.resize(pixels, rules.shape[:2], antialias=True)
    height, width = (tf.constant(size, tf.int64) for size in rules.shape[:2])
    rows, columns = tf.unstack(tf.shape(pixels, tf.int64)[:2])
    is_wide = columns * height >= rows * width  # wider than the network's images
    if rules.resize == "crop":
        cut_rows = tf.where(is_wide, rows, tf.maximum(columns * height // width, 1))
        cut_columns = tf.where(is_wide, tf.maximum(rows * width // height, 1), columns)
        top, left = (rows - cut_rows) // 2, (columns - cut_columns) // 2
        middle = pixels[top : top + cut_rows, left : left + cut_columns]
        return tf.image.resize(middle, rules.shape[:2], antialias=True)
    new_rows = tf.where(is_wide, tf.maximum(rows * width // columns, 1), height)
    new_columns = tf.where(is_wide, width, tf.maximum(columns * height // rows, 1))
    small = tf.image.resize(pixels, tf.cast(tf.stack([new_rows, new_columns]), tf.int32), antialias=True)
    behind = tf.cast(_background(rules), tf.float32)
    top, left = (height - new_rows) // 2, (width - new_columns) // 2
    around = tf.stack([top, height - new_rows - top, left, width - new_columns - left, 0, 0])
    return tf.pad(small - behind, tf.reshape(around, [3, 2])) + behind


def _mode(pixels: tf.Tensor, rules: Pictures) -> tf.Tensor:
    if rules.shape[2] == 1:
        pixels = tf.reduce_sum(pixels * tf.constant(_GREY), axis=-1, keepdims=True)
    return tf.ensure_shape(tf.saturate_cast(tf.round(pixels), tf.uint8), rules.shape)


def _background(rules: Pictures) -> tf.Tensor:
    value = 255 if rules.background == "white" else 0
    return tf.constant([value] * 3 + ([255] if rules.shape[2] == 4 else []))
