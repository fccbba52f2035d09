"""However an image is given, the same bytes come of it."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from nemo_image_curate.decode import decode_rgb
from nemo_image_curate.decode.inputs import image_content, image_contents
from nemo_image_curate.errors import ConfigError, DatasetError, ImageError
from tests.make_data import jpeg


def data_url(content: bytes, kind: str = "image/jpeg") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def test_a_path_bytes_and_a_data_url_give_the_same_bytes(tmp_path):
    path = tmp_path / "größe 画像.jpg"
    path.write_bytes(jpeg(1))
    for image in (
        path,
        str(path),
        f"file://{path}",
        jpeg(1),
        bytearray(jpeg(1)),
        data_url(jpeg(1)),
    ):
        assert image_content(image) == jpeg(1)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_a_pillow_image_keeps_its_pixels(mode):
    rgb = Image.open(io.BytesIO(jpeg(1)))
    image = Image.fromarray(np.arange(768, dtype=np.uint16).reshape(24, 32) * 85)
    if mode != "I;16":
        image = rgb.convert(mode)
    expected = np.asarray(image) >> 8 if mode == "I;16" else np.asarray(image.convert("RGB"))
    found = decode_rgb(image_content(image))
    if mode == "I;16":
        found = found[:, :, 0]
    np.testing.assert_array_equal(found, expected)


def test_of_an_animation_the_frame_that_is_open_counts():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    animation = Image.open(buffer)
    animation.seek(1)
    assert decode_rgb(image_content(animation))[0, 0].tolist() == [0, 0, 255]


def test_a_pillow_image_of_a_damaged_file_gives_the_reason():
    with pytest.raises(ImageError, match="truncated"):
        image_content(Image.open(io.BytesIO(jpeg(1, 400, 300)[:2000])))


def test_a_pillow_image_of_too_many_pixels_is_refused_before_it_is_read():
    with pytest.raises(ImageError, match="too large: 10000x9000"):
        image_content(Image.new("1", (10_000, 9_000)))


def test_large_content_is_refused_in_every_form(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(1))
    size = len(jpeg(1))
    for image in (path, jpeg(1), data_url(jpeg(1))):
        assert image_content(image, max_bytes=size) == jpeg(1)
        with pytest.raises(ImageError, match=f"too large: .* limit {size - 1}"):
            image_content(image, max_bytes=size - 1)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(DatasetError, match=r"no image file .*nowhere\.jpg"):
        image_content(tmp_path / "nowhere.jpg")
    with pytest.raises(DatasetError, match=str(tmp_path)):
        image_content(tmp_path)
    with pytest.raises(DatasetError):
        image_content("a\0b")


def test_a_remote_image_that_cannot_be_read_gives_the_reason(monkeypatch):
    def fail(location):
        raise RuntimeError("no credentials")

    monkeypatch.setattr("nemo_image_curate.storage.stat", fail)
    with pytest.raises(DatasetError, match=r"cannot read s3://bucket/a\.jpg: no credentials"):
        image_content("s3://bucket/a.jpg")


def test_other_types_are_refused():
    with pytest.raises(ConfigError, match="not as int"):
        image_content(7)  # type: ignore[arg-type]


@pytest.mark.parametrize("url", ["http://127.0.0.1/a.jpg", "HTTPS://example.org/a.jpg"])
def test_nothing_is_fetched_from_the_web(url):
    with pytest.raises(ConfigError, match="nothing is downloaded"):
        image_content(url)


def test_of_many_each_has_its_content_or_its_reason(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(1))
    contents, reasons = image_contents(
        [path, jpeg(2), None, "none.jpg", "data:,x", "http://x/y.jpg", data_url(jpeg(3))]
    )
    assert contents == [jpeg(1), jpeg(2), None, None, None, None, jpeg(3)]
    assert [reason is None for reason in reasons] == [True, True, True, False, False, False, True]
    assert "no image file" in reasons[3]
    assert "base64" in reasons[4]
    assert "nothing is downloaded" in reasons[5]
    with pytest.raises(ConfigError, match="not as int"):
        image_contents([path, 7])  # type: ignore[list-item]
