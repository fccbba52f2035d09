"""Images and other files are known by their first bytes."""

from __future__ import annotations

import gzip
import io
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nemo_image_curate.shards.signatures import (
    BEGIN_BYTES,
    SIGNATURE_BYTES,
    image_ending,
    looks_like,
)

KINDS = {
    "JPEG": "jpg",
    "PNG": "png",
    "GIF": "gif",
    "WEBP": "webp",
    "BMP": "bmp",
    "TIFF": "tif",
    "AVIF": "avif",
    "JPEG2000": "jp2",
    "PPM": "ppm",
    "QOI": "qoi",
}


def encoded(kind: str, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (40, 30), 100 if mode != "RGB" else (1, 2, 3)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_what_pillow_writes(kind):
    assert image_ending(encoded(kind)[:SIGNATURE_BYTES]) == KINDS[kind]


@pytest.mark.parametrize(
    ("head", "ending"),
    [
        (encoded("PPM", "L"), "pgm"),
        (encoded("PPM", "1"), "pbm"),
        (b"P3\n# made by hand\n2 2", "ppm"),
        (b"MM\0*\0\0\0\x08", "tif"),
        (b"II+\0\x08\0\0\0", "tif"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "heic"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "heic"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "avif"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isomiso2", None),
        (b"\0\0\0\x14ftypisom\0\0\0\0isomheic", None),
        (b"\xff\x0a\xfa\x7f", "jxl"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "jxl"),
        (b"\xff\x4f\xff\x51\0/", "jp2"),
        (b"8BPS\0\x01", "psd"),
        (b"BMW is a maker of cars", None),
        (b"P5 is a group", None),
        (b"II quattro", None),
        (b"RIFF\0\0\0\0WAVEfmt ", None),
        (b"", None),
        (b"caption", None),
    ],
)
def test_signatures(head, ending):
    assert image_ending(head[:SIGNATURE_BYTES]) == ending


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a.jpg", b"1")
    return buffer.getvalue()


def parquet() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"key": ["a"]}), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (zipped(), "ZIP"),
        (parquet(), "Parquet"),
        (gzip.compress(b"x", mtime=0), "gzip"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"\n<HTML><body>404", "HTML"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied', "XML"),
        (b'{"error": "not found"}', "JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
        (b"Access was denied", "text"),
        (b"\0\1\2\3", None),
        (b"", None),
    ],
)
def test_what_is_no_tar(content, words):
    described = looks_like(content[:BEGIN_BYTES])
    assert described is None if words is None else words in described


@given(st.binary(max_size=80))
def test_any_bytes(head):
    assert isinstance(looks_like(head) or "", str)
