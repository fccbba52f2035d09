"""What encoded bytes really are: format, size and mode, without decoding a pixel."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from nemo_image_curate.decode import png, signatures
from nemo_image_curate.decode.depth import bit_depth
from nemo_image_curate.decode.jxl import jxl_size
from nemo_image_curate.decode.reasons import TOO_LARGE
from nemo_image_curate.errors import ConfigError, ImageError

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
# What else the bytes may be called: several JPEGs in one file are shown as the first of them, and
# a DIB is a BMP without the file's header.
_SAME_FORMAT = {"mpo": "jpeg", "dib": "bmp"}
# Where nvImageCodec 0.9 gave Pillow's pixels to the last bit, on real files, made ones and
# damaged ones, in less time. Not BMP, PPM, TIFF and JPEG 2000: it gains nothing there, and takes
# damaged BMPs that Pillow refuses. It cannot do GIF and AVIF at all.
_SAME_AS_PILLOW = {
    "jpeg": frozenset({"L", "RGB"}),
    "png": frozenset({"1", "L", "P", "RGB"}),
    "webp": frozenset({"RGB"}),
}
# Formats whose decoders turn the picture by themselves: libtiff's in Pillow 13, and libheif.
_TURNED = frozenset({"tiff", "heif"})
_EXIF_ORIENTATION = 0x0112
# TIFF's tags, and the pixels of a tile that need no reason; programs write 256x256 to 1024x1024.
_TILE_WIDTH, _TILE_HEIGHT, _LARGEST_TILE = 322, 323, 2**22
_SIGNATURE = 16
# What is wrong with a picture is said of its row. Pillow warns of each damaged tag by its number,
# of 65,000 in one file, and Python keeps every text that it has shown.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
# Of a picture inside of an icon; we refuse it.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, module=r"PIL\.")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class ImageHeader(NamedTuple):
    """What the header of an image says.

    Attributes
    ----------
    format : str
        Pillow's name in lower case, such as ``jpeg``; MPO, several JPEGs in one file, is ``jpeg``.
    width, height : int
        Of the picture as it is decoded: as stored, or turned.
    mode : str
        Pillow's name of the pixels' kind, such as ``RGB`` or ``I;16``.
    has_alpha : bool
        Whether pixels may be transparent.
    turn : int
        How the stored picture is turned to be decoded: 1 to 8, as EXIF's orientation says it; 1
        is not at all.
    bit_depth : int
        Bits of each sample in the file.
    exif_orientation : int
        What the file's EXIF says, 1 to 8, whether or not it is followed; 1 where it says nothing.
    n_bytes : int
        Of the encoded file.
    """

    format: str
    width: int
    height: int
    mode: str
    has_alpha: bool = False
    turn: int = 1
    bit_depth: int = 8
    exif_orientation: int = 1
    n_bytes: int = 0


def check_orientation(orientation: str) -> None:
    """Refuse what is no way to treat EXIF's orientation.

    Raises
    ------
    ConfigError
    """
    if orientation not in ("stored", "exif"):
        raise ConfigError(f"orientation={orientation!r} should be 'stored' or 'exif'.")


def read_header(data: bytes | memoryview, orientation: str = "stored") -> ImageHeader:
    """Format, size and mode of an encoded image; about 20 microseconds.

    Parameters
    ----------
    data : bytes or memoryview
    orientation : {"stored", "exif"}
        Whether the picture is decoded as it is stored, or turned as EXIF says.

    Raises
    ------
    ImageError
        With a short reason.
    """
    return header_of(open_image(data), data, orientation)


def header_of(
    image: ImageFile, data: bytes | memoryview = b"", orientation: str = "stored"
) -> ImageHeader:
    """The header of an image that Pillow has opened from some bytes.

    Raises
    ------
    ImageError
        With a short reason.
    """
    name = (image.format or "").lower()
    width, height = image.size
    said = _exif_orientation(image, data)
    turn = said if orientation == "exif" and name not in _TURNED else 1
    if turn >= 5:
        width, height = height, width
    with as_image_error():
        # Fails where a picture of colours by number has none.
        has_alpha = image.has_transparency_data
    return ImageHeader(
        *(_SAME_FORMAT.get(name, name), width, height, image.mode, has_alpha, turn),
        *(bit_depth(image, data), said, len(data)),
    )


def _exif_orientation(image: ImageFile, data: bytes | memoryview) -> int:
    """EXIF's orientation; 1 where there is none, or a broken one."""
    try:
        if image.format == "PNG":
            if "exif" not in image.info and (late := png.late_exif(data)):
                image.info["exif"] = late
            # That of a PNG would decode the picture, to see what stands behind it.
            turn = Image.Image.getexif(image).get(_EXIF_ORIENTATION)
        # A JPEG XL is turned by its decoder, and says so a second time; one that was made of a
        # JPEG file is that file.
        elif image.format == "JXL" and not getattr(image, "jpeg", False):
            return 1
        elif image.format == "TIFF":
            turn = getattr(image, "tag_v2", {}).get(_EXIF_ORIENTATION)
        else:
            turn = image.getexif().get(_EXIF_ORIENTATION)
    except MemoryError:
        raise
    # Parsers of untrusted bytes raise whatever they stumble over.
    except Exception:
        return 1
    return turn if type(turn) is int and 1 <= turn <= 8 else 1


def same_as_pillow(header: ImageHeader, data: bytes | memoryview) -> bool:
    """Whether nvImageCodec, and DALI which uses it, give the pixels that Pillow gives.

    A PNG of which something is missing is not for them: they make room for chunks of 4 GB that
    a file of 1 kB announces.
    """
    if header.has_alpha or header.mode not in _SAME_AS_PILLOW.get(header.format, ()):
        return False
    return header.format != "png" or png.is_whole(data)


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
    for name in _formats_of(data):
        # A build of Pillow may lack one.
        factory, accept = Image.OPEN.get(name, (None, None))
        recognised = False
        try:
            # A string instead of a truth says why the codec is missing.
            if factory is None or (accept is not None and accept(signature) is not True):
                continue
            recognised = True
            if name == "TIFF" and (reason := signatures.camera_raw(data)):
                raise ImageError(reason)
            return _opened(factory, data)
        except (MemoryError, ImageError):
            raise
        # Parsers of untrusted bytes raise whatever they stumble over.
        except Exception as error:
            if recognised:
                problem = f"broken {name.lower()} header ({error_text(error)})"
    raise ImageError(problem or signatures.not_an_image(data))


def _opened(factory: Callable[[io.BytesIO, str], ImageFile], data: bytes | memoryview) -> ImageFile:
    try:
        image = factory(io.BytesIO(data), "")
    except (ValueError, SyntaxError):
        if (shorter := png.without_notes(data)) is None:
            raise
        image = factory(io.BytesIO(shorter), "")
    if image.format == "PNG":
        png.scale_transparency(image, data)
    elif image.format == "TIFF":
        _check_tiles(image)
    return image


def _check_tiles(image: ImageFile) -> None:
    """Refuse a TIFF with tiles beyond all sense: a decoder makes room for a whole one."""
    tags: Any = getattr(image, "tag_v2", {})
    width, height = tags.get(_TILE_WIDTH, 0), tags.get(_TILE_HEIGHT, 0)
    largest = max(_LARGEST_TILE, image.width * image.height)
    if type(width) is int and type(height) is int and width * height > largest:
        size = f"{image.width}x{image.height}"
        raise ImageError(f"broken tiff header (tiles of {width}x{height} in a picture of {size})")


def _formats_of(data: bytes | memoryview) -> tuple[str, ...]:
    """Pillow's names of what bytes may be, those of optional modules included.

    Raises
    ------
    ImageError
        When the module is missing.
    """
    try:
        if signatures.is_heic(data):
            import pillow_heif

            pillow_heif.register_heif_opener()
            return ("HEIF",)
        if signatures.is_jpeg_xl(data):
            import pillow_jxl  # noqa: F401

            # It decodes when it opens.
            check_pixels(ImageHeader("jxl", *jxl_size(data), ""), DEFAULT_MAX_PIXELS)
            return ("JXL",)
    except ImportError as error:
        kind, extra = ("JPEG XL", "jxl") if signatures.is_jpeg_xl(data) else ("HEIC", "heif")
        raise ImageError(f"{kind} is not supported, install nemo_image_curate[{extra}]") from error
    return _FORMATS


@contextlib.contextmanager
def as_image_error() -> Iterator[None]:
    """Whatever a decoder of untrusted bytes stumbles over becomes an `ImageError`."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        raise ImageError(error_text(error)) from error


def error_text(error: Exception) -> str:
    """A short text of an exception, the same in every run."""
    text = " ".join(str(error).split()) or type(error).__name__
    return _ADDRESS.sub("", text)[:200]
