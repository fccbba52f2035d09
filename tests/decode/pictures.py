"""Odd files, made on the spot: a picture in every format and mode, and files that are none."""

from __future__ import annotations

import contextlib
import functools
import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, features


@functools.cache
def base(width: int = 123, height: int = 91) -> Image.Image:
    """A picture with gradients, edges and colour."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    rgb = [127 + 120 * np.sin(x / 9 + k) * np.cos(y / (7 + k)) for k in range(3)]
    pixels = np.stack(rgb, axis=2).astype(np.uint8)
    pixels[height // 4 : height // 2, width // 3 : width // 2] = (250, 20, 90)
    return Image.fromarray(pixels)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    # Copies, because a picture that was saved as JPEG cannot be saved as TIFF after (Pillow 13).
    if "append_images" in options:
        options["append_images"] = [frame.copy() for frame in options["append_images"]]
    image.copy().save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def png(
    width: int,
    height: int,
    rows: bytes,
    depth: int = 8,
    color: int = 2,
    interlace: int = 0,
    extra: bytes = b"",
) -> bytes:
    """A PNG from filtered rows; Pillow writes neither 16-bit RGB nor interlaced ones."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlace)
    body = chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + body


def interlaced_png(pixels: np.ndarray) -> bytes:
    """Adam7: seven smaller pictures, one after the other."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4)]
    passes += [(2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = [
        b"\0" + row.tobytes()
        for top, left, down, right in passes
        for row in pixels[top::down, left::right]
        if row.size
    ]
    return png(pixels.shape[1], pixels.shape[0], b"".join(rows), interlace=1)


def bomb(width: int = 30_000, height: int = 20_000) -> bytes:
    """A PNG of some hundred bytes that says it has 600 million pixels."""
    return png(width, height, b"\0" * 64)


@functools.cache
def large_icon() -> bytes:
    """An icon that says it has 16x16 pixels, and holds a PNG of 100 million, black and white."""
    content = png(10_000, 10_000, bytes(10_000 * 1251), depth=1, color=0)
    return struct.pack("<3H4B2H2I", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(content), 22) + content


@functools.cache
def good(width: int = 123, height: int = 91) -> dict[str, bytes]:
    """Name to file, all of the same picture and all to be decoded."""
    image = base(width, height)
    gray, rgba = image.convert("L"), image.copy()
    rgba.putalpha(gray)
    gray16 = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
    flipped = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    several = {"save_all": True, "append_images": [flipped, gray.convert("RGB")]}
    rotated = Image.Exif()
    rotated[0x0112] = 6
    rgb16 = (np.asarray(image).astype(np.uint16) * 256 + 77).astype(">u2")
    files = {
        "jpeg": saved(image, "JPEG", quality=90),
        "jpeg 4:2:0": saved(image, "JPEG", subsampling=2),
        "jpeg 4:2:2": saved(image, "JPEG", subsampling=1),
        "jpeg 4:4:4": saved(image, "JPEG", subsampling=0),
        "jpeg progressive": saved(image, "JPEG", progressive=True),
        "jpeg gray": saved(gray, "JPEG"),
        "jpeg cmyk": saved(image.convert("CMYK"), "JPEG"),
        "jpeg rgb": saved(image, "JPEG", keep_rgb=True),
        "jpeg rotated": saved(image, "JPEG", exif=rotated),
        "mpo": saved(image, "MPO", **several),
        "png": saved(image, "PNG"),
        "png gray": saved(gray, "PNG"),
        "png alpha": saved(rgba, "PNG"),
        "png gray alpha": saved(rgba.convert("LA"), "PNG"),
        "png palette": saved(image.quantize(64), "PNG"),
        "png palette alpha": saved(image.quantize(64), "PNG", transparency=3),
        "png 1 bit": saved(image.convert("1"), "PNG"),
        "png 16 bit gray": saved(gray16, "PNG"),
        "png 16 bit rgb": png(width, height, b"".join(b"\0" + row.tobytes() for row in rgb16), 16),
        "png interlaced": interlaced_png(np.asarray(image)),
        "png animated": saved(image, "PNG", **several),
        "gif": saved(image, "GIF"),
        "gif animated": saved(image, "GIF", **several),
        "webp": saved(image, "WEBP"),
        "webp lossless": saved(image, "WEBP", lossless=True),
        "webp alpha": saved(rgba, "WEBP"),
        "gif alpha": saved(rgba, "GIF"),
        "tiff alpha": saved(rgba, "TIFF"),
        "webp animated": saved(image, "WEBP", **several),
        "bmp": saved(image, "BMP"),
        "tiff": saved(image, "TIFF"),
        "tiff lzw": saved(image, "TIFF", compression="tiff_lzw"),
        "tiff 16 bit": saved(gray16, "TIFF"),
        "tiff pages": saved(image, "TIFF", **several),
        "jp2": saved(image, "JPEG2000"),
        "ppm": saved(image, "PPM"),
        "pgm 16 bit": saved(gray16, "PPM"),
        "1x1": saved(image.resize((1, 1)), "JPEG"),
        "1x40": saved(image.resize((1, 40)), "PNG"),
        "40x1": saved(image.resize((40, 1)), "JPEG"),
        "small": saved(image.resize((5, 7)), "WEBP"),
    }
    if features.check("avif"):
        files["avif"] = saved(image, "AVIF")
        files["avif alpha"] = saved(rgba, "AVIF")
    # Where the extras heif and jxl are installed.
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
        files["heic"] = saved(image, "HEIF", quality=95)
    with contextlib.suppress(ImportError):
        import pillow_jxl  # noqa: F401

        files["jxl"] = saved(image, "JXL", lossless=True)
    return files


@functools.cache
def bad() -> dict[str, tuple[bytes | None, str]]:
    """Name to file and how its reason begins."""
    files = good()
    noise = np.random.default_rng(5).integers(0, 256, 4000, dtype=np.uint8).tobytes()
    return {
        "none": (None, "missing"),
        "empty": (b"", "decode: empty file"),
        "html": (b"<html><body>404</body></html>", "decode: not an image (looks like HTML"),
        "text": (b"hi", "decode: not an image (first bytes 6869)"),
        "noise": (b"\0" + noise, "decode: not an image (first bytes 00"),
        "svg": (
            b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            "decode: not an image (looks like SVG",
        ),
        "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "decode: not an im"),
        "jpeg start": (b"\xff\xd8\xff\xe0", "decode: broken jpeg header ("),
        "png start": (files["png"][:20], "decode: broken png header ("),
        "no width": (png(0, 4, b"\0" * 9), "decode: broken png header ("),
        "truncated jpeg": (files["jpeg"][:-400], "decode: image file is truncated"),
        "truncated progressive": (files["jpeg progressive"][:-400], "decode: image file is trunc"),
        "truncated png": (files["png"][:-400], "decode: "),
        "truncated gif": (files["gif"][:-400], "decode: "),
        "truncated webp": (files["webp"][:-90], "decode: broken webp header ("),
        "truncated bmp": (files["bmp"][:-400], "decode: image file is truncated"),
        "float tiff": (saved(base().convert("F"), "TIFF"), "decode: 32-bit samples (mode F)"),
        "bomb": (bomb(), "too large: 30000x20000 = 600000000 pixels, limit 89478485"),
        "thread": (png(1, 65_535, b"\0" * 64), "too large: resized "),
    }
