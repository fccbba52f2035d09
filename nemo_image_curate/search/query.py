"""What a query may be given as, and the one vector that it becomes."""

from __future__ import annotations

import io
import numbers
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from nemo_image_curate import storage
from nemo_image_curate.decode.data_url import check_size, data_url_content
from nemo_image_curate.decode.header import (
    DEFAULT_MAX_PIXELS,
    ImageHeader,
    check_pixels,
    error_text,
)
from nemo_image_curate.errors import ConfigError, CurateError, DatasetError, ImageError

if TYPE_CHECKING:
    import PIL.Image

# A path or fsspec URL, a base64 data URL, encoded bytes, or a Pillow image.
Image: TypeAlias = "str | os.PathLike[str] | bytes | PIL.Image.Image"
# Encoded; the decoder has its own limit on pixels. A 50-megapixel JPEG is about 30 MB.
MAX_IMAGE_BYTES = 64 * 2**20
# Directions whose weighted sum is this much shorter than their weights cancel each other out:
# what is left of float32 vectors is rounding.
_VANISHING = 1e-5
# The bounds of a query's numbers, also over HTTP: at least so much; `collapse` is above the one and
# at most the other.
MIN_K = 1
MIN_WEIGHT = 0
COLLAPSE_ABOVE, COLLAPSE_UP_TO = 0, 1
_PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})


@dataclass(frozen=True)
class Query:
    """What `Searcher.search` is asked; its parameters are explained there."""

    text: str | None = None
    image: Image | None = None
    like: str | None = None
    like_shard: str | None = None
    negative_text: str | None = None
    text_weight: float = 1.0
    image_weight: float = 1.0
    negative_weight: float = 0.5
    k: int = 10
    where: str | None = None
    collapse: float | None = None
    fuse_captions: bool = False
    over: str = "images"

    def check(self) -> None:
        """Refuse what no searcher could answer.

        Raises
        ------
        ConfigError
        """
        for name in ("text", "like", "like_shard", "negative_text", "where"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise ConfigError(f"{name}={value!r} should be a text.")
        if self.text is None and self.image is None and self.like is None:
            raise ConfigError(
                "a query needs a text, an image, or the key of a stored image (like=)"
                + ("; negative_text alone finds nothing." if self.negative_text else ".")
            )
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < MIN_K:
            raise ConfigError(f"k={self.k!r} should be a positive integer.")
        for name in ("text_weight", "image_weight", "negative_weight"):
            weight = getattr(self, name)
            if not (_is_number(weight) and MIN_WEIGHT <= weight <= sys.float_info.max):
                raise ConfigError(
                    f"{name}={weight!r} should be a number not below 0; what images should not "
                    "show goes into negative_text."
                )
        collapse = self.collapse
        if collapse is not None and not (
            _is_number(collapse) and COLLAPSE_ABOVE < collapse <= COLLAPSE_UP_TO
        ):
            raise ConfigError(
                f"collapse={collapse!r} should be a cosine similarity above 0, at most 1."
            )
        if self.over not in ("images", "texts"):
            raise ConfigError(f"over={self.over!r} should be 'images' or 'texts'.")
        if self.fuse_captions and self.text is None:
            raise ConfigError("fuse_captions=True needs a text to look for in the captions.")


def image_content(image: Image, max_bytes: int = MAX_IMAGE_BYTES) -> bytes:
    """The encoded bytes of an image, however it is given.

    Strings name files of this machine: of what comes from elsewhere let only bytes and data URLs
    (`data_url_content`) through.

    Parameters
    ----------
    image : str, path, bytes or PIL.Image.Image
        Strings that begin with ``data:`` are data URLs, others paths or fsspec URLs.
    max_bytes : int

    Raises
    ------
    ConfigError
        For a data URL that is none, and for other types.
    DatasetError
        When there is no such file, or it cannot be read.
    ImageError
        When it is too large, or a Pillow image cannot be read.
    """
    if isinstance(image, (bytes, bytearray, memoryview)):
        content = bytes(image)
    elif isinstance(image, str) and image[:5].lower() == "data:":
        return data_url_content(image, max_bytes)
    elif isinstance(image, (str, os.PathLike)):
        content = _read(storage.normalise(image), max_bytes)
    elif hasattr(image, "getbands"):
        return _encoded(image)
    else:
        raise ConfigError(
            f"an image of a query should be a path, bytes, a data URL or a PIL image, not "
            f"{type(image).__name__}."
        )
    check_size(len(content), max_bytes)
    return content


def direction(parts: Sequence[tuple[float, np.ndarray]]) -> np.ndarray:
    """The unit vector that a weighted sum of unit vectors points to.

    Parameters
    ----------
    parts : sequence of (weight, vector)
        Vectors of float32, shape (d,), length 1; those to move away from have negative weights.

    Returns
    -------
    numpy.ndarray of float32, shape (d,)

    Raises
    ------
    ConfigError
        When all weights are 0, or the vectors cancel each other out.
    """
    scale = sum(abs(weight) for weight, _ in parts)
    if not scale:
        raise ConfigError("all weights of the query are 0: nothing is left to look for.")
    weighted = [weight / scale * vector.astype(np.float64) for weight, vector in parts]
    total = np.sum(weighted, axis=0)
    length = float(np.linalg.norm(total))
    if length < _VANISHING:
        raise ConfigError(
            "the parts of the query cancel each other out: the negative says what the text or "
            "image says. Change it, or its weight."
        )
    unit: np.ndarray = (total / length).astype(np.float32)
    return unit


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _read(location: str, max_bytes: int) -> bytes:
    try:
        file = storage.stat(location)
        if file is None:
            raise DatasetError(f"there is no image file {location[:200]!r}.")
        check_size(file.size, max_bytes)
        return storage.read_bytes(location)
    except CurateError:
        raise
    # Clients of remote stores raise errors of their own, for a missing password for one.
    except Exception as error:
        reason = getattr(error, "strerror", None) or error
        raise DatasetError(f"cannot read {location[:200]}: {reason}.") from error


def _encoded(image: PIL.Image.Image) -> bytes:
    """A Pillow image without loss: as PNG, or TIFF for the modes that PNG has not."""
    check_pixels(ImageHeader("", image.width, image.height, image.mode), DEFAULT_MAX_PIXELS)
    buffer = io.BytesIO()
    try:
        if image.mode in _PNG_MODES:
            image.save(buffer, "PNG", compress_level=1)
        else:
            image.save(buffer, "TIFF")
    # It may be a file that was opened and not read yet: decoders raise what they stumble over.
    except Exception as error:
        raise ImageError(error_text(error)) from error
    return buffer.getvalue()
