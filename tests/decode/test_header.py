"""What bytes are, whatever they are called."""

from __future__ import annotations

import warnings

import pytest
from PIL import Image

from nemo_image_curate.decode.header import (
    DEFAULT_MAX_PIXELS,
    ImageHeader,
    check_pixels,
    read_header,
)
from nemo_image_curate.errors import ImageError
from tests.decode.pictures import bad, bomb, good
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
    assert read_header(data) == ImageHeader(*expected)
    assert read_header(memoryview(data)) == ImageHeader(*expected)


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
