"""Statistics against their formulas in NumPy, on pictures whose numbers are known."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image, ImageFilter

from nemo_image_curate import ImageStatistics, ImageTextPairDataset
from nemo_image_curate.quality.statistics import _measured, measure
from tests.make_data import jpeg, write_tar
from tests.make_embedders import LoggingEmbedder, ThumbEmbedder, computed, rows


def by_formula(rgb: np.ndarray) -> dict[str, float]:
    """The statistics of one (H, W, 3) picture, as the papers write them."""
    red, green, blue = np.moveaxis(rgb.astype(np.float64), 2, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    laplacian = (
        luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - 4 * luma[1:-1, 1:-1]
    )
    rg, yb = red - green, (red + green) / 2 - blue
    deviation = np.sqrt(rg.std() ** 2 + yb.std() ** 2)
    return {
        "brightness": luma.mean(),
        "contrast": luma.std(),
        "sharpness": laplacian.var(),
        "colorfulness": deviation + 0.3 * np.sqrt(rg.mean() ** 2 + yb.mean() ** 2),
    }


def measured(*pictures: np.ndarray) -> list[dict[str, float]]:
    stack = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    found = measure(stack)
    assert {value.dtype for value in found.values()} == {torch.float32}
    return [{name: float(value[n]) for name, value in found.items()} for n in range(len(pictures))]


def noise(seed: int, side: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def filled(*color: int) -> np.ndarray:
    return np.full((64, 64, 3), color, dtype=np.uint8)


def checkerboard() -> np.ndarray:
    rows, columns = np.indices((64, 64))
    return np.repeat(((rows + columns) % 2 * 255).astype(np.uint8)[:, :, None], 3, axis=2)


def test_against_the_formulas():
    pictures = [noise(1), noise(2) // 3, filled(200, 30, 90), checkerboard(), noise(3)]
    pictures.append(np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8))
    for found, picture in zip(measured(*pictures), pictures, strict=True):
        assert found == pytest.approx(by_formula(picture), rel=1e-4, abs=1e-3)


def test_pictures_whose_numbers_are_known():
    black, white, checks, red = measured(
        filled(0, 0, 0), filled(255, 255, 255), checkerboard(), filled(255, 0, 0)
    )
    nothing = dict.fromkeys(("brightness", "contrast", "sharpness", "colorfulness"), 0)
    assert black == pytest.approx(nothing, abs=1e-4)
    assert white == pytest.approx(nothing | {"brightness": 255}, abs=1e-2)
    assert checks["brightness"] == checks["contrast"] == pytest.approx(127.5, abs=1e-2)
    assert checks["sharpness"] == pytest.approx((4 * 255) ** 2, rel=1e-4)
    assert checks["colorfulness"] == pytest.approx(0, abs=1e-3)
    assert red["brightness"] == pytest.approx(0.299 * 255, rel=1e-5)
    assert red["colorfulness"] == pytest.approx(0.3 * np.hypot(255, 127.5), rel=1e-4)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_picture_does_not_depend_on_its_batch_or_on_threads(threads):
    alone = measured(noise(5, 256))[0]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = measured(noise(6, 256), noise(5, 256), filled(0, 0, 0).repeat(4, 0).repeat(4, 1))
    finally:
        torch.set_num_threads(before)
    assert together[1] == alone
    # As a GPU does it: all at once.
    stack = torch.from_numpy(np.stack([noise(6, 256), noise(5, 256)])).permute(0, 3, 1, 2)
    at_once = {name: float(value[1].float()) for name, value in _measured(stack).items()}
    assert at_once == alone


def test_a_device_changes_next_to_nothing(device):
    stack = torch.from_numpy(np.stack([noise(1), noise(2) // 3, checkerboard()]))
    images = stack.permute(0, 3, 1, 2)
    expected, found = measure(images), measure(images.to(device))
    for name, values in found.items():
        torch.testing.assert_close(values.cpu(), expected[name], rtol=1e-4, atol=1e-3)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def photograph() -> Image.Image:
    data = pytest.importorskip("skimage.data")
    return Image.fromarray(data.astronaut())


def statistics(folder, pictures: dict[str, bytes], backend: str = "cpu") -> dict[str, dict]:
    write_tar(folder / "0.tar", pictures.items())
    ds = ImageStatistics()(ImageTextPairDataset.from_webdataset(folder, backend=backend))
    return {row["key"]: row for row in rows(ds)}


def test_a_photograph_and_what_was_done_to_it(tmp_path, photograph, backend):
    found = statistics(
        tmp_path,
        {
            "plain.png": encoded(photograph),
            "blurred.png": encoded(photograph.filter(ImageFilter.GaussianBlur(6))),
            "dark.png": encoded(photograph.point(lambda value: value * 0.2)),
            "gray.png": encoded(photograph.convert("L")),
            "flat.png": encoded(photograph.point(lambda value: 100 + value // 8)),
            "wide.jpg": encoded(photograph.resize((512, 100)), "JPEG"),
        },
        backend,
    )
    plain = found["plain"]
    small = photograph.resize((256, 256), Image.Resampling.BILINEAR)
    expected = by_formula(np.asarray(small))
    assert {name: plain[name] for name in expected} == pytest.approx(expected, rel=0.02)
    assert found["blurred"]["sharpness"] < plain["sharpness"] / 20
    assert found["blurred"]["brightness"] == pytest.approx(plain["brightness"], rel=0.02)
    assert found["dark"]["brightness"] == pytest.approx(0.2 * plain["brightness"], rel=0.05)
    assert found["gray"]["colorfulness"] == pytest.approx(0, abs=0.01)
    assert plain["colorfulness"] > 20
    assert found["flat"]["contrast"] < plain["contrast"] / 6
    assert (plain["width"], plain["height"], plain["image_format"]) == (512, 512, "png")
    wide = found["wide"]
    assert (wide["width"], wide["height"], wide["image_format"]) == (512, 100, "jpeg")


def test_size_and_format_are_those_of_the_bytes(tmp_path):
    rotated = Image.new("RGB", (40, 20), (9, 99, 199))
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    rotated.save(buffer, "JPEG", exif=exif)
    found = statistics(
        tmp_path,
        {
            "a.jpg": encoded(Image.new("RGB", (30, 70)), "PNG"),
            "b.png": buffer.getvalue(),
            "c.gif": encoded(Image.new("P", (5, 6)), "GIF"),
            "d.jpg": encoded(Image.new("RGB", (1, 1)), "WEBP"),
        },
    )
    assert {
        key: (row["width"], row["height"], row["image_format"]) for key, row in found.items()
    } == {
        "a": (30, 70, "png"),
        "b": (40, 20, "jpeg"),
        "c": (5, 6, "gif"),
        "d": (1, 1, "webp"),
    }


def test_columns_and_their_nulls(tmp_path):
    found = statistics(tmp_path, {"a.jpg": b"no picture", "b.txt": b"caption", "c.jpg": jpeg(1)})
    assert [found[key]["image_warning"] for key in "abc"] == [None] * 3
    for name, kind in ImageStatistics().columns().items():
        if name == "image_warning":
            continue
        assert [found[key][name] is None for key in "abc"] == [True, True, False], name
        assert isinstance(found["c"][name], str if pa.types.is_string(kind) else (int, float))
    assert [(found[key]["image_error"] or "").partition(":")[0] for key in "abc"] == [
        "decode",
        "missing",
        "",
    ]


def test_inline_statistics_are_those_of_a_pass_of_their_own(tmp_path, photograph):
    pictures = {"a.png": encoded(photograph), "b.jpg": jpeg(3, 300, 200), "c.jpg": b"no picture"}
    write_tar(tmp_path / "0.tar", pictures.items())
    ds = ImageTextPairDataset.from_webdataset(tmp_path)
    inline = ThumbEmbedder(image_stages=[ImageStatistics()])(ds)
    alone = ImageStatistics()(ds)
    for row, other in zip(rows(inline), rows(alone), strict=True):
        for name in ImageStatistics().columns():
            assert row[name] == (
                other[name] if isinstance(other[name], str | None) else pytest.approx(other[name])
            )


def test_statistics_are_computed_once(tmp_path):
    write_tar(tmp_path / "in" / "0.tar", [("a.jpg", jpeg(1)), ("b.jpg", jpeg(2))])
    ds = ImageTextPairDataset.from_webdataset(tmp_path / "in")
    out, log = tmp_path / "out", tmp_path / "log"
    ImageStatistics()(ds).save_metadata(out)
    before = (out / "0.parquet").stat().st_mtime_ns
    ImageStatistics(num_threads_per_worker=1, use_index_files=True)(ds).save_metadata(out)
    assert (out / "0.parquet").stat().st_mtime_ns == before
    LoggingEmbedder(str(log), image_stages=[ImageStatistics()])(ds).save_metadata(out)
    assert computed(log) == 2
