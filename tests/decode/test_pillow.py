"""`decode_rgb` against Pillow's own convert."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from nemo_image_curate.decode import pillow
from nemo_image_curate.decode.pillow import decode_rgb, rgb_pixels, rgba_pixels
from nemo_image_curate.errors import ImageError
from tests.decode.pictures import bad, base, good, png, saved

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


def _at_once(image: Image.Image) -> np.ndarray:
    """What is transparent on white, by Pillow and the whole picture."""
    picture = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(picture.convert("RGB"), mask=picture.getchannel("A"))
    return np.asarray(white)


def _in_many_modes() -> dict[str, Image.Image]:
    random = np.random.default_rng(0)
    rgba = Image.fromarray(random.integers(0, 256, (37, 53, 4), dtype=np.uint8))
    palette = rgba.convert("RGB").quantize(200)
    images = {mode: rgba.convert(mode) for mode in ("RGBA", "LA", "RGBa", "CMYK", "YCbCr", "1")}
    images |= {"PA": palette.convert("PA"), "P": palette}
    for name, mode, transparency in (
        *[("P, a colour", "P", 7), ("P, alphas", "P", bytes(range(200)))],
        *[("L, a level", "L", 30), ("1, a level", "1", 0)],
        ("RGB, a colour", "RGB", rgba.convert("RGB").getpixel((3, 3))),
    ):
        images[name] = palette.copy() if mode == "P" else rgba.convert(mode)
        images[name].info["transparency"] = transparency
    return images


@pytest.mark.parametrize("block_pixels", [1, 50, 53, 200, 37 * 53, 2**20])
@pytest.mark.parametrize("name", sorted(_in_many_modes()))
def test_parts_of_a_picture_give_the_pixels_of_the_whole(monkeypatch, block_pixels, name) -> None:
    monkeypatch.setattr(pillow, "_BLOCK_PIXELS", block_pixels)
    image = _in_many_modes()[name]
    is_opaque = not image.has_transparency_data
    expected = np.asarray(image.convert("RGB")) if is_opaque else _at_once(image)
    np.testing.assert_array_equal(rgb_pixels(image), expected)
    rgba = np.array(image.convert("RGBA"))
    rgba[rgba[:, :, 3] == 0] = 0
    np.testing.assert_array_equal(rgba_pixels(image), rgba)


@pytest.mark.parametrize("block_pixels", [1, 50, 2**20])
@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_parts_of_16_bit_gray_give_the_pixels_of_the_whole(monkeypatch, block_pixels, mode) -> None:
    monkeypatch.setattr(pillow, "_BLOCK_PIXELS", block_pixels)
    values = np.random.default_rng(0).integers(0, 2**16, (37, 53)).astype(np.uint16)
    stored = values.astype(">u2" if mode == "I;16B" else "<u2")
    image = Image.frombytes(mode, (53, 37), stored.tobytes())
    np.testing.assert_array_equal(rgb_pixels(image), np.stack([values >> 8] * 3, axis=2))
    image.info["transparency"] = int(values[5, 5])
    is_clear = values == values[5, 5]
    gray = np.where(is_clear, 255, values >> 8)
    np.testing.assert_array_equal(rgb_pixels(image), np.stack([gray] * 3, axis=2))
    rgba = np.where(is_clear[:, :, None], 0, np.stack([values >> 8] * 3 + [values | 255], axis=2))
    np.testing.assert_array_equal(rgba_pixels(image), rgba.astype(np.uint8))


_PEAK = """
import resource, sys
from nemo_image_curate.decode.header import open_image
from nemo_image_curate.decode.pillow import loaded, rgb_pixels
data = sys.stdin.buffer.read()
image = loaded(open_image(data), data)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rgb_pixels(image)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.parametrize("color", [2, 4, 6])
def test_a_large_picture_takes_little_more_than_its_rgb(color: int) -> None:
    """RGB, gray with alpha, RGB with alpha; Pillow's own conversions held 4 to 5 times as much."""
    side, channels = 4000, {2: 3, 4: 2, 6: 4}[color]
    data = png(side, side, bytes(side * (1 + channels * side)), color=color)
    told = subprocess.run(
        [sys.executable, "-c", _PEAK], input=data, capture_output=True, check=True
    )
    rgb = 3 * side**2 / 2**20
    assert float(told.stdout) < rgb + 30


def test_rows_wider_than_pillow_counts_are_an_error_of_the_image() -> None:
    """It raises MemoryError, as where there is none left, which would end a job."""
    with pytest.raises(ImageError, match="rows of 70000000 pixels"):
        decode_rgb(png(70_000_000, 1, b"", color=6))


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
