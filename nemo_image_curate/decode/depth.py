"""Bits of each sample of an encoded image, which its decoder hides: it gives 8 of 10, 12 and 16."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

# By Pillow's name of the pixels' kind, where the file does not say it better.
_OF_MODE = {"1": 1, "I": 32, "F": 32}
_DEFAULT, _GRAY_16 = 8, "I;16"
_BITS_PER_SAMPLE = 258
_LARGEST = 64
# Where what is looked for stands in a file, if it does.
_HEAD = 4096


def bit_depth(image: ImageFile, data: bytes | memoryview) -> int:
    """Bits of a sample as the file stores it; of colours by number, bits of the numbers.

    Parameters
    ----------
    image : PIL.ImageFile.ImageFile
        As opened, not loaded.
    data : bytes or memoryview
        What it was opened from.
    """
    by_mode = 16 if image.mode.startswith(_GRAY_16) else _OF_MODE.get(image.mode, _DEFAULT)
    reader = _READERS.get(image.format or "")
    try:
        depth = reader(image, data) if reader else None
    # Headers of untrusted bytes hold whatever their writers liked.
    except (IndexError, TypeError, ValueError):
        depth = None
    return depth if type(depth) is int and 1 <= depth <= _LARGEST else by_mode


def _png(image: Any, data: bytes | memoryview) -> int:
    """IHDR's fourth field (PNG specification, 11.2.1)."""
    return data[24]


def _jpeg(image: Any, data: bytes | memoryview) -> int:
    """The precision of the frame (ITU-T T.81, B.2.2)."""
    bits: int = getattr(image, "bits", _DEFAULT)
    return bits


def _tiff(image: Any, data: bytes | memoryview) -> int:
    bits: int = max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,)))
    return bits


def _jpeg2000(image: Any, data: bytes | memoryview) -> int:
    """Ssiz of the first component, in the marker SIZ (ITU-T T.800, A.5.1)."""
    head = bytes(data[:_HEAD])
    return (head[head.index(b"\xff\x4f\xff\x51") + 42] & 0x7F) + 1


def _avif(image: Any, data: bytes | memoryview) -> int:
    """high_bitdepth and twelve_bit of the box av1C (AV1 in ISOBMFF, 2.3.3)."""
    head = bytes(data[:_HEAD])
    flags = head[head.index(b"av1C") + 6]
    return (12 if flags & 0x20 else 10) if flags & 0x40 else 8


def _heif(image: Any, data: bytes | memoryview) -> int | None:
    depth: int | None = image.info.get("bit_depth")
    return depth


def _ppm(image: Any, data: bytes | memoryview) -> int | None:
    """Pillow holds 16 bits of gray in 32."""
    return 16 if image.mode == "I" else None


def _psd(image: Any, data: bytes | memoryview) -> int:
    return int.from_bytes(data[22:24], "big")


def _sgi(image: Any, data: bytes | memoryview) -> int:
    return 8 * data[3]


_READERS = {
    "AVIF": _avif,
    "HEIF": _heif,
    "JPEG": _jpeg,
    "JPEG2000": _jpeg2000,
    "MPO": _jpeg,
    "PNG": _png,
    "PPM": _ppm,
    "PSD": _psd,
    "SGI": _sgi,
    "TIFF": _tiff,
}
