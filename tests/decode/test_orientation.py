"""Pictures that EXIF turns: every format that can say so, and every way to turn."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from nemo_image_curate.decode import CpuDecoder, Preprocessing, decode_rgb, read_header
from nemo_image_curate.decode.dali import DaliDecoder
from nemo_image_curate.errors import ConfigError
from tests.decode.pictures import base, chunk, saved

HALF = (0.5, 0.5, 0.5)
SMALL = Preprocessing(32, "shortest", 0.875, "bicubic", HALF, HALF)
KINDS = ["JPEG", "PNG", "WEBP", "AVIF", "MPO"]


def turned(kind: str, turn: object, image: Image.Image | None = None) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = turn
    options = {"lossless": True} if kind == "WEBP" else {}
    return saved(image or base(), kind, exif=exif, **options)


def shown(data: bytes) -> np.ndarray:
    """As programs for people show it."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("turn", range(1, 9))
def test_all_ways_to_turn(kind: str, turn: int) -> None:
    data = turned(kind, turn)
    np.testing.assert_array_equal(decode_rgb(data, orientation="exif"), shown(data))
    assert decode_rgb(data).shape == (91, 123, 3)
    header = read_header(data, "exif")
    assert (header.height, header.width) == ((91, 123) if turn < 5 else (123, 91))
    assert header.turn == turn
    assert read_header(data).turn == 1


@pytest.mark.parametrize("kind", ["L", "RGBA", "P", "CMYK"])
def test_all_modes(kind: str) -> None:
    image = base().convert(kind)
    if kind == "RGBA":
        image.putalpha(base().convert("L"))
    data = turned("JPEG" if kind == "CMYK" else "PNG", 6, image)
    expected = np.rot90(decode_rgb(data), -1)
    np.testing.assert_array_equal(decode_rgb(data, orientation="exif"), expected)


@pytest.mark.parametrize("turn", range(1, 9))
def test_tiff_is_upright_in_any_case(turn: int) -> None:
    data = turned("TIFF", turn)
    plain, exif = decode_rgb(data), decode_rgb(data, orientation="exif")
    np.testing.assert_array_equal(plain, exif)
    np.testing.assert_array_equal(plain, shown(data))
    header = read_header(data, "exif")
    assert (header.height, header.width) == plain.shape[:2]


def test_heic_is_upright_in_any_case() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    exif, image = Image.Exif(), base().copy()
    exif[0x0112] = 6
    # So its encoder writes how it is turned into the container, which decides.
    image.info["exif"] = exif.tobytes()
    data = saved(image, "HEIF")
    plain = decode_rgb(data)
    np.testing.assert_array_equal(plain, decode_rgb(data, orientation="exif"))
    assert plain.shape == (123, 91, 3)
    assert read_header(data, "exif")[1:3] == (91, 123)


def test_what_exif_says_behind_the_pixels_of_a_png() -> None:
    data = saved(base(), "PNG")
    exif = Image.Exif()
    exif[0x0112] = 8
    late = data[:-12] + chunk(b"eXIf", exif.tobytes()[6:]) + data[-12:]
    np.testing.assert_array_equal(
        decode_rgb(late, orientation="exif"), np.rot90(np.asarray(base()))
    )


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("value", [0, 9, 300])
def test_broken_values_turn_nothing(value: object) -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        data = turned(kind, value)
        np.testing.assert_array_equal(decode_rgb(data, orientation="exif"), decode_rgb(data))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_broken_exif_turns_nothing() -> None:
    for exif in (
        b"Exif\0\0",
        b"Exif\0\0II*\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff" + bytes(9),
        b"x" * 40,
    ):
        data = saved(base(), "JPEG", exif=exif)
        np.testing.assert_array_equal(decode_rgb(data, orientation="exif"), decode_rgb(data))


@pytest.mark.parametrize("decoder", ["cpu", "dali"])
def test_decoders_turn_before_they_resize(decoder: str) -> None:
    options = {"orientation": "exif", "thumbnail_sizes": (24,)}
    if decoder == "dali":
        pytest.importorskip("nvidia.dali", reason="DALI is not installed")
        made = DaliDecoder(SMALL, device="cpu", num_threads=1, **options)
    else:
        made = CpuDecoder(SMALL, **options)
    files = [turned(kind, turn) for kind in ("JPEG", "PNG") for turn in range(2, 9)]
    batch = made.decode(files)
    assert batch.errors == [None] * len(files)
    upright = CpuDecoder(SMALL, thumbnail_sizes=(24,)).decode(
        [saved(Image.fromarray(shown(data)), "PNG") for data in files]
    )
    assert (batch.widths, batch.heights) == (upright.widths, upright.heights)
    assert (batch.pixels == upright.pixels).all()
    assert (batch.thumbnails[24] == upright.thumbnails[24]).all()


def test_xmp_says_it_too() -> None:
    packet = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
    )
    segment = b"http://ns.adobe.com/xap/1.0/\0" + packet
    data = saved(base(), "JPEG")
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]
    np.testing.assert_array_equal(
        decode_rgb(data, orientation="exif"), decode_rgb(data)[::-1, ::-1]
    )


def test_other_words_are_refused() -> None:
    with pytest.raises(ConfigError, match="orientation='up' should be 'stored' or 'exif'"):
        CpuDecoder(SMALL, orientation="up")
