"""What bytes are that no decoder here takes: said by how they begin."""

from __future__ import annotations

import io
import re

# HEIF's brands for pictures coded with HEVC (ISO/IEC 23008-12, annex B), and its general ones.
_HEVC = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_HEIF = frozenset({b"mif1", b"mif2", b"msf1", b"miaf"})
_AVIF = frozenset({b"avif", b"avis"})

# A JPEG XL codestream, and the box that its container begins with (ISO/IEC 18181-2).
_JXL = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL \r\n\x87\n")

_BEGINS: tuple[tuple[bytes, str], ...] = (
    (b"%PDF-", "PDF"),
    (b"%!PS", "PostScript"),
    (b"\x1f\x8b", "gzip"),
    (b"PK\x03\x04", "a zip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a rar archive"),
    (b"BZh", "bzip2"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x1a\x45\xdf\xa3", "Matroska or WebM video"),
    (b"FLV\x01", "Flash video"),
    (b"\x00\x00\x01\xba", "MPEG video"),
    (b"ID3", "MP3 sound"),
    (b"OggS", "Ogg"),
    (b"PAR1", "Parquet"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x00\x05\x16\x07", "macOS's AppleDouble attributes"),
    (b"version https://git-lfs", "a Git LFS pointer"),
    (b"FUJIFILMCCD-RAW", "a camera raw file, RAF; develop it first"),
    (b"IIRO", "a camera raw file, ORF; develop it first"),
    (b"IIRS", "a camera raw file, ORF; develop it first"),
    (b"MMOR", "a camera raw file, ORF; develop it first"),
    (b"IIU\x00", "a camera raw file, RW2; develop it first"),
    (b"FOVb", "a camera raw file, X3F; develop it first"),
)
_DEVELOP = "camera raw ({}) is not supported: what a decoder finds is its preview; develop it first"
# TIFF's tags: NewSubfileType, PhotometricInterpretation, Make, SubIFDs, DNGVersion.
_SUBFILE, _PHOTOMETRIC, _MAKE, _SUB_IFDS, _DNG = 254, 262, 271, 330, 50706
# What a sensor saw: a colour filter array, or LinearRaw.
_SENSOR = (32803, 34892)
_MAKERS = {"NIKON": "NEF", "SONY": "ARW", "PENTAX": "PEF", "CANON": "CR2", "SAMSUNG": "SRW"}


def is_heic(data: bytes | memoryview) -> bool:
    """Whether bytes are a HEIF container that Pillow's AVIF decoder is not for."""
    brands = _brands(data)
    if not brands or brands[0] in _AVIF:
        return False
    if brands[0] in _HEVC:
        return True
    return brands[0] in _HEIF and not _AVIF.intersection(brands)


def is_jpeg_xl(data: bytes | memoryview) -> bool:
    """Whether bytes are JPEG XL, bare or in its container."""
    return bytes(data[:12]).startswith(_JXL)


def camera_raw(data: bytes | memoryview) -> str | None:
    """Why a TIFF is not to be decoded: it is a camera's raw file, and its first picture a preview.

    Parameters
    ----------
    data : bytes or memoryview
        What begins as a TIFF does.

    Returns
    -------
    str or None
        None for an ordinary TIFF, and for one whose directory cannot be read.
    """
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    try:
        directory = ImageFileDirectory_v2(bytes(data[:8]))
        file = io.BytesIO(data)
        file.seek(directory.next)
        directory.load(file)
        make = str(directory.get(_MAKE, "")).upper()
        name = next((kind for maker, kind in _MAKERS.items() if maker in make), make or "TIFF")
        if _DNG in directory:
            name = "DNG"
        elif bytes(data[8:10]) == b"CR":
            name = "CR2"
        elif directory.get(_PHOTOMETRIC) not in _SENSOR and not (
            # A small picture first and the large ones below it: NEF, ARW.
            int(directory.get(_SUBFILE, 0)) & 1 and _SUB_IFDS in directory
        ):
            return None
    except MemoryError:
        raise
    # Parsers of untrusted bytes raise whatever they stumble over.
    except Exception:
        return None
    return _DEVELOP.format(name)


def not_an_image(data: bytes | memoryview) -> str:
    """A reason that says what bytes look like that are no image."""
    kind = _kind(data)
    return f"not an image ({f'looks like {kind}' if kind else f'first bytes {data[:8].hex()}'})"


def _kind(data: bytes | memoryview) -> str | None:
    begin = bytes(data[:1024])
    for signature, kind in _BEGINS:
        if begin.startswith(signature):
            return kind
    if brands := _brands(data):
        if brands[0] == b"crx ":
            return "a camera raw file, CR3; develop it first"
        return "video or sound in an MP4 container"
    if begin[:4] == b"RIFF":
        return {b"AVI ": "AVI video", b"WAVE": "WAVE sound"}.get(begin[8:12])
    if not begin.strip(b"\0"):
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


def _brands(data: bytes | memoryview) -> list[bytes]:
    """The brands of an ISO base media file, the major one first (ISO/IEC 14496-12, 4.3)."""
    if bytes(data[4:8]) != b"ftyp":
        return []
    size = min(int.from_bytes(data[:4], "big"), 256)
    listed = bytes(data[16:size])
    rest = [listed[at : at + 4] for at in range(0, len(listed) - 3, 4)]
    return [bytes(data[8:12]), *rest]
