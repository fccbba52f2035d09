"""The size of a JPEG XL picture, which its decoder tells only together with the pixels."""

from __future__ import annotations

from nemo_image_curate.errors import ImageError

# Width to height, by number (ISO/IEC 18181-1, SizeHeader).
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_WIDTHS = (9, 13, 18, 30)
# Bytes of a codestream in which its size stands.
_HEAD = 16


def jxl_size(data: bytes | memoryview) -> tuple[int, int]:
    """Width and height as stored in a codestream, bare or in a container.

    Raises
    ------
    ImageError
        When there is none.
    """
    bits = int.from_bytes(_codestream(data)[2:16], "little")

    def take(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    small = take(1)

    def length() -> int:
        return 8 * (take(5) + 1) if small else take(_WIDTHS[take(2)]) + 1

    height = length()
    if ratio := take(3):
        over, under = _RATIOS[ratio - 1]
        return height * over // under, height
    return length(), height


def _codestream(data: bytes | memoryview) -> bytes:
    """Its first bytes, which a container has in its box ``jxlc``, or in pieces in ``jxlp``."""
    if bytes(data[:2]) == b"\xff\x0a":
        return bytes(data[:_HEAD])
    start, pieces = 0, b""
    while start + 8 <= len(data):
        size, name = (
            int.from_bytes(data[start : start + 4], "big"),
            bytes(data[start + 4 : start + 8]),
        )
        head = 8
        if size == 1:
            size, head = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        # The last box may say 0: it goes on to the end.
        end = start + size if size >= head else len(data)
        if name in (b"jxlc", b"jxlp"):
            begin = start + head + (4 if name == b"jxlp" else 0)
            pieces += bytes(data[begin : min(end, begin + _HEAD)])
            if len(pieces) >= _HEAD or name == b"jxlc":
                break
        start = end
    if not pieces:
        raise ImageError("broken jxl header (no codestream)")
    return pieces[:_HEAD]
