"""What bytes are by how they begin: image formats, and what stands where a tar should be.

Signatures: each format's specification; brands of ISO media files: ISO/IEC 23008-12 and AV1 Image
File Format.
"""

from __future__ import annotations

import re

# Bytes from the start that `image_ending` needs, and `looks_like`.
SIGNATURE_BYTES, BEGIN_BYTES = 64, 1024

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
    (
        *(b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs"),
        *(b"mif1", b"mif2", b"miaf", b"msf1"),
    )
)
_BEGINS: tuple[tuple[bytes, str], ...] = (
    (b"%PDF-", "PDF"),
    (b"%!PS", "PostScript"),
    (b"\x1f\x8b", "gzip"),
    (b"\x1f\x9d", "a file of compress"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"BZh", "bzip2"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x1a\x45\xdf\xa3", "Matroska or WebM video"),
    (b"FLV\x01", "Flash video"),
    (b"\x00\x00\x01\xba", "MPEG video"),
    (b"ID3", "MP3 sound"),
    (b"OggS", "Ogg"),
    (b"PAR1", "Parquet"),
    (b"ARROW1", "Arrow"),
    (b"\x89HDF\r\n", "HDF5"),
    (b"\x04\x22\x4d\x18", "LZ4"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x00\x05\x16\x07", "macOS's AppleDouble attributes"),
    (b"version https://git-lfs", "a Git LFS pointer: run git lfs pull"),
    (b"FUJIFILMCCD-RAW", "a camera raw file, RAF; develop it first"),
    (b"IIRO", "a camera raw file, ORF; develop it first"),
    (b"IIRS", "a camera raw file, ORF; develop it first"),
    (b"MMOR", "a camera raw file, ORF; develop it first"),
    (b"IIU\x00", "a camera raw file, RW2; develop it first"),
    (b"FOVb", "a camera raw file, X3F; develop it first"),
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
    names = brands(head)
    if not _AVIF.isdisjoint(names):
        return "avif"
    return None if _HEIF.isdisjoint(names) else "heic"


def brands(data: bytes | memoryview) -> list[bytes]:
    """The brands of an ISO base media file, the major one first (ISO/IEC 14496-12, 4.3)."""
    if bytes(data[4:8]) != b"ftyp":
        return []
    size = min(int.from_bytes(data[:4], "big"), 256)
    listed = bytes(data[16:size])
    rest = [listed[at : at + 4] for at in range(0, len(listed) - 3, 4)]
    return [bytes(data[8:12]), *rest]


def looks_like(begin: bytes) -> str | None:
    """What a file that is neither an image nor a tar seems to be, or None when nothing is known.

    Parameters
    ----------
    begin : bytes
        The first `BEGIN_BYTES` bytes, or all there are.
    """
    for signature, kind in _BEGINS:
        if begin.startswith(signature):
            return kind
    if names := brands(begin):
        if names[0] == b"crx ":
            return "a camera raw file, CR3; develop it first"
        return "video or sound in an MP4 container"
    if begin[:4] == b"RIFF":
        return {b"AVI ": "AVI video", b"WAVE": "WAVE sound"}.get(begin[8:12])
    if begin and not begin.strip(b"\0"):
        return "zeros only: a download or a disk that failed"
    return _text_kind(begin)


def _text_kind(begin: bytes) -> str | None:
    # Cut where a character may be cut, too.
    text = begin.decode("utf-8-sig", "ignore").strip()
    lower = text.lower()
    if re.match(r"(<\?xml[^>]*>\s*|<!--.*?-->\s*|<!doctype svg[^>]*>\s*)*<svg[\s>]", lower, re.S):
        return "SVG, a drawing without pixels; render it first"
    if lower.startswith(("<!doctype html", "<html", "<head", "<body")) or "<html" in lower[:300]:
        return "HTML, such as the error page of a server"
    if lower.startswith(("<?xml", "<error")):
        return "XML, such as the error message of a store"
    if text[:1] in ("{", "[") and re.match(r'[{\[]\s*["{\[\]}\d]', text):
        return "JSON, such as the error message of a server"
    if len(text) > 15 and len(begin.decode("ascii", "ignore")) == len(begin) and text.isprintable():
        return f"text: {text[:40]!r}"
    return None
