"""Small helpers: the pixels are those that the decoder and the models' preprocessing give."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from nemo_image_curate import load_image, resize, to_rgb
from nemo_image_curate.decode import CpuDecoder, Preprocessing, decode_rgb
from nemo_image_curate.errors import ConfigError, DatasetError, ImageError
from tests.make_data import jpeg


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_an_image_is_loaded_however_it_is_given(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(1))
    url = f"data:image/jpeg;base64,{base64.b64encode(jpeg(1)).decode()}"
    expected = decode_rgb(jpeg(1))
    for given in (path, str(path), jpeg(1), url, Image.open(path)):
        image = load_image(given)
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), expected)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ("https://example.org/a.jpg", ConfigError, "nothing is downloaded from the web"),
        ("data:image/png,x", ConfigError, "base64"),
        ("nowhere.jpg", DatasetError, "no image file"),
        (b"<html>", ImageError, "not an image"),
        (jpeg(1, 200, 100)[:900], ImageError, "truncated"),
        (None, ConfigError, "NoneType"),
    ],
)
def test_what_is_no_image_is_refused(given, error, said):
    with pytest.raises(error, match=said):
        load_image(given)


def test_too_many_pixels_are_refused_before_they_are_decoded():
    for given in (jpeg(1, 40, 30), Image.new("RGB", (40, 30))):
        assert load_image(given, max_pixels=1200).size == (40, 30)
        with pytest.raises(ImageError, match="too large: 40x30"):
            load_image(given, max_pixels=1199)


def test_a_picture_is_turned_when_that_is_asked_for():
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(buffer, "JPEG", exif=exif)
    assert load_image(buffer.getvalue()).size == (40, 30)
    assert load_image(buffer.getvalue(), orientation="exif").size == (30, 40)


def test_what_is_transparent_is_white_and_16_bits_are_kept():
    glass = Image.new("RGBA", (2, 1), (200, 0, 0, 0))
    glass.putpixel((1, 0), (200, 0, 0, 128))
    assert np.asarray(to_rgb(glass)).tolist() == [[[255, 255, 255], [227, 127, 127]]]
    np.testing.assert_array_equal(np.asarray(load_image(png(glass))), np.asarray(to_rgb(glass)))
    gray = Image.fromarray(np.array([[0, 128 << 8, 65535]], dtype=np.uint16))
    assert np.asarray(to_rgb(gray))[0, :, 0].tolist() == [0, 128, 255]
    with pytest.raises(ImageError, match="32-bit"):
        to_rgb(Image.new("F", (2, 2)))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("mode", "size"), [("crop", 24), ("squash", 24)])
def test_a_resized_image_is_what_a_model_would_see(mode, size, interpolation):
    data = png(Image.open(io.BytesIO(jpeg(3, 50, 37))))
    resize_mode = "squash" if mode == "squash" else "shortest"
    settings = Preprocessing(size, resize_mode, 1.0, interpolation, (0, 0, 0), (1, 1, 1))
    pixels = CpuDecoder(settings).decode([data]).pixels[0]
    resized = np.asarray(resize(load_image(data), size, mode, interpolation))
    np.testing.assert_array_equal(resized, (255 * pixels.permute(1, 2, 0)).round().numpy())


def test_the_shorter_side_becomes_the_size():
    image = Image.open(io.BytesIO(jpeg(3, 50, 37)))
    small = resize(image, 20)
    assert small.size == (27, 20)
    by_pillow = image.resize((27, 20), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(small, int) - np.asarray(by_pillow, int)).max() <= 1
    assert resize(small, 20).tobytes() == small.tobytes()


def test_unusable_sizes_are_refused():
    image = Image.new("RGB", (40, 1))
    for size in (0, -3, 2.5, True, (20, 20)):
        with pytest.raises(ConfigError, match="positive integer"):
            resize(image, size)
    with pytest.raises(ConfigError, match="mode='longest'"):
        resize(image, 8, "longest")
    with pytest.raises(ConfigError, match="interpolation"):
        resize(image, 8, interpolation="nearest")
    with pytest.raises(ImageError, match="too large: resized 400000x10000"):
        resize(image, 10_000)
