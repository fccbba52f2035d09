"""`Thumbnails`: stored images as small JPEGs."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from functools import lru_cache

from PIL import Image

from nemo_image_curate.decode.header import DEFAULT_MAX_PIXELS, check_pixels, header_of, open_image
from nemo_image_curate.decode.pillow import loaded, rgb_pixels, turned

# Pixels of the longest side.
MIN_SIDE, MAX_SIDE = 16, 1024
# About 10 kB each at 256 pixels.
_KEPT = 2000
_QUALITY = 80
# Decoded at once: one image may take 89 megapixels, which is 0.3 GB.
_AT_ONCE = 4


class Thumbnails:
    """Makes thumbnails, and keeps those of the dataset that were made last.

    Those of the live store are made again each time: what is added may replace an image.

    Parameters
    ----------
    read : callable
        The encoded image of a key and a shard; None for the shard of images of the store.
    """

    def __init__(self, read: Callable[[str, str | None], bytes]):
        self.read = read
        self._kept = lru_cache(_KEPT)(self._made)
        self._decoding = threading.Semaphore(_AT_ONCE)

    def get(self, key: str, shard: str | None, side: int) -> bytes:
        """A stored image as a JPEG that is no wider and no higher than `side`.

        Raises
        ------
        HTTPException
            When there is none.
        ImageError
            When it cannot be decoded.
        """
        return (self._made if shard is None else self._kept)(key, shard, side)

    def _made(self, key: str, shard: str | None, side: int) -> bytes:
        data = self.read(key, shard)
        with self._decoding:
            return thumbnail(data, side)


def thumbnail(data: bytes, side: int) -> bytes:
    """An encoded image as a JPEG no wider and no higher than `side`, upright, on white.

    Parameters
    ----------
    data : bytes
    side : int
        Pixels. Smaller images stay as large as they are.

    Raises
    ------
    ImageError
        When it cannot be decoded, or has too many pixels.
    """
    image = open_image(data)
    # Upright as browsers show the original.
    header = header_of(image, data, "exif")
    check_pixels(header, DEFAULT_MAX_PIXELS)
    # A JPEG is decoded at a half, a quarter or an eighth of its size where that is enough.
    image.draft(None, (side, side))
    picture = Image.fromarray(turned(rgb_pixels(loaded(image, data)), header.turn))
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
