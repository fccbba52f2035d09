"""`decode_rgb` against Pillow's own convert."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from nemo_image_curate.decode.pillow import decode_rgb
from nemo_image_curate.errors import ImageError
from tests.decode.pictures import bad, base, good, saved

TRANSPARENT = {name for name in good() if "alpha" in name}
SIXTEEN_BIT_GRAY = {"png 16 bit gray", "tiff 16 bit", "pgm 16 bit"}


@pytest.mark.parametrize("name", sorted(set(good()) - SIXTEEN_BIT_GRAY - TRANSPARENT))
def test_pixels_are_those_of_convert(name: str) -> None:
    data = good()[name]
    pixels = decode_rgb(data)
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_what_is_transparent_is_on_white() -> None:
    """All 65,536 pairs of a level and an alpha."""
    alpha, level = np.mgrid[0:256, 0:256].astype(np.uint8)
    gray = Image.fromarray(level)
    expected = np.rint((level.astype(float) * alpha + 255.0 * (255 - alpha)) / 255)
    for mode in ("RGBA", "LA"):
        image = Image.merge(mode, [gray] * (len(mode) - 1) + [Image.fromarray(alpha)])
        for kind in ("PNG", "TIFF", "WEBP")[: 3 if mode == "RGBA" else 2]:
            options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
            pixels = decode_rgb(saved(image, kind, **options))
            np.testing.assert_array_equal(pixels, np.stack([expected] * 3, axis=2))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "AVIF", "GIF", "ICO", "JPEG2000", "QOI"])
def test_what_is_not_seen_is_white(kind: str) -> None:
    """Whatever colour it has there."""
    pictures = []
    for colour in ((0, 0, 0), (200, 30, 90)):
        image = Image.new("RGBA", (64, 64), (*colour, 0))
        image.paste((20, 60, 220, 255), (16, 16, 48, 48))
        pictures.append(decode_rgb(saved(image, kind)))
    for pixels in pictures:
        assert pixels.shape == (64, 64, 3)
        assert pixels[:14].min() > 250, kind
        assert abs(pixels[32, 32].astype(int) - (20, 60, 220)).max() < 8


def test_palettes_with_alpha() -> None:
    colors = Image.new("P", (4, 1))
    colors.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    colors.putdata([0, 1, 2, 3])
    for alphas in (b"\x00", b"\xff\x80", b"\x00\xff\x40\x01"):
        pixels = decode_rgb(saved(colors, "PNG", transparency=alphas))
        known = [*alphas, 255, 255, 255, 255][:4]
        for color, alpha, pixel in zip(
            ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)), known, pixels[0], strict=True
        ):
            expected = [round((c * alpha + 255 * (255 - alpha)) / 255) for c in color]
            assert pixel.tolist() == expected


@pytest.mark.parametrize("name", sorted(set(good()) - TRANSPARENT - SIXTEEN_BIT_GRAY))
def test_an_alpha_of_255_changes_nothing(name: str) -> None:
    rgb = Image.fromarray(decode_rgb(good()[name]))
    rgba = rgb.convert("RGBA")
    np.testing.assert_array_equal(decode_rgb(saved(rgba, "PNG")), np.asarray(rgb))


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
