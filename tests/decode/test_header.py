"""What bytes are, whatever they are called."""

from __future__ import annotations

import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from nemo_image_curate.decode.header import (
    DEFAULT_MAX_PIXELS,
    ImageHeader,
    check_pixels,
    read_header,
)
from nemo_image_curate.decode.jxl import jxl_size
from nemo_image_curate.decode.pillow import decode_rgb
from nemo_image_curate.errors import ImageError
from tests.decode.pictures import bad, base, bomb, good, large_icon, saved
from tests.shared import SHARED, needs_shared


def test_the_default_limit_is_pillows() -> None:
    assert Image.MAX_IMAGE_PIXELS == DEFAULT_MAX_PIXELS


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("jpeg", ("jpeg", 123, 91, "RGB")),
        # Lies on its side; timm and open_clip leave it so.
        ("jpeg rotated", ("jpeg", 123, 91, "RGB")),
        ("jpeg cmyk", ("jpeg", 123, 91, "CMYK")),
        ("mpo", ("jpeg", 123, 91, "RGB")),
        ("png 16 bit gray", ("png", 123, 91, "I;16")),
        ("gif", ("gif", 123, 91, "P")),
        ("webp", ("webp", 123, 91, "RGB")),
        ("jp2", ("jpeg2000", 123, 91, "RGB")),
        ("ppm", ("ppm", 123, 91, "RGB")),
        ("1x40", ("png", 1, 40, "RGB")),
    ],
)
def test_headers(name: str, expected: tuple[str, int, int, str]) -> None:
    data = good()[name]
    assert read_header(data)[:4] == expected
    assert read_header(memoryview(data)) == read_header(data)


@pytest.mark.parametrize("name", ["empty", "html", "text", "noise", "jpeg start", "no width"])
def test_reasons(name: str) -> None:
    data, reason = bad()[name]
    assert data is not None
    with pytest.raises(ImageError) as caught:
        read_header(data)
    assert f"decode: {caught.value}".startswith(reason)


def reason_of(data: bytes) -> str | None:
    try:
        read_header(data)
    except ImageError as error:
        return str(error)
    return None


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("name", sorted(name for name in good() if "x" not in name))
def test_damaged_headers_raise_image_errors_only(name: str) -> None:
    data = good()[name]
    for cut in range(0, min(len(data), 200), 7):
        for damaged in (data[:cut], data[:cut] + b"\xff\xff" + data[cut + 2 :]):
            reason = reason_of(damaged)
            # Neither an address in memory, which differs from run to run, nor a treatise.
            assert reason is None or (" at 0x" not in reason and len(reason) < 300)


def test_a_bomb_is_measured_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        header = read_header(bomb())
    assert (header.width, header.height) == (30_000, 20_000)
    with pytest.raises(
        ImageError, match=r"^too large: 30000x20000 = 600000000 pixels, limit 89478485$"
    ):
        check_pixels(header, DEFAULT_MAX_PIXELS)


def test_the_limit_itself_is_allowed() -> None:
    header = ImageHeader("png", 20, 30, "RGB")
    check_pixels(header, 600, resized=(20, 30))
    with pytest.raises(ImageError, match="20x30 = 600 pixels, limit 599"):
        check_pixels(header, 599)
    with pytest.raises(ImageError, match="too large: resized 31x20 = 620 pixels, limit 600"):
        check_pixels(header, 600, resized=(20, 31))


@needs_shared
def test_lying_extensions() -> None:
    folder = SHARED / "data" / "formats"
    really = {path.name: None for path in folder.iterdir()}
    for path in folder.iterdir():
        try:
            really[path.name] = read_header(path.read_bytes()).format
        except ImageError:
            continue
    # All of these are one JPEG, renamed.
    assert really["ukbench09380.bmp"] == really["ukbench09380.png"] == "jpeg"
    assert really["giphy.gif"] == "gif"
    assert really["Iggy.1024.ppm"] == really["baboon.pgm"] == really["marbles.pbm"] == "ppm"


def tiff_of_tiles(width: int, height: int) -> bytes:
    """A TIFF of 16 x 16 whose single tile is of this size, of zeros."""
    content = zlib.compress(bytes(width * height))
    tags = [(256, 16), (257, 16), (258, 8), (259, 8), (262, 1), (277, 1)]
    tags += [(322, width), (323, height), (324, 200), (325, len(content))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return (b"II*\0\x08\0\0\0" + directory).ljust(200, b"\0") + content


def test_tiles_without_measure_are_refused() -> None:
    """One of 30,000 x 30,000, of which nothing is seen, took a gigabyte."""
    assert decode_rgb(tiff_of_tiles(512, 512)).shape == (16, 16, 3)
    assert reason_of(tiff_of_tiles(4096, 4096)) == (
        "broken tiff header (tiles of 4096x4096 in a picture of 16x16)"
    )


@pytest.mark.parametrize("first", [1, 3, 40])
def test_the_size_of_a_jpeg_xl_in_pieces(first: int) -> None:
    pytest.importorskip("pillow_jxl")
    whole = saved(base(300, 200), "JXL", lossless=True)
    assert whole.startswith(b"\xff\n"), "a bare codestream"
    pieces = [(0, whole[:first]), (2**31 + 1, whole[first:])]
    boxes = [struct.pack(">I4sI", 12 + len(part), b"jxlp", at) + part for at, part in pieces]
    head = b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0\0\0\x14ftypjxl \0\0\0\0jxl "
    assert jxl_size(head + b"".join(boxes)) == (300, 200)
    np.testing.assert_array_equal(decode_rgb(head + b"".join(boxes)), np.asarray(base(300, 200)))


def test_pillow_does_not_warn_of_each_tag(capfd: pytest.CaptureFixture[str]) -> None:
    """Pytest shows warnings in its own way: asked is a process as users have it."""
    data = b"II*\0\x08\0\0\0" + struct.pack("<H", 50)
    data += b"".join(struct.pack("<HHII", 400 + n, 3, 2**20, 8) for n in range(50)) + bytes(4)
    code = f"from nemo_image_curate.decode.header import open_image\nopen_image({data!r})"
    subprocess.run([sys.executable, "-c", code], check=False)
    printed = capfd.readouterr().err
    assert "ImageError" in printed
    assert "UserWarning" not in printed


def test_pillow_does_not_warn_of_a_large_picture_in_an_icon() -> None:
    code = "from nemo_image_curate.decode.cpu import CpuDecoder\n"
    code += f"print(CpuDecoder(None).decode([{large_icon()!r}]).errors)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "too large: 10000x10000 = 100000000 pixels" in done.stdout
    assert not done.stderr
