"""Pixels as users of timm and open_clip get them: Pillow's, as RGB, on white."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from nemo_image_curate.decode import png
from nemo_image_curate.decode.header import (
    DEFAULT_MAX_PIXELS,
    as_image_error,
    check_pixels,
    header_of,
    open_image,
)
from nemo_image_curate.decode.jpeg import with_end
from nemo_image_curate.errors import ImageError

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

# Pixels that are converted at once.
_BLOCK_PIXELS = 2**20
# Pillow's decoders count the bits of a row, up to 64 for each pixel, in a C int.
_WIDEST = 2**31 // 64 - 8


def decode_image(data: bytes | memoryview, max_pixels: int = DEFAULT_MAX_PIXELS) -> ImageFile:
    """The picture in some bytes as Pillow has it, decoded, in its own mode.

    Parameters
    ----------
    data : bytes or memoryview
        The encoded image; one that lacks pixels is an error.
    max_pixels : int
        Larger images are refused before they are decoded.

    Raises
    ------
    ImageError
        With a short reason.
    """
    image = open_image(data)
    check_pixels(header_of(image), max_pixels)
    return loaded(image, data)


def loaded(image: ImageFile, data: bytes | memoryview) -> ImageFile:
    """An image that was opened from some bytes, with its pixels.

    Raises
    ------
    ImageError
        With a short reason.
    """
    with as_image_error():
        if image.format in ("JPEG", "MPO"):
            ended = with_end(data)
            if ended.was_missing:
                image = open_image(ended.data)
        try:
            image.load()
        except MemoryError as error:
            if image.width > _WIDEST:
                raise ImageError(f"rows of {image.width} pixels") from error
            raise
        except (OSError, SyntaxError, ValueError):
            if (shorter := png.without_notes(data)) is None:
                raise
            image = open_image(shorter)
            image.load()
    return image


def decode_rgb(
    data: bytes | memoryview,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    orientation: str = "stored",
) -> np.ndarray:
    """The pixels of ``PIL.Image.open(data).convert("RGB")``, with what is transparent on white.

    Of an animation this is the first frame. It differs from Pillow's in two things. With an alpha
    of a in 0 to 255, a colour of c becomes (c a + 255 (255 - a)) / 255, rounded to the nearest:
    Pillow drops the alpha, which leaves black, or whatever a program wrote there. And 16-bit gray
    keeps its high byte, as Pillow itself does with 16-bit RGB, where its own ``convert`` would
    turn nearly all of it white.

    Parameters
    ----------
    data : bytes or memoryview
        The encoded image; one that lacks pixels is an error.
    max_pixels : int
        Larger images are refused before they are decoded.
    orientation : {"stored", "exif"}
        Whether the picture stays as it is stored, or is turned as EXIF says.

    Returns
    -------
    numpy.ndarray, shape (height, width, 3), uint8
        Writable.

    Raises
    ------
    ImageError
        With a short reason.
    """
    image = open_image(data)
    header = header_of(image, data, orientation)
    check_pixels(header, max_pixels)
    return turned(rgb_pixels(loaded(image, data)), header.turn)


def rgb_pixels(image: Image.Image) -> np.ndarray:
    """The pixels of a decoded image, as `decode_rgb` gives them; not turned.

    Raises
    ------
    ImageError
        With a short reason.
    """
    with as_image_error():
        image.load()
        if _is_16_bit_gray(image):
            return _in_blocks(image, 3, lambda block: _high_bytes(block)[:, :, None])
        _refuse_32_bit(image)
        if image.has_transparency_data:
            return _in_blocks(image, 3, _on_white)
        return _in_blocks(image, 3, lambda block: np.asarray(block.convert("RGB")))


def rgba_pixels(image: Image.Image) -> np.ndarray:
    """The pixels of a decoded image with their alpha, shape (height, width, 4), uint8.

    Colours that cannot be seen, since their alpha is 0, are 0: encoders are free to change them.

    Raises
    ------
    ImageError
        With a short reason.
    """
    with as_image_error():
        image.load()
        if _is_16_bit_gray(image):
            return _in_blocks(image, 4, _high_bytes_with_alpha)
        _refuse_32_bit(image)
        return _in_blocks(image, 4, _with_alpha)


def _in_blocks(
    image: Image.Image, channels: int, convert: Callable[[Image.Image], np.ndarray]
) -> np.ndarray:
    """The pixels of an image, converted one part after the other.

    Pillow's conversions hold the picture several times.
    """
    height, width = image.height, image.width
    # A copy, because torch warns of arrays that it may not write to.
    pixels = np.empty((height, width, channels), np.uint8)
    columns = min(width, _BLOCK_PIXELS)
    rows = max(1, _BLOCK_PIXELS // max(1, columns))
    if height <= rows and width <= columns:
        pixels[:] = convert(image)
        return pixels
    for top, left in itertools.product(range(0, height, rows), range(0, width, columns)):
        bottom, right = min(height, top + rows), min(width, left + columns)
        pixels[top:bottom, left:right] = convert(image.crop((left, top, right, bottom)))
    return pixels


def _on_white(image: Image.Image) -> np.ndarray:
    picture = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    # To the nearest: exact for all colours and alphas.
    white.paste(picture.convert("RGB"), mask=picture.getchannel("A"))
    return np.asarray(white)


def _with_alpha(image: Image.Image) -> np.ndarray:
    pixels = np.array(image.convert("RGBA"))
    pixels[pixels[:, :, 3] == 0] = 0
    return pixels


def turned(pixels: np.ndarray, turn: int) -> np.ndarray:
    """A picture, (height, width, 3), turned as an EXIF orientation of 1 to 8 says."""
    if turn == 1:
        return pixels
    if turn >= 5:
        pixels = pixels.swapaxes(0, 1)
    # Mirrored left to right; upside down.
    if turn in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if turn in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _is_16_bit_gray(image: Image.Image) -> bool:
    return image.mode.startswith("I;16") or (image.format, image.mode) == ("PPM", "I")


def _high_bytes(image: Image.Image) -> np.ndarray:
    """16-bit gray as 8-bit gray, its transparent value white."""
    values = np.asarray(image)
    gray = (values >> 8).astype(np.uint8)
    if (clear := image.info.get("transparency")) is not None:
        gray[values == clear] = 255
    return gray


def _high_bytes_with_alpha(image: Image.Image) -> np.ndarray:
    pixels = np.repeat(_high_bytes(image)[:, :, None], 4, axis=2)
    is_clear = np.asarray(image) == image.info.get("transparency", -1)
    pixels[:, :, 3] = np.where(is_clear, 0, 255)
    pixels[is_clear] = 0
    return pixels


def _refuse_32_bit(image: Image.Image) -> None:
    # Pillow would clip to 0..255, which leaves a black or a white picture more often than not.
    if image.mode in ("I", "F"):
        raise ImageError(
            f"32-bit samples (mode {image.mode}) have no defined white; save it with 8 or 16 bits"
        )
