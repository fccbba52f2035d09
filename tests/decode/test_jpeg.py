"""JPEGs without their end: which of them have all pixels."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nemo_image_curate.decode import CpuDecoder, decode_rgb
from nemo_image_curate.decode.jpeg import END_MISSING, is_rgb, with_end
from nemo_image_curate.errors import ImageError
from tests.decode.pictures import base, saved

FILES = {
    "baseline": saved(base(), "JPEG", quality=90),
    "4:4:4": saved(base(), "JPEG", subsampling=0),
    "gray": saved(base().convert("L"), "JPEG"),
    "cmyk": saved(base().convert("CMYK"), "JPEG"),
    "optimised": saved(base(), "JPEG", optimize=True),
    "progressive": saved(base(), "JPEG", progressive=True),
    "progressive gray": saved(base().convert("L"), "JPEG", progressive=True),
    "restarts": saved(base(), "JPEG", restart_marker_blocks=3),
    "restarts by row": saved(base(), "JPEG", restart_marker_rows=1),
    "progressive restarts": saved(base(), "JPEG", progressive=True, restart_marker_rows=1),
    "thumbnail inside": saved(
        base(), "JPEG", exif=b"Exif\0\0" + saved(base().resize((40, 30)), "JPEG")
    ),
    "comment": saved(base(), "JPEG", comment=b"\xff\xd9\xff\xda nothing \xff\xd9"),
}


def of_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("lost", [1, 2])
@pytest.mark.parametrize("after", [b"", b"\0" * 700], ids=["cut", "zeros"])
def test_the_end_alone_is_missing(name: str, lost: int, after: bytes) -> None:
    data = FILES[name]
    damaged = data[:-lost] + after
    np.testing.assert_array_equal(decode_rgb(damaged), of_pillow(data))
    batch = CpuDecoder(None, thumbnail_sizes=(16,)).decode([damaged, data])
    assert batch.errors == [None, None]
    assert batch.warnings == [END_MISSING, None]
    assert (batch.thumbnails[16][0] == batch.thumbnails[16][1]).all()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("after", [b"", b"\0" * 700], ids=["cut", "zeros"])
def test_pixels_are_missing(name: str, after: bytes) -> None:
    data = FILES[name]
    for lost in (6, 7, 8, 12, 20, 40, 100, 300, len(data) // 2):
        with pytest.raises(ImageError, match=r"image file is truncated|broken jpeg"):
            decode_rgb(data[:-lost] + after)


@pytest.mark.parametrize("name", ["progressive", "progressive gray", "progressive restarts"])
def test_scans_of_a_progressive_jpeg_are_missing(name: str) -> None:
    data = FILES[name]
    scans = [at for at in range(len(data) - 1) if data[at : at + 2] == b"\xff\xda"]
    assert len(scans) > 3
    for scan in scans[1:]:
        # Whole scans, so that a decoder sees nothing wrong; codes stand before a scan.
        tables = data.rfind(b"\xff\xc4", 0, scan)
        for cut in {scan, tables}:
            with pytest.raises(ImageError, match="truncated"):
                decode_rgb(data[:cut])


@pytest.mark.parametrize("name", ["restarts", "restarts by row"])
def test_pieces_are_missing_from_a_restart_on(name: str) -> None:
    data = FILES[name]
    begin = data.find(b"\xff\xda")
    marks = [at for at in range(begin, len(data) - 1) if data[at : at + 1] == b"\xff"]
    marks = [at for at in marks if 0xD0 <= data[at + 1] <= 0xD7]
    assert len(marks) >= 5
    for mark in marks:
        for cut in (mark, mark + 1, mark + 2):
            with pytest.raises(ImageError, match="truncated"):
                decode_rgb(data[:cut])


def test_what_follows_the_end_is_no_matter() -> None:
    data = FILES["baseline"]
    for after in (b"\n" * 9, b"more" * 999, b"\0" * 4096, b"\xff\xd8 again"):
        ended = with_end(data + after)
        assert (ended.data, ended.was_missing) == (data + after, False)
        np.testing.assert_array_equal(decode_rgb(data + after), of_pillow(data))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    quality=st.integers(5, 100),
    progressive=st.booleans(),
    restart=st.integers(0, 4),
    lost=st.integers(0, 200),
)
def test_what_is_accepted_is_the_picture(
    seed: int, width: int, height: int, quality: int, progressive: bool, restart: int, lost: int
) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    options = {"quality": quality, "progressive": progressive, "restart_marker_blocks": restart}
    data = saved(Image.fromarray(noise), "JPEG", **options)
    try:
        pixels = decode_rgb(data[: len(data) - lost])
    except ImageError:
        assert lost > 2
    else:
        np.testing.assert_array_equal(pixels, of_pillow(data))


def test_garbage_raises_image_errors_only() -> None:
    data = FILES["progressive"]
    frame = data.find(b"\xff\xc2")
    for damaged in (
        data[: frame + 4],
        data[:frame] + data[data.find(b"\xff\xda") : -2],
        data[:-2].replace(b"\xff\xda", b"\xff\xda\xff", 1),
        data[:2] + struct.pack(">HH", 0xFFE1, 2) * 50,
    ):
        with pytest.raises(ImageError):
            decode_rgb(damaged)


@pytest.mark.parametrize("name", ["progressive", "progressive gray"])
@pytest.mark.parametrize("ended", [True, False])
def test_scans_without_end_are_refused(name: str, ended: bool) -> None:
    """300 scans of 12 bytes took as long as 300 pictures."""
    data = FILES[name]
    last = data.rindex(b"\xff\xda")
    scan = data[last:-2]
    for count, is_refused in ((20, False), (300, True)):
        batch = CpuDecoder(None, thumbnail_sizes=(8,)).decode(
            [data[:-2] + scan * count + (b"\xff\xd9" if ended else b"")]
        )
        assert (batch.errors[0] or "").startswith("decode: more than 100 scans") == is_refused


@pytest.mark.parametrize("marker", [None, b"JFIF\0\1\1\0\0\1\0\1\0\0", 0, 1])
@pytest.mark.parametrize("names", [b"\1\2\3", b"RGB", b"rgb"])
def test_colours_are_those_that_libjpeg_sees(marker: bytes | int | None, names: bytes) -> None:
    data = bytearray(saved(base(), "JPEG", subsampling=0, quality=95))
    # Pillow writes JFIF's marker first; components are named in the frame and in the scan.
    del data[2 : 4 + int.from_bytes(data[4:6], "big")]
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    for number, name in enumerate(names):
        data[frame + 10 + 3 * number] = data[scan + 5 + 2 * number] = name
    if marker is not None:
        code, content = (
            (0xE0, marker)
            if isinstance(marker, bytes)
            else (0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([marker]))
        )
        data[2:2] = bytes([0xFF, code]) + (len(content) + 2).to_bytes(2, "big") + content
    # Of a picture with colours, what is taken for red is another than what is there.
    is_rgb_to_pillow = np.abs(of_pillow(bytes(data)) - np.asarray(base()).astype(int)).mean() > 20
    assert is_rgb(bytes(data)) == is_rgb_to_pillow
