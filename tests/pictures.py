"""Picture files of all the kinds that people bring."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps

ORIENTATION = 0x0112


def encode(image: PIL.Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(height: int, width: int, channels: int, seed: int = 0) -> PIL.Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return PIL.Image.fromarray(pixels.squeeze(-1) if channels == 1 else pixels)


def turned(image: PIL.Image.Image, orientation: int, **options) -> bytes:
    """Returns a JPEG that says in its EXIF how it is to be turned."""
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    exif[0x010F] = "a camera"  # so that there is more than one entry
    return encode(image, "JPEG", exif=exif, **options)


def low_bit_grey(values: np.ndarray, bits: int, transparent: int | None = None) -> bytes:
    """Returns a grey PNG of 1, 2 or 4 bits a pixel, which Pillow does not write: values [height, width]."""
    height, width = values.shape
    unpacked = ((values[..., np.newaxis] >> np.arange(bits)[::-1]) & 1).reshape(height, -1).astype(np.uint8)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in unpacked)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))]
    chunks += [(b"tRNS", struct.pack(">H", transparent))] if transparent is not None else []
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def of_all_kinds(height: int = 24, width: int = 30) -> dict[str, bytes]:
    """Returns files by a name that says what is special about them."""
    rgb, grey = noise(height, width, 3), noise(height, width, 1)
    palette = rgb.convert("P", palette=PIL.Image.Palette.ADAPTIVE, colors=16)
    depth16 = PIL.Image.fromarray(np.arange(height * width, dtype=np.uint16).reshape(height, width) * 80)
    values = np.indices((height, width)).sum(axis=0)
    return {
        "rgb.png": encode(rgb, "PNG"),
        "grey.png": encode(grey, "PNG"),
        "16 bits.png": encode(depth16, "PNG"),
        "palette.png": encode(palette, "PNG"),
        "palette with one transparent.png": encode(palette, "PNG", transparency=3),
        "grey with one transparent.png": encode(grey, "PNG", transparency=grey.getpixel((0, 0))),
        "alpha.png": encode(noise(height, width, 4), "PNG"),
        "grey alpha.png": encode(PIL.Image.merge("LA", [grey, noise(height, width, 1, seed=1)]), "PNG"),
        "transparent.png": encode(PIL.Image.new("RGBA", (width, height)), "PNG"),
        **{f"{bits} bits.png": low_bit_grey(values % 2**bits, bits) for bits in (1, 2, 4)},
        "2 bits with one transparent.png": low_bit_grey(values % 4, 2, transparent=1),
        "rgb.jpg": encode(rgb, "JPEG", quality=90),
        "grey.jpg": encode(grey, "JPEG"),
        "progressive.jpg": encode(rgb, "JPEG", progressive=True),
        "cmyk.jpg": encode(rgb.convert("CMYK"), "JPEG"),
        **{f"orientation {o}.jpg": turned(rgb, o) for o in range(1, 9)},
    }


def of_converted_kinds(height: int = 24, width: int = 30) -> dict[str, tuple[bytes, PIL.Image.Image]]:
    """Returns files of kinds that become PNG first, and what Pillow sees in them, by a name that says what they are."""
    rgb, alpha = noise(height, width, 3, seed=2), noise(height, width, 4, seed=3)
    palette = rgb.convert("P", palette=PIL.Image.Palette.ADAPTIVE, colors=16)
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = 6
    files = {
        "rgb.bmp": encode(rgb, "BMP"),
        "grey.bmp": encode(rgb.convert("L"), "BMP"),
        "palette.gif": encode(palette, "GIF"),
        "transparent.gif": encode(palette, "GIF", transparency=2),
        "two pictures.gif": encode(palette, "GIF", save_all=True, append_images=[palette.rotate(180)]),
        "lossy.webp": encode(rgb, "WEBP", quality=80),
        "alpha.webp": encode(alpha, "WEBP", lossless=True),
        "two pictures.webp": encode(rgb, "WEBP", save_all=True, append_images=[rgb.rotate(180)], lossless=True),
        "turned.webp": encode(rgb, "WEBP", exif=exif, lossless=True),
    }
    opened = {name: PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(file))) for name, file in files.items()}
    return {name: (file, opened[name].convert("RGBA")) for name, file in files.items()}


def draw_classes(folder: Path, counts: dict[str, int], size: tuple[int, int] = (32, 32), mode: str = "RGB") -> Path:
    """Writes pictures into class folders, each class in a shade of its own; returns the folder.

    Args:
      folder: where the classes' folders are made.
      counts: how many pictures each class has.
      size: width and height, in pixels.
      mode: as Pillow calls it.
    """
    for shade, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = np.asarray(noise(size[1], size[0], 3, seed=1000 * shade + number)) // 2 + shade * 100 % 128
            PIL.Image.fromarray(pixels.astype(np.uint8)).convert(mode).save(folder / name / f"{number:04d}.png")
    return folder
