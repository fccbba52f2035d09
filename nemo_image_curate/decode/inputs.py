"""Images as people give them: encoded bytes, paths, data URLs, Pillow images."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

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
ImageInput: TypeAlias = "str | os.PathLike[str] | bytes | PIL.Image.Image"
# Encoded; the decoder has its own limit on pixels. A 50-megapixel JPEG is about 30 MB.
MAX_IMAGE_BYTES = 64 * 2**20
_BYTES = (bytes, bytearray, memoryview)
_WEB = ("http://", "https://", "ftp://")
_PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})


def image_content(image: ImageInput, max_bytes: int = MAX_IMAGE_BYTES) -> bytes:
    """The encoded bytes of an image, however it is given.

    Strings name files of this machine: of what comes from elsewhere let only bytes and data URLs
    (`data_url_content`) through.

    Parameters
    ----------
    image : str, path, bytes or PIL.Image.Image
        Strings that begin with ``data:`` are data URLs, others paths or fsspec URLs, such as
        ``s3://...``. Nothing is fetched from the web.
    max_bytes : int

    Raises
    ------
    ConfigError
        For a data URL that is none, an address of the web, and for other types.
    DatasetError
        When there is no such file, or it cannot be read.
    ImageError
        When it is too large, or a Pillow image cannot be read.
    """
    if isinstance(image, _BYTES):
        content = bytes(image)
    elif isinstance(image, str) and image[:5].lower() == "data:":
        return data_url_content(image, max_bytes)
    elif isinstance(image, str) and image.lower().startswith(_WEB):
        raise ConfigError(
            f"{image[:200]!r} is not fetched: nothing is downloaded from the web. Give the bytes "
            "of the image, or a file."
        )
    elif isinstance(image, (str, os.PathLike)):
        content = _read(storage.normalise(image), max_bytes)
    elif _is_pillow(image):
        return _encoded(image)
    else:
        raise ConfigError(
            "an image should be given as a path, bytes, a data URL or a PIL image, not as "
            f"{type(image).__name__}."
        )
    check_size(len(content), max_bytes)
    return content


def image_contents(
    images: Sequence[ImageInput | None],
) -> tuple[list[bytes | None], list[str | None]]:
    """The encoded bytes of images, and why there are none of others.

    Bytes that are here already may be as many as they like.

    Parameters
    ----------
    images : sequence of length n
        As for `image_content`; None where there is no image.

    Returns
    -------
    contents : list of bytes or None, length n
    reasons : list of str or None, length n
        None also where there is no image.

    Raises
    ------
    ConfigError
        For types that are no image.
    """
    contents: list[bytes | None] = []
    reasons: list[str | None] = []
    for image in images:
        content, reason = None, None
        try:
            if image is not None:
                content = bytes(image) if isinstance(image, _BYTES) else image_content(image)
        except CurateError as error:
            if not isinstance(image, (str, os.PathLike)) and not _is_pillow(image):
                raise
            reason = str(error)
        contents.append(content)
        reasons.append(reason)
    return contents, reasons


def _is_pillow(image: object) -> bool:
    return hasattr(image, "getbands")


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
