"""All decoders keep one contract: the same odd files, reasons, geometry and order."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nemo_image_curate.compute import worker_cache
from nemo_image_curate.decode import DecodedBatch, Preprocessing, image_decoder
from nemo_image_curate.decode.cpu import CpuDecoder, _FastPath
from nemo_image_curate.decode.dali import DaliDecoder
from nemo_image_curate.decode.header import read_header, same_as_pillow
from nemo_image_curate.decode.pillow import decode_rgb
from nemo_image_curate.errors import ConfigError
from tests.decode.pictures import bad, base, good, png, saved

MEAN, STD = (0.48, 0.45, 0.4), (0.27, 0.26, 0.25)
SMALL = Preprocessing(48, "shortest", 0.875, "bicubic", MEAN, STD)
SQUASHED = Preprocessing(40, "squash", 0.9, "bilinear", MEAN, STD)
# Levels of 255. Pillow rounds to bytes between its two passes and clips overshoot there, as
# torch does; DALI does not, which shows at hard edges, and at the border it repeats the last
# pixel where Pillow leaves it out. On a GPU nvJPEG's rounding adds to that.
LARGEST = {"cpu": 2.01, "cpu threads": 2.01, "dali cpu": 26.0, "dali gpu": 30.0}
THUMBNAILS = {"cpu": 1, "cpu threads": 1, "dali cpu": 4, "dali gpu": 6}
MEANS = {"cpu": 0.05, "cpu threads": 0.05, "dali cpu": 1.5, "dali gpu": 2.0}
# A PNG of which no chunk is missing, but most pixels.
TOO_FEW_ROWS = png(123, 91, bytes(500))

Maker = Callable[..., Any]
MAKERS: dict[str, Maker] = {
    "cpu": CpuDecoder,
    "cpu threads": lambda p, **options: CpuDecoder(p, num_threads=3, **options),
    "dali cpu": lambda p, **options: DaliDecoder(
        p, device="cpu", batch_size=16, num_threads=1, **options
    ),
    "dali gpu": lambda p, **options: DaliDecoder(p, device="gpu", batch_size=16, **options),
}


@pytest.fixture(
    params=[pytest.param(name, marks=[pytest.mark.cuda] * ("gpu" in name)) for name in MAKERS]
)
def kind(request: pytest.FixtureRequest) -> str:
    if request.param.startswith("dali"):
        pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    return request.param


def levels(pixels: torch.Tensor) -> np.ndarray:
    """Normalised pixels back to 0..255."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return ((pixels.cpu() * std + mean) * 255).numpy()


def by_pillow(data: bytes, wanted: Preprocessing) -> np.ndarray:
    """What torchvision's transform of a PIL image does, said with Pillow alone."""
    image = Image.fromarray(decode_rgb(data))
    nh, nw = wanted.resized(image.height, image.width)
    top, left = wanted.crop_offset(nh, nw)
    resized = image.resize((nw, nh), Image.Resampling[wanted.interpolation.upper()])
    crop = resized.crop((left, top, left + wanted.size, top + wanted.size))
    return np.asarray(crop).transpose(2, 0, 1).astype(np.float32)


def assert_is(batch: DecodedBatch, files: list[bytes | None], wanted: Preprocessing, kind: str):
    for row, number in enumerate(batch.decoded):
        data = files[number]
        assert data is not None
        off = np.abs(levels(batch.pixels[row]) - by_pillow(data, wanted))
        assert off.max() < LARGEST[kind], (kind, number, off.max())
        assert off.mean() < MEANS[kind], (kind, number, off.mean())


def assert_same(one: torch.Tensor, other: torch.Tensor, kind: str) -> None:
    # Of a GPU's decoders, DALI may choose another for a picture in another batch.
    torch.testing.assert_close(one, other, rtol=0, atol=0.1 if "gpu" in kind else 0)


@pytest.mark.parametrize("wanted", [SMALL, SQUASHED], ids=["shortest", "squash"])
def test_every_good_file_gives_pillows_picture(kind: str, wanted: Preprocessing) -> None:
    names, files = list(good()), list(good().values())
    batch = MAKERS[kind](wanted).decode(files)
    assert dict(zip(names, batch.errors, strict=True)) == dict.fromkeys(names)
    assert batch.decoded == list(range(len(files)))
    assert batch.pixels.shape == (len(files), 3, wanted.size, wanted.size)
    assert batch.pixels.dtype == torch.float32
    assert batch.pixels.is_contiguous()
    assert batch.thumbnails == {}
    assert_is(batch, files, wanted, kind)
    headers = [read_header(data) for data in files]
    assert batch.widths == [header.width for header in headers]
    assert batch.heights == [header.height for header in headers]
    assert batch.formats == [header.format for header in headers]
    assert batch.headers == headers


def test_every_bad_file_leaves_its_reason_and_nothing_else(kind: str) -> None:
    names = list(bad())
    files = [bad()[name][0] for name in names]
    batch = MAKERS[kind](SMALL).decode(files)
    assert batch.decoded == []
    assert batch.pixels.shape == (0, 3, 48, 48)
    for name, error in zip(names, batch.errors, strict=True):
        assert error is not None, name
        assert error.startswith(bad()[name][1]), (name, error)
    bomb = names.index("bomb")
    assert (batch.widths[bomb], batch.heights[bomb], batch.formats[bomb]) == (30000, 20000, "png")
    assert batch.formats[names.index("truncated jpeg")] == "jpeg"
    assert batch.formats[names.index("html")] is None


def test_reasons_are_the_same_everywhere(kind: str) -> None:
    files = [data for data, _ in bad().values()]
    assert MAKERS[kind](SMALL).decode(files).errors == CpuDecoder(SMALL).decode(files).errors


def test_bad_files_among_good_ones_cost_nothing_but_themselves(kind: str) -> None:
    order = np.random.default_rng(1).permutation(len(good()) + len(bad()))
    mixed = [*good().values(), *(data for data, _ in bad().values())]
    files = [mixed[position] for position in order]
    batch = MAKERS[kind](SMALL, thumbnail_sizes=(32,)).decode(files)
    assert batch.decoded == [row for row, position in enumerate(order) if position < len(good())]
    assert [batch.errors[row] for row in batch.decoded] == [None] * len(good())
    assert sum(error is not None for error in batch.errors) == len(bad())
    assert len(batch.pixels) == len(batch.thumbnails[32]) == len(batch.decoded)
    assert_is(batch, files, SMALL, kind)


def test_a_decoder_goes_on_after_a_bad_batch(kind: str) -> None:
    decoder = MAKERS[kind](SMALL)
    fine = [saved(base(90 + k, 70 + 3 * k), "JPEG") for k in range(5)]
    first = decoder.decode(fine)
    # DALI gets the second of the two to see, and fails.
    cut_off = [fine[2][:-300], TOO_FEW_ROWS]
    broken = decoder.decode([*fine[:2], *cut_off, *fine[3:]])
    if kind.startswith("dali"):
        assert decoder._pipeline is None
    assert broken.decoded == [0, 1, 4, 5]
    assert broken.errors[2] is not None
    assert broken.errors[2].startswith("decode: image file is truncated")
    assert broken.errors[3] is not None
    again = decoder.decode(fine)
    assert again.errors == [None] * 5
    assert_same(again.pixels, first.pixels, kind)
    assert_is(broken, [*fine[:2], None, None, *fine[3:]], SMALL, kind)


@pytest.mark.parametrize("device", ["cpu", pytest.param("gpu", marks=pytest.mark.cuda)])
def test_headers_that_dali_cannot_read_leave_the_process_alive(device: str) -> None:
    pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    # Where DALI was given one of these, its threads went on with memory that was freed.
    code = f"""
import numpy as np
from nemo_image_curate.decode.dali import DaliDecoder
from tests.decode.pictures import good
from tests.decode.test_decoder import SMALL
jpeg = good()["jpeg"]
at = jpeg.index(b"\\xff\\xdb")
stray = jpeg[:at] + b"\\0\\1\\2" + jpeg[at:]
no_scan = jpeg[: jpeg.index(b"\\xff\\xda")] + b"\\xff\\xd9"
decoder = DaliDecoder(SMALL, device="{device}", batch_size=64, num_threads=4)
rng = np.random.default_rng(0)
for _ in range(10):
    files = [jpeg] * 64
    with_stray, without_scan = rng.choice(64, 2, replace=False)
    files[with_stray], files[without_scan] = stray, no_scan
    batch = decoder.decode(files)
    assert [n for n, error in enumerate(batch.errors) if error] == [without_scan], batch.errors
    assert decoder._pipeline is not None
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.cuda
def test_a_jpeg_with_damaged_codes_harms_no_batch_after_it() -> None:
    decoder, jpeg = MAKERS["dali gpu"](SMALL), good()["jpeg"]
    middle = len(jpeg) * 2 // 3
    damaged = jpeg[:middle] + bytes(x ^ 0x55 for x in jpeg[middle : middle + 40])
    decoder.decode([jpeg, damaged + jpeg[middle + 40 :], jpeg])
    assert_is(decoder.decode([jpeg] * 3), [jpeg] * 3, SMALL, "dali gpu")


def test_many_sizes_each_in_its_place(kind: str) -> None:
    rng = np.random.default_rng(2)
    sizes = rng.integers(1, 260, (40, 2)).tolist()
    files = [saved(base(w, h), "PNG" if k % 2 else "JPEG") for k, (w, h) in enumerate(sizes)]
    decoder = MAKERS[kind](SMALL)
    whole = decoder.decode(files)
    assert [*zip(whole.widths, whole.heights, strict=True)] == [tuple(size) for size in sizes]
    assert whole.decoded == list(range(40))
    # How images are put together into batches changes no bit.
    parts = [decoder.decode(files[at : at + 7]).pixels for at in range(0, 40, 7)]
    assert_same(torch.cat(parts), whole.pixels, kind)
    for row, data in enumerate(files):
        off = np.abs(levels(whole.pixels[row]) - by_pillow(data, SMALL))
        assert off.mean() < 3 * MEANS[kind], (sizes[row], off.mean())


def test_thumbnails_are_the_whole_picture_squashed(kind: str) -> None:
    files: list[bytes | None] = [good()["jpeg"], None, good()["gif"], good()["png alpha"]]
    batch = MAKERS[kind](SMALL, thumbnail_sizes=(24, 40)).decode(files)
    assert batch.decoded == [0, 2, 3]
    assert list(batch.thumbnails) == [24, 40]
    for side, thumbnails in batch.thumbnails.items():
        assert (thumbnails.shape, thumbnails.dtype) == ((3, 3, side, side), torch.uint8)
        assert thumbnails.device == batch.pixels.device
        for row, number in enumerate(batch.decoded):
            data = files[number]
            assert data is not None
            whole = Image.fromarray(decode_rgb(data))
            small = np.asarray(whole.resize((side, side), Image.Resampling.BILINEAR))
            off = thumbnails[row].cpu().numpy().astype(int) - small.transpose(2, 0, 1)
            assert np.abs(off).max() <= THUMBNAILS[kind]


def test_thumbnails_without_pixels(kind: str) -> None:
    files = [good()["jpeg"], None, good()["gif"], bad()["html"][0]]
    batch = MAKERS[kind](None, thumbnail_sizes=(12,)).decode(files)
    both = MAKERS[kind](SMALL, thumbnail_sizes=(12,)).decode(files)
    assert batch.pixels is None
    assert batch.decoded == both.decoded == [0, 2]
    assert batch.errors == both.errors
    assert_same(batch.thumbnails[12].float(), both.thumbnails[12].float(), kind)


def test_no_images(kind: str) -> None:
    decoder = MAKERS[kind](SMALL, thumbnail_sizes=(8,))
    for files in ([], [None, None]):
        batch = decoder.decode(files)
        assert batch.pixels.shape == (0, 3, 48, 48)
        assert batch.thumbnails[8].shape == (0, 3, 8, 8)
        assert batch.errors == ["missing"] * len(files)


def test_memoryviews_are_bytes(kind: str) -> None:
    files = [good()["jpeg"], good()["gif"]]
    decoder = MAKERS[kind](SMALL)
    views = decoder.decode([memoryview(data) for data in files])
    assert_same(views.pixels, decoder.decode(files).pixels, kind)


def test_the_limit_of_pixels(kind: str) -> None:
    batch = MAKERS[kind](SMALL, max_pixels=11_000).decode([good()["jpeg"], good()["small"]])
    assert batch.errors == ["too large: 123x91 = 11193 pixels, limit 11000", None]
    assert (batch.widths, batch.heights) == ([123, 5], [91, 7])


def test_a_jpeg_that_was_cut_off_costs_no_pipeline() -> None:
    pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    decoder = MAKERS["dali cpu"](SMALL)
    decoder.decode([good()["jpeg"]])
    first = decoder._pipeline
    for name in ("truncated jpeg", "truncated progressive"):
        batch = decoder.decode([good()["jpeg"], bad()[name][0], good()["mpo"]])
        assert batch.decoded == [0, 2]
    assert decoder._pipeline is first
    # Some programs write more behind the end; memory that ends with zeros is none.
    whole = [good()["jpeg"] + b"\n" * 9, good()["jpeg"] + b"more" * 99]
    assert [decoder._header(data) is not None for data in whole] == [True, False]
    assert decoder.decode(whole).errors == [None, None]


def used() -> int:
    free, total = torch.cuda.mem_get_info()
    return total - free


@pytest.mark.cuda
def test_pixels_stay_whole_while_the_model_is_behind() -> None:
    decoder = MAKERS["dali gpu"](SMALL, thumbnail_sizes=(24,))
    batches = [
        [saved(base(90 + k, 70), "JPEG") for k in range(9)],
        [saved(base(60, 80 + k), "PNG") for k in range(9)] + [good()["gif"]],
    ]

    def sums(files: list[bytes]) -> torch.Tensor:
        # Queued on the model's stream; the batch itself is dropped at once.
        batch = decoder.decode(files)
        thumbnails = batch.thumbnails[24].double().mean(dim=(1, 2, 3))
        return torch.cat([batch.pixels.double().mean(dim=(1, 2, 3)), thumbnails])

    expected = [sums(files) for files in batches]
    torch.cuda.synchronize()
    found = []
    for number in range(30):
        torch.cuda._sleep(20_000_000)
        found.append(sums(batches[number % 2]))
    for number, one in enumerate(found):
        torch.testing.assert_close(one, expected[number % 2], rtol=1e-3, atol=1e-3)


@pytest.mark.cuda
def test_pipelines_that_failed_leave_no_memory() -> None:
    decoder = MAKERS["dali gpu"](SMALL)
    files = [TOO_FEW_ROWS, *[good()["jpeg"]] * 9]
    seen = []
    for _ in range(25):
        assert len(decoder.decode(files[1:]).decoded) == 9
        assert len(decoder.decode(files).decoded) == 9
        assert decoder._pipeline is None, "it failed"
        seen.append(used())
    assert seen[-1] - seen[5] < 64e6


@pytest.mark.cuda
def test_memory_of_a_decoder_returns() -> None:
    files = [saved(base(1600, 1200), "JPEG")] * 64
    left = []
    for _ in range(3):
        decoder = DaliDecoder(SMALL, batch_size=64)
        assert decoder.decode(files).errors == [None] * 64
        held = used()
        del decoder
        worker_cache.clear()
        left.append(used())
        # Of the pictures alone, decoded, there were 369 MB.
        assert held - left[-1] > 200e6
    assert left[-1] - left[0] < 64e6


def test_a_run_holds_a_limited_number_of_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    decoder = MAKERS["dali cpu"](SMALL)
    files = [good()["jpeg"], good()["gif"], good()["1x1"], good()["png"], good()["small"]]
    expected = decoder.decode(files)
    monkeypatch.setattr("nemo_image_curate.decode.dali._MAX_CHUNK_PIXELS", 11_193)
    assert decoder._chunks([decoder._header(data) for data in files]) == [[0], [2], [3], [4]]
    split = decoder.decode(files)
    assert split.decoded == expected.decoded
    assert_same(split.pixels, expected.pixels, "dali cpu")
    # What a strip grows to counts, too: 54 x 1728 pixels.
    strips = [good()["1x40"], good()["1x1"]]
    assert decoder._chunks([decoder._header(data) for data in strips]) == [[0], [1]]


def test_nvimgcodec_gives_pillows_pixels() -> None:
    pytest.importorskip("nvidia.nvimgcodec", reason="nvImageCodec is not installed")
    fast = _FastPath()
    tried = set()
    for name, data in good().items():
        if same_as_pillow(read_header(data), data):
            pixels = fast.decode(data)
            assert pixels is not None, name
            np.testing.assert_array_equal(pixels, decode_rgb(data), err_msg=name)
            tried.add(read_header(data).format)
    assert tried == {"jpeg", "png", "webp"}


def test_without_nvimgcodec_pillow_does_it_all() -> None:
    code = """
import sys
sys.modules["nvidia.nvimgcodec"] = None
from tests.decode.pictures import good
from tests.decode.test_decoder import SMALL
from nemo_image_curate.decode.cpu import CpuDecoder
batch = CpuDecoder(SMALL).decode(list(good().values()))
assert set(batch.errors) == {None}, batch.errors
print(float(batch.pixels.double().sum()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ours = CpuDecoder(SMALL).decode(list(good().values()))
    # Pixel for pixel what nvImageCodec gives.
    assert float(done.stdout) == float(ours.pixels.double().sum())


def test_importing_is_cheap() -> None:
    code = (
        "import sys, nemo_image_curate.decode.dali, nemo_image_curate.decode.cpu\n"
        "heavy = {'torch', 'timm', 'nvidia.dali', 'nvidia.nvimgcodec', 'torchvision'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_decoders_in_several_threads_agree() -> None:
    files = list(good().values())
    expected = CpuDecoder(SMALL).decode(files).pixels
    with ThreadPoolExecutor(3) as pool:
        batches = list(pool.map(lambda _: CpuDecoder(SMALL, 2).decode(files), range(6)))
    for batch in batches:
        torch.testing.assert_close(batch.pixels, expected, rtol=0, atol=0)


def test_image_decoder_chooses_by_device() -> None:
    assert isinstance(image_decoder(SMALL, "cpu"), CpuDecoder)
    chosen = image_decoder(SMALL, torch.device("cuda:1"), batch_size=7, thumbnail_sizes=(5,))
    assert isinstance(chosen, DaliDecoder)
    assert (chosen.device, chosen.device_id, chosen.batch_size) == ("gpu", 1, 7)
    assert image_decoder(SMALL, "cuda").device_id is None
    with pytest.raises(ConfigError, match="device='tpu' should be 'cpu' or 'cuda'"):
        image_decoder(SMALL, "tpu")
    with pytest.raises(ConfigError, match="device='cuda' should be 'gpu' or 'cpu'"):
        DaliDecoder(SMALL, device="cuda")
