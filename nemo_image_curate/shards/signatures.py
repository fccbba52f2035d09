"""What bytes are by how they begin: image formats, and what stands where a tar should be.

Signatures: each format's specification; brands of ISO media files: ISO/IEC 23008-12 and AV1 Image
File Format.
"""

from __future__ import annotations

import re

# Bytes from the start that `image_ending` and `looks_like` need.
SIGNATURE_BYTES = 64

_IMAGES = (
    (re.compile(rb"\xff\xd8\xff"), "jpg"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "png"),
    (re.compile(rb"GIF8[79]a"), "gif"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "webp"),
    # Two letters alone would be any text; the size of the second header is one of few.
    (re.compile(rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0", re.DOTALL), "bmp"),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), "tif"),
    (re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"), "jp2"),
    (re.compile(rb"\0\0\0\x0cJXL \r\n\x87\n|\xff\x0a"), "jxl"),
    (re.compile(rb"P[14]\s+[0-9#]"), "pbm"),
    (re.compile(rb"P[25]\s+[0-9#]"), "pgm"),
    (re.compile(rb"P[36]\s+[0-9#]"), "ppm"),
    (re.compile(rb"qoif"), "qoi"),
    (re.compile(rb"8BPS\0[\x01\x02]"), "psd"),
)
_AVIF = frozenset({b"avif", b"avis"})
_HEIF = frozenset(
    {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1"}
)
_OTHERS = (
    (re.compile(rb"PK(\x03\x04|\x05\x06|\x07\x08)"), "a ZIP archive"),
    (re.compile(rb"7z\xbc\xaf\x27\x1c"), "a 7z archive"),
    (re.compile(rb"Rar!\x1a\x07"), "a RAR archive"),
    (re.compile(rb"\x1f[\x9d\xa0]"), "a file of compress"),
    (re.compile(rb"\x1f\x8b|BZh[1-9]|\xfd7zXZ\0|\x28\xb5\x2f\xfd"), "a compressed file"),
    (re.compile(rb"\x04\x22\x4d\x18"), "an LZ4 file"),
    (re.compile(rb"PAR1"), "a Parquet file"),
    (re.compile(rb"ARROW1"), "an Arrow file"),
    (re.compile(rb"\x89HDF\r\n"), "an HDF5 file"),
    (re.compile(rb"%PDF"), "a PDF file"),
    (re.compile(rb"version https://git-lfs"), "a Git LFS pointer: run git lfs pull"),
    (re.compile(rb"\s*(<!doctype html|<html|<head)", re.IGNORECASE), "an HTML page"),
    (re.compile(rb"\s*<(\?xml|Error)"), "an XML document, as object stores answer errors"),
    (re.compile(rb'\s*[{\[]\s*["{\[\]}]'), "JSON"),
)


def image_ending(head: bytes) -> str | None:
    """The usual file name ending of an image's format, or None when it is no image.

    Parameters
    ----------
    head : bytes
        The first `SIGNATURE_BYTES` bytes, or all there are.
    """
    if head[4:8] == b"ftyp":
        return _media_ending(head)
    for pattern, ending in _IMAGES:
        if pattern.match(head):
            return ending
    return None


def _media_ending(head: bytes) -> str | None:
    """Of an ISO media file: by its major brand, then by those that it is compatible with."""
    box = head[: max(16, int.from_bytes(head[:4], "big"))]
    brands = [box[8:12], *(box[start : start + 4] for start in range(16, len(box), 4))]
    if not _AVIF.isdisjoint(brands):
        return "avif"
    return None if _HEIF.isdisjoint(brands) else "heic"


def looks_like(head: bytes) -> str:
    """What a file that is no tar seems to be, in words; empty when nothing is known."""
    ending = image_ending(head)
    if ending is not None:
        return f"an image ({ending})"
    for pattern, words in _OTHERS:
        if pattern.match(head):
            return words
    printable = all(byte >= 32 or byte in b"\t\r\n" for byte in head)
    return "text" if head and printable and b"\x7f" not in head else ""
