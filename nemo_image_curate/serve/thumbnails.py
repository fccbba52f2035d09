"""`Thumbnails`: stored images as small JPEGs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import lru_cache

from nemo_image_curate.dataset.looking.thumbnails import thumbnail
from nemo_image_curate.errors import ImageError

# Pixels of the longest side.
MIN_SIDE, MAX_SIDE = 16, 1024
# About 10 kB each at 256 pixels.
_KEPT = 2000
# Decoded at once: one image may have 89 megapixels, which take 0.3 GB.
_AT_ONCE = 4


class Thumbnails:
    """Makes thumbnails, and keeps those of the dataset that were asked for last.

    Those of the live store are made each time: what is added may replace an image.

    Parameters
    ----------
    read : callable
        The encoded image of a key and a shard; None for the shard of images of the store.
    """

    def __init__(self, read: Callable[[str, str | None], bytes]):
        self.read = read
        self._cached = lru_cache(_KEPT)(self._make)
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
        return (self._make if shard is None else self._cached)(key, shard, side)

    def _make(self, key: str, shard: str | None, side: int) -> bytes:
        content = self.read(key, shard)
        with self._decoding:
            picture = thumbnail(content, side)
        if picture.jpeg is None:
            raise ImageError(picture.reason)
        return picture.jpeg
