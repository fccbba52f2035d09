"""What is no image says what it looks like; what needs a module names it."""

from __future__ import annotations

import gzip
import io
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from nemo_image_curate.decode import CpuDecoder, decode_rgb, read_header
from nemo_image_curate.decode.jxl import jxl_size
from nemo_image_curate.errors import ImageError
from tests.decode.pictures import base, saved


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.jpg", saved(base(), "JPEG"))
    return buffer.getvalue()


def ftyp(*brands: bytes) -> bytes:
    listed = brands[0] + bytes(4) + b"".join(brands[1:])
    return struct.pack(">I", 8 + len(listed)) + b"ftyp" + listed + bytes(100)


LOOKS_LIKE = {
    "HTML": [
        b"<!DOCTYPE html><title>403</title>",
        b"\n\n  <html lang=en>",
        b"\xef\xbb\xbf<HTML>",
        b"<!-- x --><html>",
    ],
    "XML": [b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'],
    "SVG": [
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b'<?xml version="1.0"?>\n<!-- made by x -->\n<svg viewBox="0 0 9 9">',
        b'<?xml version="1.0"?><!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "x"><svg>',
    ],
    "JSON": [b'{"message": "not found"}', b'[{"a": 1}]', b' {\n "error": 404}', b"{}"],
    "text": [b"404 page not found, sorry\n", b"Too Many Requests from you"],
    "PDF": [b"%PDF-1.7\n%\xe2\xe3"],
    "PostScript": [b"%!PS-Adobe-3.0 EPSF-3.0\n"],
    "gzip": [gzip.compress(saved(base(), "JPEG"), mtime=0)],
    "a ZIP archive": [zipped()],
    "video": [ftyp(b"isom", b"mp41"), ftyp(b"mp42"), ftyp(b"qt  "), ftyp(b"M4V ")],
    "Matroska or WebM video": [b"\x1a\x45\xdf\xa3\x9f\x42\x86"],
    "AVI video": [b"RIFF\0\0\0\0AVI LIST"],
    "a Git LFS pointer": [b"version https://git-lfs.github.com/spec/v1\noid sha256:0"],
    "macOS's AppleDouble": [b"\0\5\x16\7" + b"\0" * 99],
    "zeros": [bytes(2000)],
    "a camera raw file, CR3": [ftyp(b"crx ", b"isom")],
    "a camera raw file, RAF": [b"FUJIFILMCCD-RAW 0201FF"],
    "a camera raw file, RW2": [b"IIU\x00\x18\x00\x00\x00"],
}


@pytest.mark.parametrize("kind", LOOKS_LIKE)
def test_what_it_looks_like(kind: str) -> None:
    for data in LOOKS_LIKE[kind]:
        with pytest.raises(ImageError) as caught:
            decode_rgb(data)
        assert str(caught.value).startswith(f"not an image (looks like {kind}"), data


def test_what_looks_like_nothing_shows_how_it_begins() -> None:
    for data in (b"\x01\x02\x03\x04\x05\x06\x07\x08\x09", b"hi", b"\x80abc"):
        with pytest.raises(ImageError, match=rf"^not an image \(first bytes {data[:8].hex()}\)$"):
            decode_rgb(data)


def raw(make: str = "", tags: dict[int, object] | None = None, sub: bool = False) -> bytes:
    """A small picture with a camera's tags."""
    info = TiffImagePlugin.ImageFileDirectory_v2()
    if make:
        info[271] = make
    for tag, value in (tags or {}).items():
        info[tag] = value
    if sub:
        info.tagtype[330] = 4
        info[330] = 8
    return saved(base(), "TIFF", tiffinfo=info)


RAWS = {
    "DNG": raw("Apple", {50706: b"\1\4\0\0"}),
    "NEF": raw("NIKON CORPORATION", {254: 1}, sub=True),
    "ARW": raw("SONY", {254: 1}, sub=True),
    "CANON": None,
}


@pytest.mark.parametrize("kind", ["DNG", "NEF", "ARW"])
def test_previews_of_camera_raws_are_not_taken_for_the_picture(kind: str) -> None:
    data = RAWS[kind]
    assert data is not None
    batch = CpuDecoder(None, thumbnail_sizes=(8,)).decode([data])
    (error,) = batch.errors
    assert error is not None
    assert error.startswith(f"decode: camera raw ({kind}) is not supported")


def test_ordinary_tiffs_of_cameras_are_pictures() -> None:
    for data in (raw("NIKON CORPORATION"), raw("SONY", {254: 0}, sub=True), raw(tags={254: 1})):
        np.testing.assert_array_equal(decode_rgb(data), np.asarray(base()))


def heic(image: Image.Image, **options) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    return saved(image, "HEIF", **options)


def jpeg_xl(image: Image.Image, **options) -> bytes:
    pytest.importorskip("pillow_jxl")
    return saved(image, "JXL", **options)


def test_heic() -> None:
    data = heic(base(), quality=90)
    assert read_header(data)[:4] == ("heif", 123, 91, "RGB")
    assert np.abs(decode_rgb(data).astype(int) - np.asarray(base())).mean() < 6
    rgba = base().convert("RGBA")
    rgba.paste((0, 0, 0, 0), (0, 0, 123, 40))
    assert decode_rgb(heic(rgba))[:30].min() > 240
    with pytest.raises(ImageError, match="too large"):
        decode_rgb(data, max_pixels=100)


@pytest.mark.parametrize("options", [{}, {"use_container": True}], ids=["bare", "container"])
@pytest.mark.parametrize("size", [(123, 91), (64, 64), (400, 300), (1, 1), (3000, 2)])
def test_jpeg_xl(options: dict[str, bool], size: tuple[int, int]) -> None:
    picture = base().resize(size)
    data = jpeg_xl(picture, lossless=True, **options)
    assert read_header(data)[:4] == ("jxl", *size, "RGB")
    assert jxl_size(data) == size
    np.testing.assert_array_equal(decode_rgb(data), np.asarray(picture))


def test_a_jpeg_xl_bomb_is_not_opened() -> None:
    pytest.importorskip("pillow_jxl")
    # 2**30 pixels in each direction: sizes of 30 bits.
    bits = 0 | 3 << 1 | (2**30 - 1) << 3 | 0 << 33 | 3 << 36 | (2**30 - 1) << 38
    with pytest.raises(ImageError, match="too large: 1073741824x1073741824"):
        read_header(b"\xff\x0a" + bits.to_bytes(12, "little"))


@pytest.mark.parametrize("cut", [3, 20, 60, 200])
def test_broken_heic_and_jpeg_xl(cut: int) -> None:
    for data in (heic(base()), jpeg_xl(base()), jpeg_xl(base(), use_container=True)):
        with pytest.raises(ImageError):
            decode_rgb(data[:cut])


def test_avif_is_not_taken_for_heic() -> None:
    data = saved(base(), "AVIF")
    assert read_header(data).format == "avif"
    # Its general brand may be the major one.
    assert data[8:12] == b"avif"
    assert read_header(data[:8] + b"mif1" + data[12:]).format == "avif"


def test_without_the_modules() -> None:
    code = """
import sys
sys.modules["pillow_heif"] = sys.modules["pillow_jxl"] = None
from nemo_image_curate.decode import CpuDecoder
from tests.decode.test_signatures import ftyp
files = [ftyp(b"heic", b"mif1"), ftyp(b"mif1", b"heic"), ftyp(b"hevc"), b"\\xff\\x0a123456789"]
files.append(b"\\x00\\x00\\x00\\x0cJXL \\r\\n\\x87\\n" + bytes(40))
print(*CpuDecoder(None, thumbnail_sizes=(8,)).decode(files).errors, sep="\\n")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heic_reason = "decode: HEIC is not supported, install nemo_image_curate[heif]"
    jxl_reason = "decode: JPEG XL is not supported, install nemo_image_curate[jxl]"
    assert done.stdout.splitlines() == [heic_reason] * 3 + [jxl_reason] * 2
