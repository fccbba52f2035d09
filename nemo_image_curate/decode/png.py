"""PNGs whose notes cannot be read: their pixels are looked at without them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Chunks that decide pixels, or how they are turned: the critical ones, transparency, animation.
_PIXELS = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"acTL", b"fcTL", b"fdAT"})
_KEPT = _PIXELS | {b"eXIf"}


def without_notes(data: bytes | memoryview) -> bytes | None:
    """A PNG without the chunks that say nothing of its pixels: texts, colour profiles, times.

    Pillow refuses a picture for texts of more than 1 MB, for a profile of that size, and for a
    wrong checksum in any chunk. Its limits are right where one wants the texts, and global to
    the process.

    Returns
    -------
    bytes or None
        None where there are none, and where `data` is no PNG.
    """
    if bytes(data[:8]) != _SIGNATURE:
        return None
    view = memoryview(data)
    kept = [view[start:end] for name, start, end in _chunks(view) if name in _KEPT]
    shorter = b"".join([_SIGNATURE, *kept])
    return shorter if len(shorter) < len(data) else None


def is_whole(data: bytes | memoryview) -> bool:
    """Whether all chunks of a PNG end where it says, up to the last."""
    start = end = len(_SIGNATURE)
    view = memoryview(data)
    while start + 8 <= len(view):
        end = start + 12 + int.from_bytes(view[start : start + 4], "big")
        if bytes(view[start + 4 : start + 8]) == b"IEND":
            break
        start = end
    return end <= len(view)


def late_exif(data: bytes | memoryview) -> bytes | None:
    """What the ``eXIf`` chunk of a PNG holds, wherever it stands."""
    view = memoryview(data)
    chunks = (view[start + 8 : end - 4] for name, start, end in _chunks(view) if name == b"eXIf")
    return next((bytes(chunk) for chunk in chunks), None)


def scale_transparency(image: ImageFile, data: bytes | memoryview) -> None:
    """Bring the colour that a PNG calls transparent to the scale of the pixels.

    Pillow gives it as it is written, and the pixels in 8 bits: 2 and 4 bits of gray times 85 and
    17, of 16-bit colours the high byte. Gray of 16 bits keeps them all.
    """
    clear, (depth, kind) = image.info.get("transparency"), bytes(data[24:26])
    if kind == 0 and depth in (2, 4) and isinstance(clear, int):
        image.info["transparency"] = clear * (255 // (2**depth - 1))
    elif kind == 2 and depth == 16 and isinstance(clear, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in clear)


def _chunks(data: memoryview) -> Iterator[tuple[bytes, int, int]]:
    """Name, begin and end of each chunk (PNG specification, 5.3); the last may be cut off."""
    start = len(_SIGNATURE)
    while start + 8 <= len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        yield bytes(data[start + 4 : start + 8]), start, min(end, len(data))
        start = end
