"""PNGs whose texts and profiles nobody wants, and what is transparent in them."""

from __future__ import annotations

import resource
import struct
import zlib

import numpy as np
import pytest

from nemo_image_curate.decode import CpuDecoder, decode_image, decode_rgb, read_header
from nemo_image_curate.decode.header import same_as_pillow
from nemo_image_curate.errors import ImageError
from tests.decode.pictures import base, chunk, png, saved

PLAIN = saved(base(), "PNG")
HEAD, END = 33, len(PLAIN) - 12
LONG = zlib.compress(b"x" * 3_000_000)
NOTES = {
    "zTXt": chunk(b"zTXt", b"parameters\0\0" + LONG),
    "iTXt": chunk(b"iTXt", b"parameters\0\1\0\0\0" + LONG),
    "many": b"".join(
        chunk(b"zTXt", b"%d\0\0" % n + zlib.compress(b"x" * 900_000)) for n in range(90)
    ),
    "iCCP": chunk(b"iCCP", b"profile\0\0" + LONG),
    "bomb": chunk(b"zTXt", b"parameters\0\0" + zlib.compress(bytes(200_000_000), 1)),
    "checksum": chunk(b"tEXt", b"Title\0picture")[:-4] + b"oops",
    "time": chunk(b"tIME", b"1234567")[:-1] + b"!",
    "not text": chunk(b"iTXt", b"\xff\xfe\0\1\0\0\0nothing"),
}


@pytest.mark.parametrize("name", NOTES)
@pytest.mark.parametrize("place", [HEAD, END], ids=["before", "after"])
def test_notes_cost_no_picture(name: str, place: int) -> None:
    data = PLAIN[:place] + NOTES[name] + PLAIN[place:]
    assert read_header(data)[:4] == ("png", 123, 91, "RGB")
    np.testing.assert_array_equal(decode_rgb(data), np.asarray(base()))
    assert decode_image(data).size == (123, 91)
    batch = CpuDecoder(None, thumbnail_sizes=(16,)).decode([data, PLAIN])
    assert batch.errors == [None, None]
    assert (batch.thumbnails[16][0] == batch.thumbnails[16][1]).all()


def test_what_decides_pixels_is_not_left_out() -> None:
    colors = base().quantize(64)
    data = saved(colors, "PNG", transparency=3)
    with_notes = data[:HEAD] + NOTES["zTXt"] + data[HEAD:]
    np.testing.assert_array_equal(decode_rgb(with_notes), decode_rgb(data))
    at = data.index(b"PLTE") + 9
    broken = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    with pytest.raises(ImageError, match="broken png header"):
        decode_rgb(broken)
    with pytest.raises(ImageError):
        decode_rgb(with_notes[:-400])


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_gray_that_is_transparent(depth: int) -> None:
    top = 2**depth - 1
    values = [0, 1, top // 2, top]
    if depth == 16:
        row = struct.pack(">4H", *values)
    else:
        joined = sum(value << depth * (3 - at) for at, value in enumerate(values))
        row = (joined << (-4 * depth) % 8).to_bytes(-(-4 * depth // 8), "big")
    shown = [value >> 8 if depth == 16 else value * 255 // top for value in values]
    for clear in set(values):
        chunks = chunk(b"tRNS", struct.pack(">H", clear))
        data = png(4, 1, b"\0" + row, depth, 0, extra=chunks)
        expected = [
            255 if value == clear else gray for value, gray in zip(values, shown, strict=True)
        ]
        assert decode_rgb(data)[0, :, 0].tolist() == expected, clear


@pytest.mark.parametrize("depth", [8, 16])
def test_a_colour_that_is_transparent(depth: int) -> None:
    colors = [(10, 20, 30), (10, 20, 31), (0, 0, 0)]
    scale, kind = (257, "H") if depth == 16 else (1, "B")
    row = b"".join(struct.pack(f">3{kind}", *(scale * v for v in color)) for color in colors)
    clear = chunk(b"tRNS", struct.pack(">3H", *(scale * value for value in colors[1])))
    pixels = decode_rgb(png(3, 1, b"\0" + row, depth, 2, extra=clear))
    assert pixels[0].tolist() == [[10, 20, 30], [255, 255, 255], [0, 0, 0]]


def test_a_chunk_that_announces_gigabytes_is_not_made_room_for() -> None:
    """nvImageCodec took 4 GB and 5 s for a file of 1 kB."""
    at = PLAIN.index(b"IDAT")
    announced = PLAIN[: at - 4] + b"\xf4\x8c\x00\x12" + PLAIN[at:]
    assert same_as_pillow(read_header(PLAIN), PLAIN)
    for data in (announced, PLAIN[:-20], PLAIN[:-12] + b"\x60\xac\0\0IEND"):
        assert not same_as_pillow(read_header(data), data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    batch = CpuDecoder(None, thumbnail_sizes=(16,)).decode([announced, PLAIN])
    assert batch.errors[1] is None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500 * 1024


def test_colours_by_number_without_a_list_of_colours() -> None:
    data = png(4, 4, b"\0\0\0\0\0" * 4, color=3)
    assert CpuDecoder(None, thumbnail_sizes=(8,)).decode([data, PLAIN]).decoded == [1]
    with pytest.raises(ImageError):
        read_header(data)
