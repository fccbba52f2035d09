"""Real photographs and what happens to pictures on their way through the web."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageOps

from tests.shared import SHARED


def flickr(count: int) -> list[Path]:
    return sorted((SHARED / "data" / "flickr8k").glob("*.jpg"))[:count]


def saved(image: Image.Image, kind: str = "JPEG", **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def scaled(factor: float, quality: int) -> Callable[[Image.Image], bytes]:
    def change(image: Image.Image) -> bytes:
        size = (round(image.width * factor), round(image.height * factor))
        return saved(image.resize(size, Image.Resampling.BICUBIC), quality=quality)

    return change


def recompressed(quality: int) -> Callable[[Image.Image], bytes]:
    return lambda image: saved(image, quality=quality)


def flipped(image: Image.Image) -> bytes:
    return saved(ImageOps.mirror(image), quality=85)
