"""What encoded bytes really are: format, size and mode, without decoding a pixel."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from nemo_image_curate.decode.reasons import TOO_LARGE
from nemo_image_curate.errors import ImageError

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

# Pillow's own limit (PIL.Image.MAX_IMAGE_PIXELS): a quarter of a gigabyte as 24-bit RGB.
DEFAULT_MAX_PIXELS = 89_478_485

# The commonest first. Without EPS, for which Pillow runs Ghostscript on the bytes; TGA, which
# has no signature, so that any bytes may pass for one; and formats that hold no photographs.
_FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000"),
    *("PPM", "QOI", "ICO", "DIB", "PCX", "PSD", "SGI"),
)
# Where nvImageCodec 0.9 gave Pillow's pixels to the last bit, on real files, made ones and
# damaged ones, in less time. Not BMP, PPM, TIFF and JPEG 2000: it gains nothing there, and takes
# damaged BMPs that Pillow refuses. It cannot do GIF and AVIF at all.
_SAME_AS_PILLOW = {
    "jpeg": frozenset({"L", "RGB"}),
    "mpo": frozenset({"RGB"}),
    "png": frozenset({"1", "L", "LA", "P", "RGB", "RGBA"}),
    "webp": frozenset({"RGB", "RGBA"}),
}
_SIGNATURE = 16
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class ImageHeader(NamedTuple):
    """What the header of an image says.

    Attributes
    ----------
    format : str
        Pillow's name in lower case, such as ``jpeg``.
    width, height : int
        As encoded; EXIF orientation is not applied.
    mode : str
        Pillow's name of the pixels' kind, such as ``RGB`` or ``I;16``.
    """

    format: str
    width: int
    height: int
    mode: str


def read_header(data: bytes | memoryview) -> ImageHeader:
    """Format, size and mode of an encoded image; about 20 microseconds.

    Raises
    ------
    ImageError
        With a short reason.
    """
    return header_of(open_image(data))


def header_of(image: ImageFile) -> ImageHeader:
    """The header of an image that Pillow has opened."""
    return ImageHeader((image.format or "").lower(), image.width, image.height, image.mode)


def same_as_pillow(header: ImageHeader) -> bool:
    """Whether nvImageCodec, and DALI which uses it, give the pixels that Pillow gives."""
    return header.mode in _SAME_AS_PILLOW.get(header.format, ())


def check_pixels(
    header: ImageHeader, max_pixels: int, resized: tuple[int, int] | None = None
) -> None:
    """Refuse an image that has too many pixels, or would have when resized.

    Parameters
    ----------
    header : ImageHeader
    max_pixels : int
    resized : tuple of int, optional
        Height and width before the crop: one row of 65,535 pixels whose shorter side is brought
        to 256 has four thousand million pixels.

    Raises
    ------
    ImageError
        ``too large: WxH = N pixels, limit M``.
    """
    sizes = [("", header.width, header.height)]
    if resized is not None:
        sizes.append(("resized ", resized[1], resized[0]))
    for prefix, width, height in sizes:
        if width * height > max_pixels:
            raise ImageError(
                f"{TOO_LARGE}: {prefix}{width}x{height} = {width * height} pixels, "
                f"limit {max_pixels}"
            )


def open_image(data: bytes | memoryview) -> ImageFile:
    """Pillow's lazy image of the bytes, whatever its size.

    As ``PIL.Image.open``, less its limit on pixels: that one is global to the process, warns
    where ours refuses, and hides the size.

    Raises
    ------
    ImageError
        With a short reason.
    """
    Image.init()
    if not len(data):
        raise ImageError("empty file")
    signature = bytes(data[:_SIGNATURE])
    problem = None
    for name in _FORMATS:
        # A build of Pillow may lack one.
        factory, accept = Image.OPEN.get(name, (None, None))
        recognised = False
        try:
            # A string instead of a truth says why the codec is missing.
            if factory is None or accept is None or accept(signature) is not True:
                continue
            recognised = True
            return factory(io.BytesIO(data), "")
        except MemoryError:
            raise
        # Parsers of untrusted bytes raise whatever they stumble over.
        except Exception as error:
            if recognised:
                problem = f"broken {name.lower()} header ({error_text(error)})"
    raise ImageError(problem or f"not an image (first bytes {signature[:8].hex()})")


def error_text(error: Exception) -> str:
    """A short text of an exception, the same in every run."""
    text = " ".join(str(error).split()) or type(error).__name__
    return _ADDRESS.sub("", text)[:200]
