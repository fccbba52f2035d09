"""Digests of files and of pixels, over every format."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from nemo_image_curate import ImageDigest, ImageTextPairDataset
from nemo_image_curate.decode.pillow import decode_rgb
from nemo_image_curate.errors import ConfigError
from tests.decode.pictures import bad, base, good, saved
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
        assert row["image_error"] is None
        if any(word in name for word in ("alpha", "animated", "pages")):
            continue
        pixels = decode_rgb(data)
        height, width, _ = pixels.shape
        expected = hashlib.sha256(f"{width}x{height}\n".encode() + pixels.tobytes())
        assert row["image_sha256"] == expected.hexdigest()
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


def digests(tmp_path, pictures: dict[str, bytes], **options) -> dict[str, str]:
    """The digests of pixels by name."""
    write_tar(tmp_path / "0.tar", [(f"{name}.png", data) for name, data in pictures.items()])
    ds = ImageTextPairDataset.from_webdataset(tmp_path)
    found = rows(ImageDigest("pixels", **options)(ds))
    assert {row["image_error"] for row in found} == {None}
    return {row["key"]: row["image_sha256"] for row in found}


def test_alpha_counts_where_it_shows(tmp_path):
    rgb = base()
    opaque, half, clear, recoloured = (rgb.convert("RGBA") for _ in range(4))
    half.putalpha(128)
    alpha = Image.new("L", rgb.size, 255)
    alpha.paste(0, (10, 10, 50, 50))
    clear.putalpha(alpha)
    # Nobody sees what colour it has there.
    recoloured.paste((9, 90, 200), (10, 10, 50, 50))
    recoloured.putalpha(alpha)
    found = digests(
        tmp_path,
        {
            "rgb": saved(rgb, "PNG"),
            "opaque": saved(opaque, "PNG"),
            "opaque-webp": saved(opaque, "WEBP", lossless=True),
            "opaque-tiff": saved(opaque, "TIFF"),
            "half": saved(half, "PNG"),
            "clear": saved(clear, "PNG"),
            "recoloured": saved(recoloured, "PNG"),
            "clear-webp": saved(clear, "WEBP", lossless=True),
            "clear-tiff": saved(clear, "TIFF"),
        },
    )
    assert len({found[name] for name in found if name.startswith(("rgb", "opaque"))}) == 1
    assert len({found[name] for name in found if name.startswith(("clear", "recol"))}) == 1
    assert len(set(found.values())) == 3


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_all_frames_count(tmp_path, kind):
    frames = [base().rotate(angle).quantize(32).convert("RGB") for angle in (0, 20, 90, 180)]
    options = {"lossless": True} if kind == "WEBP" else {}

    def file(*numbers: int) -> bytes:
        first, *others = (frames[number] for number in numbers)
        more = {"save_all": True, "append_images": others} if others else {}
        return saved(first, kind, **more, **options)

    names = {"0": (0,), "01": (0, 1), "012": (0, 1, 2), "013": (0, 1, 3), "again": (0, 1, 2)}
    found = digests(tmp_path, {name: file(*numbers) for name, numbers in names.items()})
    assert found["012"] == found["again"]
    assert len(set(found.values())) == 4
    if kind in ("WEBP", "PNG"):
        stills = {"still": saved(frames[0], "PNG")}
        assert digests(tmp_path / "still", stills)["still"] == found["0"]


def test_animations_that_are_too_long_are_as_their_files_are(tmp_path):
    frames = [base().rotate(angle) for angle in range(6)]
    several = {"save_all": True, "append_images": frames[1:]}
    gif = saved(frames[0], "GIF", **several)
    pictures = {"a": gif, "b": gif, "c": gif + b"more", "cut": gif[:-2000], "cut2": gif[:-2100]}
    found = digests(tmp_path, pictures, max_pixels=3 * 123 * 91)
    assert found["a"] == found["b"]
    assert len(set(found.values())) == 4
    assert digests(tmp_path / "whole", pictures)["c"] == digests(tmp_path / "whole", pictures)["a"]


def test_all_bits_of_16_bit_gray_count(tmp_path):
    values = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    first, second = Image.fromarray(values), Image.fromarray(values + 1)
    pictures = {"a": saved(first, "PNG"), "b": saved(first, "TIFF"), "c": saved(second, "PNG")}
    found = digests(tmp_path, pictures)
    assert found["a"] == found["b"] != found["c"]


def test_orientation_is_of_pixels(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    pictures = {
        "turned": saved(base(), "PNG", exif=exif),
        "upright": saved(base().transpose(Image.Transpose.ROTATE_270), "PNG"),
        "stored": saved(base(), "PNG"),
    }
    found = digests(tmp_path, pictures, orientation="exif")
    assert found["turned"] == found["upright"] != found["stored"]
    found = digests(tmp_path, pictures)
    assert found["turned"] == found["stored"] != found["upright"]


@pytest.mark.parametrize(
    "options",
    [{"of": "words"}, {"of": "pixels", "max_pixels": 0}, {"of": "pixels", "orientation": "up"}],
)
def test_settings_that_cannot_be(ds, options):
    with pytest.raises(ConfigError, match="should be"):
        ImageDigest(**options)(ds)


def test_files_have_no_orientation(ds):
    with pytest.raises(ConfigError, match="orientation='exif' is for of='pixels'"):
        ImageDigest(orientation="exif")(ds)
