from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nemo_image_curate.decode import decode_rgb
from nemo_image_curate.errors import ConfigError, DatasetError, ImageError
from nemo_image_curate.search.query import Query, direction, image_content
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
    with pytest.raises(ConfigError, match="not int"):
        image_content(7)  # type: ignore[arg-type]


def unit(*values: float) -> np.ndarray:
    return (np.array(values) / np.linalg.norm(values)).astype(np.float32)


def test_direction_is_the_normalised_weighted_sum():
    found = direction([(1.0, unit(1, 0, 0)), (2.0, unit(0, 1, 0)), (-0.5, unit(0, 0, 1))])
    np.testing.assert_allclose(found, unit(1, 2, -0.5), atol=1e-7)
    assert found.dtype == np.float32


@given(
    st.lists(
        st.tuples(
            st.floats(1e-3, 1e3),
            st.lists(st.floats(0.1, 1), min_size=3, max_size=3).map(lambda v: unit(*v)),
        ),
        min_size=1,
        max_size=4,
    ),
    st.floats(1e-3, 1e3),
)
def test_only_the_proportion_of_weights_matters(parts, factor):
    found = direction(parts)
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-6)
    scaled = direction([(weight * factor, vector) for weight, vector in parts])
    np.testing.assert_allclose(scaled, found, atol=1e-6)


def test_weights_of_zero_and_parts_that_cancel_are_refused():
    with pytest.raises(ConfigError, match="all weights"):
        direction([(0.0, unit(1, 0)), (0.0, unit(0, 1))])
    vector = unit(*np.random.default_rng(0).standard_normal(512))
    with pytest.raises(ConfigError, match="cancel"):
        direction([(1.0, vector), (-1.0, vector)])


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "needs a text"),
        ({"negative_text": "dog"}, "negative_text alone"),
        ({"text": "dog", "k": 0}, "k=0"),
        ({"text": "dog", "k": -3}, "k=-3"),
        ({"text": "dog", "k": 2.5}, r"k=2\.5"),
        ({"text": "dog", "k": True}, "k=True"),
        ({"text": "dog", "text_weight": -1.0}, "text_weight=-1"),
        ({"text": "dog", "negative_weight": float("nan")}, "negative_weight=nan"),
        ({"image": b"", "image_weight": float("inf")}, "image_weight=inf"),
        ({"text": "dog", "collapse": 0.0}, "collapse=0"),
        ({"text": "dog", "collapse": 1.5}, r"collapse=1\.5"),
        ({"text": "dog", "text_weight": "a"}, "text_weight='a'"),
        ({"text": "dog", "image_weight": True}, "image_weight=True"),
        ({"text": "dog", "text_weight": None}, "text_weight=None"),
        ({"text": "dog", "text_weight": 10**400}, "text_weight=1000"),
        ({"text": "dog", "collapse": "x"}, "collapse='x'"),
        ({"text": "dog", "collapse": True}, "collapse=True"),
        ({"text": "dog", "where": 5}, "where=5"),
        ({"text": ["1"]}, r"text=\['1'\]"),
        ({"like": 7}, "like=7"),
        ({"text": "dog", "negative_text": b"a"}, "negative_text=b'a'"),
        ({"text": "dog", "over": "videos"}, "over='videos'"),
        ({"image": b"", "fuse_captions": True}, "needs a text"),
    ],
)
def test_what_no_searcher_could_answer_is_refused(options, problem):
    with pytest.raises(ConfigError, match=problem):
        Query(**options).check()
