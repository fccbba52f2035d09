"""What the markers of a JPEG say: its end and whether all pixels are there, its scans, colours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from nemo_image_curate.decode.header import as_image_error, open_image
from nemo_image_curate.errors import ImageError

END_MISSING = "the end marker of the JPEG is missing"

_START, _END, _SCAN, _INTERVAL = b"\xff\xd8", b"\xff\xd9", b"\xff\xda", b"\xff\xdd"
# Among how many bytes the end is looked for first: some programs append a few of their own.
_TAIL = 64
# What decoders are given for what may be missing: enough for the largest unit of pixels (10 blocks
# of 64 codes of up to 26 bits), without which they leave it gray, and of several kinds, since two
# of them may be the same to its codes.
_FILLERS = tuple(
    (pattern * 4096)[:4096]
    for pattern in (b"\x55", b"\xaa", bytes(range(255)), bytes(range(254, -1, -3)))
)
_COEFFICIENTS = 64
# A scan of 12 bytes goes through all coefficients: 1 MB of them keeps a decoder busy for an hour.
# Encoders write about 10, libjpeg-turbo's own tests of hostile files stop at 500.
_MOST_SCANS = 100
# SOF0 to SOF15, which begin a frame.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset(b"\xc2\xc6\xca\xce")


class Ended(NamedTuple):
    """A JPEG that has an end.

    Attributes
    ----------
    data : bytes or memoryview
    was_missing : bool
        Whether the end was put there by us.
    """

    data: bytes | memoryview
    was_missing: bool


def ends(data: bytes | memoryview) -> bool:
    """Whether the last bytes of a JPEG hold its end marker."""
    return _END in bytes(data[-_TAIL:])


def with_end(data: bytes | memoryview) -> Ended:
    """A JPEG with its end marker, put back where it alone is missing.

    Many programs forget it, and some downloads lose it; what is shown is the same. Decoders
    cannot tell: given an end they fill what is missing with gray, and given zeros they go on.
    So the picture is decoded with several ends: where a bit of it is missing, what follows
    decides what is seen.

    Parameters
    ----------
    data : bytes or memoryview
        Of a picture whose header was read and whose size is allowed.

    Raises
    ------
    ImageError
        Where pixels, or scans of a progressive JPEG that make them sharp, are missing; where
        there are more scans than can be of use.
    """
    if has_endless_scans(data):
        raise ImageError(f"more than {_MOST_SCANS} scans, which serve only to take time")
    if ends(data):
        return Ended(data, False)
    encoded = bytes(data)
    scan = _first_scan(encoded)
    # Between scans stands nothing that looks like an end: in their codes 255 is followed by 0.
    if scan is None or encoded.find(_END, scan) >= 0:
        return Ended(data, False)
    body = encoded.rstrip(b"\0")
    # Codes may end with zeros, mostly behind 255. Other zeros fill a file: as codes, they would
    # end a piece of the picture that is missing.
    if len(body) < len(encoded) and (body.endswith(b"\xff") or len(encoded) - len(body) <= 2):
        body += b"\0"
    else:
        # Half an end.
        body = body.removesuffix(b"\xff")
    with as_image_error():
        is_whole = _has_all_scans(body, scan) and _looks_the_same(body)
    if not is_whole:
        raise ImageError("image file is truncated (pixels are missing at its end)")
    return Ended(body + _END, True)


def has_endless_scans(data: bytes | memoryview) -> bool:
    """Whether a JPEG has so many scans that it is made to take long."""
    encoded = bytes(data)
    places = list(_segments(encoded))
    frame = next((at for at in places if encoded[at + 1] in _FRAMES), None)
    if frame is None or encoded[(scan := places[-1]) : scan + 2] != _SCAN:
        return False
    # Else the first is the only one.
    has_several = encoded[frame + 1] in _PROGRESSIVE or (
        encoded[scan + 4 : scan + 5] != encoded[frame + 9 : frame + 10]
    )
    return has_several and encoded.count(_SCAN, scan) > _MOST_SCANS


def is_rgb(data: bytes | memoryview) -> bool:
    """Whether three components are red, green and blue, not YCbCr, as libjpeg decides it.

    JFIF means YCbCr, Adobe's marker says which, else the names of the components do
    (``default_decompress_parms`` in libjpeg's ``jdapimin.c``).
    """
    encoded = bytes(data)
    transform, names = None, b""
    for at in _segments(encoded):
        content = encoded[at + 4 : at + 2 + int.from_bytes(encoded[at + 2 : at + 4], "big")]
        if encoded[at + 1] == 0xE0 and content.startswith(b"JFIF\0"):
            return False
        if encoded[at + 1] == 0xEE and content.startswith(b"Adobe") and len(content) >= 12:
            transform = content[11]
        elif encoded[at + 1] in _FRAMES:
            names = content[6::3]
    return len(names) == 3 and (names == b"RGB" if transform is None else transform == 0)


def _segments(data: bytes) -> Iterator[int]:
    """Where the markers stand up to the first scan's; pictures in the header are passed by."""
    at = len(_START)
    while at + 4 <= len(data) and data[at] == 0xFF:
        if data[at + 1] == 0xFF:
            at += 1
            continue
        yield at
        if data[at : at + 2] == _SCAN:
            return
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def _first_scan(data: bytes) -> int | None:
    return next((at for at in _segments(data) if data[at : at + 2] == _SCAN), None)


def _has_all_scans(data: bytes, scan: int) -> bool:
    """Whether the scans give all bits of all coefficients of each component (T.81, B.2.3)."""
    missing: dict[int, set[int]] = {}
    while scan >= 0:
        count = data[scan + 4] if scan + 4 < len(data) else 0
        end = scan + 8 + 2 * count
        if end > len(data):
            return False
        first, last, bits = data[end - 3 : end]
        for component in data[scan + 5 : end - 3 : 2]:
            left = missing.setdefault(component, set(range(_COEFFICIENTS)))
            if not bits & 15:
                left -= set(range(first, last + 1))
        scan = data.find(_SCAN, end)
    return len(missing) == _components(data) and not any(missing.values())


def _components(data: bytes) -> int:
    """How many components the frame has."""
    frames = (at for at in _segments(data) if data[at + 1] in _FRAMES)
    return next((data[at + 9] for at in frames if at + 9 < len(data)), 0)


def _looks_the_same(body: bytes) -> bool:
    # Where scans are divided, a piece may be missing from its restart marker on.
    divided = any(body[at : at + 2] == _INTERVAL for at in _segments(body))
    scan = body.rfind(_SCAN)
    last = max(body.rfind(bytes([0xFF, 0xD0 + number]), scan) for number in range(8))
    number = (body[last + 1] - 0xCF) % 8 if last >= 0 else 0
    markers = [bytes([0xFF, 0xD0 + (number + more) % 8]) for more in range(8 if divided else 0)]
    first = _decoded(body)
    return all(
        _decoded(body + filler) == first
        and (not markers or _decoded(body + b"".join(mark + filler for mark in markers)) == first)
        for filler in _FILLERS
    )


def _decoded(body: bytes) -> bytes:
    return open_image(body + _END).tobytes()
