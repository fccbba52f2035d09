"""Scores and flags of pictures against scikit-image, Pillow and NumPy, in every format."""

from __future__ import annotations

import dataclasses
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps

from nemo_image_curate import ImageQuality, ImageTextPairDataset
from nemo_image_curate.decode.batch import DecodedBatch
from nemo_image_curate.decode.cpu import CpuDecoder
from nemo_image_curate.decode.header import read_header
from nemo_image_curate.decode.pillow import decode_rgb
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.quality import measures
from nemo_image_curate.quality.thresholds import IMAGE_THRESHOLDS
from tests.decode.pictures import good
from tests.make_data import write_tar
from tests.make_embedders import ThumbEmbedder, rows

FLAGS = [name for name in ImageQuality().columns() if name.startswith("is_")]


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(*files: bytes) -> DecodedBatch:
    batch = CpuDecoder(None, thumbnail_sizes=(256,)).decode(files)
    assert batch.decoded == list(range(len(files)))
    return batch


def measured(*files: bytes, **thresholds: float) -> list[dict]:
    values = ImageQuality(thresholds).load("cpu")(decoded(*files))
    assert set(values) == set(ImageQuality().columns())
    return [{name: values[name][n] for name in values} for n in range(len(files))]


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    data = pytest.importorskip("skimage.data")
    return [Image.fromarray(picture) for picture in (data.astronaut(), data.coffee(), data.cat())]


def pillows(image: Image.Image) -> dict[str, float]:
    """CleanVision's scores, by Pillow and NumPy, of the picture at full size."""
    r, g, b = np.moveaxis(np.asarray(image.convert("RGB")).astype(float), 2, 0)
    brightness = np.sqrt(0.241 * r**2 + 0.691 * g**2 + 0.068 * b**2) / 255
    ratio = max(1, max(image.size) / 64)
    small = image.resize((int(image.width // ratio), int(image.height // ratio))).convert("L")
    deviation = np.asarray(small.filter(ImageFilter.FIND_EDGES)).std()
    spread = 1 - math.exp(-np.std(small.histogram()) / 100)
    return {
        "dark_score": np.percentile(brightness, 99),
        "light_score": 1 - np.percentile(brightness, 5),
        "low_information_score": min(1, image.convert("RGB").entropy() / 10),
        "blurry_score": min(1, 1 - math.exp(-deviation / 100) + spread * (spread > 0.18)),
    }


def test_scores_are_those_of_pillow_at_full_size(photographs):
    pictures = [
        *photographs,
        *(photo.filter(ImageFilter.GaussianBlur(12)) for photo in photographs),
        *(photo.point(lambda value: value * 0.25) for photo in photographs),
        *(photo.point(lambda value: 255 - (255 - value) * 0.04) for photo in photographs),
        photographs[1].crop((0, 0, 600, 150)),
    ]
    found = measured(*map(encoded, pictures))
    for row, picture in zip(found, pictures, strict=True):
        expected = pillows(picture)
        assert {name: row[name] for name in expected} == pytest.approx(expected, abs=0.07)
        for name, score in expected.items():
            threshold = IMAGE_THRESHOLDS[name.removesuffix("_score")].value
            if abs(score - threshold) > 0.07:
                assert row[f"is_{name.removesuffix('_score')}"] == (score < threshold)
    for name, those in {
        "is_blurry": found[3:6],
        "is_dark": found[6:9],
        "is_light": found[9:12],
    }.items():
        assert [row[name] for row in those] == [True] * 3
        assert not any(row[name] for row in found[:3])
    assert found[12]["is_odd_aspect_ratio"]
    assert found[12]["aspect_ratio"] == 4


def test_the_entropy_is_that_of_scikit_image(photographs):
    measure = pytest.importorskip("skimage.measure")
    thumbnails = decoded(*map(encoded, photographs)).thumbnails[256]
    found = measures.color_measures(thumbnails, (5, 99))
    for n, picture in enumerate(thumbnails.permute(0, 2, 3, 1).numpy()):
        luma = np.round(picture.astype(np.float64) @ [0.299, 0.587, 0.114])
        assert found["entropy"][n] == pytest.approx(measure.shannon_entropy(luma), abs=0.04)
        exact = measure.shannon_entropy(luma.flatten()[::7])
        assert found["entropy"][n] == pytest.approx(exact, abs=1e-3)
        side_by_side = Image.fromarray(picture.reshape(-1, 1, 3)[::7].copy()).entropy()
        assert found["color_entropy"][n] == pytest.approx(side_by_side, abs=1e-8)


def test_borders_are_found_and_measured():
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8))
    box = ImageOps.expand(photo, (0, 50), "black")
    frame = ImageOps.expand(photo, 100, (250, 250, 250))
    # JPEG smears noise over the borders' last block.
    for kind in ("PNG", "JPEG"):
        none, boxed, framed, plain = measured(
            *(encoded(one, kind) for one in (photo, box, frame, Image.new("RGB", (9, 5), "teal")))
        )
        assert none["border_fraction"] == 0
        sides = [boxed[f"border_{side}"] for side in ("top", "bottom", "left", "right")]
        assert sides == pytest.approx([1 / 6, 1 / 6, 0, 0], abs=1 / 32)
        assert boxed["border_fraction"] == pytest.approx(1 / 3, abs=1 / 16)
        assert framed["border_fraction"] == pytest.approx(1 - 0.5 * 0.6, abs=1 / 16)
        assert plain["border_fraction"] == plain["border_left"] == 1
        assert [row["is_blank"] for row in (none, boxed, framed, plain)] == [False] * 3 + [True]


def test_gray_is_what_looks_gray(photographs):
    photo = photographs[0]
    tinted = ImageOps.colorize(photo.convert("L"), "black", (255, 240, 220))
    found = measured(
        *(encoded(photo), encoded(photo.convert("L")), encoded(photo.convert("L").convert("RGB"))),
        *(encoded(photo.convert("L").convert("RGB"), "JPEG", quality=60), encoded(tinted)),
    )
    assert [row["is_grayscale"] for row in found] == [False, True, True, True, False]
    # The same picture has the same scores in either mode.
    assert found[1]["low_information_score"] == found[2]["low_information_score"]
    assert [row["image_mode"] for row in found[:3]] == ["RGB", "L", "RGB"]


def test_every_format_gives_what_pillow_says_of_it():
    names, files = [*good()], [*good().values()]
    found = dict(zip(names, measured(*files), strict=True))
    for name, file in good().items():
        row, header = found[name], read_header(file)
        pixels = decode_rgb(file)
        height, width = pixels.shape[:2]
        assert row["aspect_ratio"] == width / height
        assert row["megapixels"] == width * height / 1e6
        assert row["bytes_per_pixel"] == len(file) / (width * height)
        assert row["image_mode"] == header.mode
        brightness = np.sqrt(pixels.astype(float) ** 2 @ [0.241, 0.691, 0.068]) / 255
        if min(width, height) > 64:
            assert row["dark_score"] == pytest.approx(np.percentile(brightness, 99), abs=0.06), name
    # As they were saved: tests/decode/pictures.py.
    assert found["jpeg rotated"]["exif_orientation"] == 6
    assert found["jpeg"]["exif_orientation"] == 1
    depths = {name: row["bit_depth"] for name, row in found.items()}
    assert (depths["jpeg"], depths["png 16 bit gray"], depths["gif"]) == (8, 16, 8)
    assert set(depths.values()) <= {1, 2, 4, 8, 10, 12, 16}


def test_bits_of_a_sample():
    picture = Image.new("L", (20, 10), 99)
    deep = Image.fromarray(np.full((10, 20), 999, np.uint16))
    files = {
        1: encoded(picture.convert("1")),
        2: encoded(picture.convert("P"), bits=2),
        4: encoded(picture.convert("P"), bits=4),
        8: encoded(picture, "TIFF"),
        16: encoded(deep, "TIFF"),
    }
    assert [read_header(file).bit_depth for file in files.values()] == [*files]
    assert read_header(encoded(deep, "JPEG2000")).bit_depth == 16
    assert read_header(encoded(picture.convert("RGB"), "AVIF")).bit_depth == 8
    assert read_header(encoded(picture.convert("1"), "TIFF")).bit_depth == 1


def test_a_picture_does_not_depend_on_its_batch_nor_on_threads(photographs):
    files = [encoded(photo.resize((90 + 40 * n, 200))) for n, photo in enumerate(photographs * 3)]
    together = measured(*files)
    assert [measured(file)[0] for file in files] == together
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert measured(*files[::-1])[::-1] == together
    finally:
        torch.set_num_threads(before)


def test_a_device_changes_no_flag(device):
    batch = decoded(*good().values())
    moved = {side: images.to(device) for side, images in batch.thumbnails.items()}
    measure = ImageQuality().load(device)
    expected, found = measure(batch), measure(dataclasses.replace(batch, thumbnails=moved))
    for name, values in expected.items():
        if isinstance(values[0], float):
            np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-4, err_msg=name)
        else:
            assert found[name] == values, name


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (3000, 2), (2, 3), (64, 64), (65, 1)])
def test_pictures_of_odd_sizes(size):
    (row,) = measured(encoded(Image.new("RGB", size, (10, 10, 10))))
    assert row["is_dark"]
    assert row["is_blank"]
    assert row["is_low_information"]
    assert row["is_odd_aspect_ratio"] == (min(size) / max(size) < 0.35)
    assert row["entropy"] == 0
    assert all(math.isfinite(value) for value in row.values() if isinstance(value, float))


def test_thresholds_are_changed_and_recorded(tmp_path, photographs):
    file = encoded(photographs[0])
    (row,) = measured(file)
    (strict,) = measured(file, dark=1.01, odd_aspect_ratio=2.0, grayscale=255, blank=0.0)
    assert [name for name in FLAGS if strict[name] and not row[name]] == [
        *("is_dark", "is_blank", "is_odd_aspect_ratio", "is_grayscale")
    ]
    stage = ImageQuality({"dark": 0.25})
    assert stage.provenance()["is_dark"]["thresholds"]["dark"] == 0.25
    assert stage.provenance()["is_dark"]["thresholds"]["light"] == 0.05
    assert all(dataclasses.astuple(threshold) for threshold in IMAGE_THRESHOLDS.values())
    for wrong, told in (
        ({"drak": 0.2}, "did you mean 'dark'"),
        ({"sepia": 1}, "there are dark, light"),
        ({"dark": math.nan}, "finite number"),
        ({"dark": "0.2"}, "finite number"),
        (["dark"], "a mapping"),
    ):
        with pytest.raises(ConfigError, match=told):
            ImageQuality(wrong).check()


def test_in_a_dataset_and_in_the_pass_of_an_embedder(tmp_path, photographs, backend):
    pictures = {
        "a.png": encoded(photographs[0]),
        "b.jpg": encoded(Image.new("RGB", (64, 32), "white"), "JPEG"),
        "c.jpg": b"no picture",
        "d.txt": b"a caption",
    }
    write_tar(tmp_path / "0.tar", pictures.items())
    ds = ImageTextPairDataset.from_webdataset(tmp_path, backend=backend)
    found = rows(ImageQuality()(ds))
    assert [[name for name in FLAGS if row[name]] for row in found[:2]] == [
        [],
        ["is_light", "is_blank", "is_low_information", "is_grayscale"],
    ]
    for name in ImageQuality().columns():
        assert [row[name] is None for row in found] == [False, False, True, True], name
    if backend == "cpu":
        inline = rows(ThumbEmbedder(image_stages=[ImageQuality()])(ds))
        assert [{name: row[name] for name in ImageQuality().columns()} for row in inline] == [
            {name: row[name] for name in ImageQuality().columns()} for row in found
        ]
