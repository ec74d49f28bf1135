"""What is done to a picture file before a network sees it: one function, for ingestion and for the exported model.

A GIF, BMP or WebP has become a PNG before, on whatever way it comes: see `conveyor.pictures`.

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

from conveyor.pictures import MAGIC, MAX_PIXELS
from trainer.settings import Pictures

_AT_ONCE = 2  # pictures that are decoded side by side
_PNG, _JPEG = MAGIC
_GREY = (0.299, 0.587, 0.114)
_ORIENTATION, _TIFF_LONG = 0x0112, 4
_HEAD_BYTES, _MAX_SEGMENTS = 2**18, 64  # of a JPEG, in which its orientation is looked for


@functools.cache
def decoder(rules: Pictures) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns `decode` for one set of rules, compiled."""
    return tf.function(
        functools.partial(decode, rules=rules), input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")]
    )


@tf.autograph.experimental.do_not_convert  # which takes 1.5 s, for nothing: but `_orientation`, all is TensorFlow's
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
    header = tf.io.decode_raw(tf.strings.substr(file, 0, 25), tf.uint8)
    with tf.control_dependencies([tf.debugging.Assert(tf.size(header) == 25, ["it ends within its header"])]):
        width, height = _numbers(header[16:20], 4)[0], _numbers(header[20:24], 4)[0]
        depth = tf.cast(header[24], tf.int32)
    with tf.control_dependencies([_small_enough(height, width)]):
        rgba = tf.io.decode_png(file, channels=4)
    # Of less than 8 bits a pixel, TensorFlow does not stretch grey to 8 bits when it makes four channels, and fills the
    # fourth with the largest number of so many bits where the file has no transparent colours.
    rgba = tf.cond(depth < 8, lambda: _of_few_bits(file, rgba, 2**depth - 1), lambda: rgba)
    if rules.shape[2] == 4:
        return rgba
    return tf.cond(tf.reduce_all(rgba[..., 3] == 255), lambda: rgba[..., :3], lambda: _over_background(rgba, rules))


def _of_few_bits(file: tf.Tensor, rgba: tf.Tensor, filling: tf.Tensor) -> tf.Tensor:
    alpha = rgba[..., 3:]
    is_opaque = tf.reduce_all(alpha == tf.cast(filling, tf.uint8))
    alpha = tf.cond(is_opaque, lambda: tf.fill(tf.shape(alpha), tf.constant(255, tf.uint8)), lambda: alpha)
    return tf.concat([tf.io.decode_png(file, channels=3), alpha], axis=2)


def _over_background(rgba: tf.Tensor, rules: Pictures) -> tf.Tensor:
    behind = tf.cast(_background(rules), tf.uint16)

    def mixed(row: tf.Tensor) -> tf.Tensor:
        pixels, opacity = tf.cast(row[:, :3], tf.uint16), tf.cast(row[:, 3:], tf.uint16)
        return tf.cast((pixels * opacity + behind * (255 - opacity) + 127) // 255, tf.uint8)

    # Row by row, for the memory: what is mixed takes twice two bytes a value.
    return tf.map_fn(mixed, rgba, fn_output_signature=tf.TensorSpec([None, 3], tf.uint8), parallel_iterations=1)


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
    """Returns the EXIF orientation of a JPEG file, 1 to 8; 1, which is upright, where it says none.

    It stands, as EXIF wants it, in one of the segments for applications, before the tables and the picture itself.
    """
    content = tf.io.decode_raw(tf.strings.substr(file, 0, _HEAD_BYTES), tf.uint8)
    size = tf.size(content)
    place, found = 2, tf.constant(1, tf.int64)
    # Segments: 0xFF, perhaps more than once, a marker, the length of the rest in two bytes.
    for _ in tf.range(_MAX_SEGMENTS):
        if place + 4 > size or content[place] != 0xFF:
            break
        marker = content[place + 1]
        if marker == 0xFF:
            place += 1
        elif marker == 0xE1 and tf.strings.substr(file, place + 4, 6) == b"Exif\0\0":
            found = _orientation_of_tiff(content[place + 10 : place + 2 + _length(content, place)])
            break
        elif (marker >= 0xE0 and marker <= 0xEF) or marker == 0xFE:
            place += 2 + _length(content, place)
        else:
            break
    return found


def _length(content: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    return tf.cast(_numbers(content[place + 2 : place + 4], 2)[0], tf.int32)


def _orientation_of_tiff(tiff: tf.Tensor) -> tf.Tensor:
    """Returns the orientation in the first directory of a TIFF structure: uint8 [bytes]."""
    tiff = tf.concat([tiff, tf.zeros([10], tf.uint8)], 0)  # so that a short one has a header and a directory
    is_little = tiff[0] == ord("I")  # Intel's order of bytes, else Motorola's
    size = tf.size(tiff, tf.int64)
    start = tf.minimum(_numbers(tiff[4:8], 4, is_little)[0], size - 2)
    count = tf.minimum(_numbers(tiff[start : start + 2], 2, is_little)[0], (size - start - 2) // 12)
    entries = tf.reshape(tiff[start + 2 : start + 2 + 12 * count], [-1, 12])
    tags, kinds = _numbers(entries[:, :2], 2, is_little), _numbers(entries[:, 2:4], 2, is_little)
    short, long = _numbers(entries[:, 8:10], 2, is_little), _numbers(entries[:, 8:], 4, is_little)
    values = tf.boolean_mask(tf.where(kinds == _TIFF_LONG, long, short), tags == _ORIENTATION)
    value = tf.concat([values, [1]], 0)[0]
    return tf.where((value >= 1) & (value <= 8), value, 1)


def _numbers(values: tf.Tensor, count: int, is_little: tf.Tensor | bool = False) -> tf.Tensor:
    """Returns the numbers that `count` bytes each make, in either order: uint8 [N * count] to int64 [N]."""
    powers = [256**n for n in range(count)]
    factors = tf.where(is_little, tf.constant(powers, tf.int64), tf.constant(powers[::-1], tf.int64))
    return tf.reduce_sum(tf.cast(tf.reshape(values, [-1, count]), tf.int64) * factors, axis=1)


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
