"""`decode_rgb` against Pillow's own convert."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from nemo_image_curate.decode.pillow import decode_rgb
from nemo_image_curate.errors import ImageError
from tests.decode.pictures import bad, base, good, saved

SIXTEEN_BIT_GRAY = {"png 16 bit gray", "tiff 16 bit", "pgm 16 bit"}


@pytest.mark.parametrize("name", sorted(set(good()) - SIXTEEN_BIT_GRAY))
def test_pixels_are_those_of_convert(name: str) -> None:
    data = good()[name]
    pixels = decode_rgb(data)
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("name", sorted(SIXTEEN_BIT_GRAY))
def test_16_bit_gray_keeps_its_high_byte(name: str) -> None:
    gray = np.asarray(base().convert("L"))
    np.testing.assert_array_equal(decode_rgb(good()[name]), np.stack([gray] * 3, axis=2))


def test_16_bit_rgb_keeps_its_high_byte() -> None:
    np.testing.assert_array_equal(decode_rgb(good()["png 16 bit rgb"]), np.asarray(base()))


def test_animations_give_their_first_frame() -> None:
    for name in ("png animated", "tiff pages"):
        np.testing.assert_array_equal(decode_rgb(good()[name]), np.asarray(base()))


@pytest.mark.parametrize("name", sorted(set(bad()) - {"none", "thread"}))
def test_reasons(name: str) -> None:
    data, reason = bad()[name]
    assert data is not None
    with pytest.raises(ImageError) as caught:
        decode_rgb(data)
    assert str(caught.value).startswith(reason.removeprefix("decode: "))


def test_integers_of_32_bits_are_refused() -> None:
    with pytest.raises(ImageError, match=r"32-bit samples \(mode I\) have no defined white"):
        decode_rgb(saved(base().convert("I"), "TIFF"))


def test_the_limit_of_pixels() -> None:
    with pytest.raises(ImageError, match="too large: 123x91 = 11193 pixels, limit 11192"):
        decode_rgb(good()["jpeg"], max_pixels=11_192)
    assert decode_rgb(good()["jpeg"], max_pixels=11_193).shape == (91, 123, 3)
