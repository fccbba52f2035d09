"""Digests of files and of pixels, over every format."""

from __future__ import annotations

import hashlib
import io

import pytest
from PIL import Image

from nemo_image_curate import ImageDigest, ImageTextPairDataset
from nemo_image_curate.decode.pillow import decode_rgb
from nemo_image_curate.errors import ConfigError
from tests.decode.pictures import bad, good
from tests.make_data import write_tar
from tests.make_embedders import rows


@pytest.fixture
def ds(tmp_path, backend) -> ImageTextPairDataset:
    members = [(f"{name}.jpg".replace(" ", "-"), data) for name, data in good().items()]
    members += [
        (f"bad-{number}.{'jpg' if data is not None else 'txt'}", data or b"")
        for number, (data, _) in enumerate(bad().values())
    ]
    write_tar(tmp_path / "0.tar", members)
    return ImageTextPairDataset.from_webdataset(tmp_path, backend=backend)


def test_of_bytes(ds):
    digests = {row["key"]: row["image_sha256"] for row in rows(ImageDigest()(ds))}
    for name, data in good().items():
        assert digests[name.replace(" ", "-")] == hashlib.sha256(data).hexdigest()
    for number, (data, _) in enumerate(bad().values()):
        expected = hashlib.sha256(data).hexdigest() if data else None
        assert digests[f"bad-{number}"] == expected


def test_of_pixels(ds):
    by_key = {row["key"]: row for row in rows(ImageDigest("pixels")(ds))}
    for name, data in good().items():
        row = by_key[name.replace(" ", "-")]
        pixels = decode_rgb(data)
        height, width, _ = pixels.shape
        expected = hashlib.sha256(f"{width}x{height}\n".encode() + pixels.tobytes())
        assert (row["image_error"], row["image_sha256"]) == (None, expected.hexdigest())
    for number, (_, reason) in enumerate(bad().values()):
        if reason.startswith("too large: resized"):
            # Nothing is resized here.
            continue
        row = by_key[f"bad-{number}"]
        assert row["image_sha256"] is None
        assert row["image_error"].startswith(reason)


def test_lossless_formats_of_one_picture_have_the_same_pixels(tmp_path):
    picture = Image.effect_mandelbrot((64, 48), (-2, -1, 1, 1), 50).convert("RGB")
    members = []
    for kind, options in {"png": {}, "bmp": {}, "tiff": {}, "webp": {"lossless": True}}.items():
        buffer = io.BytesIO()
        picture.save(buffer, kind.upper(), **options)
        members.append((f"{kind}.{kind}", buffer.getvalue()))
    write_tar(tmp_path / "0.tar", members)
    ds = ImageTextPairDataset.from_webdataset(tmp_path)
    assert len({row["image_sha256"] for row in rows(ImageDigest("pixels")(ds))}) == 1
    assert len({row["image_sha256"] for row in rows(ImageDigest("bytes")(ds))}) == 4


@pytest.mark.parametrize("options", [{"of": "words"}, {"of": "pixels", "max_pixels": 0}])
def test_settings_that_cannot_be(ds, options):
    with pytest.raises(ConfigError, match="should be"):
        ImageDigest(**options)(ds)
