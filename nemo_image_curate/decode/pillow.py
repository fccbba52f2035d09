"""Pixels as users of timm and open_clip get them: Pillow's, as RGB."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from nemo_image_curate.decode.header import (
    DEFAULT_MAX_PIXELS,
    check_pixels,
    error_text,
    header_of,
    open_image,
)
from nemo_image_curate.errors import ImageError

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile


def decode_image(data: bytes | memoryview, max_pixels: int = DEFAULT_MAX_PIXELS) -> ImageFile:
    """The picture in some bytes as Pillow has it, decoded, in its own mode.

    Parameters
    ----------
    data : bytes or memoryview
        The encoded image; a truncated one is an error.
    max_pixels : int
        Larger images are refused before they are decoded.

    Raises
    ------
    ImageError
        With a short reason.
    """
    image = open_image(data)
    check_pixels(header_of(image), max_pixels)
    with _as_image_error():
        image.load()
    return image


def decode_rgb(data: bytes | memoryview, max_pixels: int = DEFAULT_MAX_PIXELS) -> np.ndarray:
    """The pixels of ``PIL.Image.open(data).convert("RGB")``.

    So EXIF orientation is not applied, transparency is dropped, and of an animation this is the
    first frame. The one difference: 16-bit gray keeps its high byte, as Pillow itself does with
    16-bit RGB, where its own ``convert`` would turn nearly all of it white.

    Parameters
    ----------
    data : bytes or memoryview
        The encoded image; a truncated one is an error.
    max_pixels : int
        Larger images are refused before they are decoded.

    Returns
    -------
    numpy.ndarray, shape (height, width, 3), uint8
        Writable.

    Raises
    ------
    ImageError
        With a short reason.
    """
    image = decode_image(data, max_pixels)
    with _as_image_error():
        if image.mode.startswith("I;16") or (header_of(image).format, image.mode) == ("ppm", "I"):
            gray = (np.asarray(image) >> 8).astype(np.uint8)
            return np.repeat(gray[:, :, None], 3, axis=2)
        _refuse_32_bit(image)
        # A copy, because torch warns of arrays that it may not write to.
        return np.array(image.convert("RGB"))


@contextlib.contextmanager
def _as_image_error() -> Iterator[None]:
    try:
        yield
    except (ImageError, MemoryError):
        raise
    # Decoders of untrusted bytes raise whatever they stumble over.
    except Exception as error:
        raise ImageError(error_text(error)) from error


def _refuse_32_bit(image: ImageFile) -> None:
    # Pillow would clip to 0..255, which leaves a black or a white picture more often than not.
    if image.mode in ("I", "F"):
        raise ImageError(
            f"32-bit samples (mode {image.mode}) have no defined white; save it with 8 or 16 bits"
        )
