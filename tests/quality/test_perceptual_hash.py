"""Hashes against their definitions in NumPy, and what they stand."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from nemo_image_curate import ImageStatistics, ImageTextPairDataset
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.quality.perceptual_hash import PerceptualHash, hashes
from tests.make_data import jpeg, write_tar
from tests.make_embedders import LoggingEmbedder, ThumbEmbedder, computed, rows

NAMES = ["phash", "dhash", "phash_flipped", "dhash_flipped"]


def by_definition(rgb: np.ndarray) -> dict[str, str]:
    """The hashes of one (64, 64, 3) picture as strings of bits, as the sources define them."""
    luma = rgb.astype(np.float64) @ [0.299, 0.587, 0.114]
    cells = luma.reshape(32, 2, 32, 2).mean(axis=(1, 3))
    place, frequency = np.arange(32)[None], np.arange(32)[:, None]
    dct = np.cos(np.pi * frequency * (2 * place + 1) / 64)
    low = (dct @ cells @ dct.T)[:8, :8].reshape(-1)
    p = low > np.median(low[1:])
    fine = np.repeat(luma.reshape(8, 8, 64).mean(axis=1), 9, axis=1)
    d = np.diff(fine.reshape(8, 9, 64).mean(axis=2), axis=1) > 0
    return {
        name: "".join("01"[int(bit)] for bit in bits.reshape(-1))
        for name, bits in (("phash", p), ("dhash", d))
    }


def stacked(*pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def bits(value: int | None) -> str:
    assert value is not None
    return f"{value:064b}"


def textured(seed: int) -> np.ndarray:
    """A picture with structure at all scales."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8))
    picture = np.asarray(coarse.resize((64, 64), Image.Resampling.BICUBIC)).astype(np.int64)
    return (picture + rng.integers(-20, 21, picture.shape)).clip(0, 255).astype(np.uint8)


def differing(one: int | None, other: int | None) -> int:
    assert one is not None
    assert other is not None
    return (one ^ other).bit_count()


def test_against_the_definitions():
    pictures = [textured(seed) for seed in range(8)]
    found = hashes(stacked(*pictures), flips=True)
    assert list(found) == NAMES
    for number, picture in enumerate(pictures):
        mirrored = by_definition(picture[:, ::-1])
        expected = by_definition(picture)
        expected |= {name + "_flipped": value for name, value in mirrored.items()}
        assert {name: bits(found[name][number]) for name in NAMES} == expected


def test_pictures_whose_dhash_is_known():
    ramp = np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], 64, axis=0)
    rising = np.repeat(ramp, 3, axis=2)
    found = hashes(stacked(rising, rising[:, ::-1].copy()), flips=True)
    assert found["dhash"] == [2**64 - 1, 0]
    assert found["dhash_flipped"] == [0, 2**64 - 1]
    assert found["phash_flipped"] == found["phash"][::-1]


def test_a_picture_does_not_depend_on_its_batch():
    pictures = [textured(seed) for seed in range(33)]
    together = hashes(stacked(*pictures), flips=True)
    for number, picture in enumerate(pictures):
        alone = hashes(stacked(picture), flips=True)
        assert {name: values[number : number + 1] for name, values in together.items()} == alone


def test_a_device_changes_nothing(device):
    images = stacked(*(textured(seed) for seed in range(5)))
    assert hashes(images.to(device), flips=True) == hashes(images, flips=True)


def test_pictures_that_show_nothing_have_no_hash():
    flat = np.full((64, 64, 3), 77, dtype=np.uint8)
    noise = np.random.default_rng(1)
    noisy = (flat + noise.integers(-3, 4, flat.shape)).astype(np.uint8)
    halves, disc, blocks = flat.copy(), flat.copy(), flat.copy()
    halves[:32] = 200
    y, x = np.mgrid[-32:32, -32:32] + 0.5
    disc[x * x + y * y < 400] = 0
    blocks[:] = noise.integers(0, 256, (8, 8)).repeat(8, 0).repeat(8, 1)[..., None]
    found = hashes(stacked(flat, noisy, halves, disc, blocks), flips=True)
    for name in NAMES:
        assert [value is None for value in found[name]] == [True, True, True, True, False]


def page(lines: list[str], size: int, ink: int = 0, paper: int = 255) -> Image.Image:
    image = Image.new("L", (600, 800), paper)
    font = ImageFont.load_default(size)
    for number, line in enumerate(lines):
        ImageDraw.Draw(image).text((50, 50 + 1.4 * size * number), line, fill=ink, font=font)
    return image


@pytest.mark.parametrize("size", [12, 16, 28])
@pytest.mark.parametrize("most", [1, 3, 12, 40])
@pytest.mark.parametrize(("ink", "paper"), [(0, 255), (230, 20), (60, 235)])
def test_different_pages_of_text_are_no_duplicates(size, most, ink, paper):
    words = random.Random(f"{size} {most}")

    def line() -> str:
        letters = words.choices("abcdefghijklmnopqrstuvwxyz    ", k=words.randint(20, 900 // size))
        return "".join(letters)

    texts = [[line() for _ in range(words.randint(1, most))] for _ in range(20)]
    pages = [page(lines, size, ink, paper).convert("RGB").resize((64, 64), 2) for lines in texts]
    found = hashes(stacked(*map(np.asarray, pages)))["phash"]
    values = [value for value in found if value is not None]
    near = sum(
        any((value ^ other).bit_count() <= 6 for other in values[:number])
        for number, value in enumerate(values)
    )
    assert near <= 1, (near, len(values))


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def photograph() -> Image.Image:
    data = pytest.importorskip("skimage.data")
    return Image.fromarray(data.astronaut())


def test_a_photograph_and_what_was_done_to_it(tmp_path, photograph, backend):
    from PIL import ImageOps

    members = {
        "plain.png": encoded(photograph),
        "small.jpg": encoded(photograph.resize((200, 200)), "JPEG", quality=50),
        "squashed.webp": encoded(photograph.resize((640, 300)), "WEBP", quality=80),
        "gray.png": encoded(photograph.convert("L")),
        "mirrored.jpg": encoded(ImageOps.mirror(photograph), "JPEG"),
        "broken.jpg": b"no picture",
        "caption.txt": b"no picture either",
        "white.png": encoded(Image.new("RGB", (80, 60), "white")),
    }
    write_tar(tmp_path / "0.tar", members.items())
    ds = ImageTextPairDataset.from_webdataset(tmp_path, backend=backend)
    found = {row["key"]: row for row in rows(PerceptualHash(flips=True)(ds))}
    plain = found["plain"]
    for key in ("small", "squashed", "gray"):
        for name in ("phash", "dhash"):
            assert differing(plain[name], found[key][name]) <= 4, (key, name)
    for name in ("phash", "dhash"):
        assert differing(plain[name], found["mirrored"][name]) > 16
        assert differing(plain[name + "_flipped"], found["mirrored"][name]) <= 4
    for key in ("broken", "caption", "white"):
        assert [found[key][name] for name in NAMES] == [None] * 4
    assert [(found[key]["image_error"] or "").partition(":")[0] for key in members_keys()] == [
        "decode",
        "missing",
        "",
    ]


def members_keys() -> list[str]:
    return ["broken", "caption", "white"]


def test_inline_hashes_are_those_of_a_pass_of_their_own(tmp_path, photograph):
    pictures = {"a.png": encoded(photograph), "b.jpg": jpeg(3, 300, 200), "c.jpg": b"no picture"}
    write_tar(tmp_path / "0.tar", pictures.items())
    ds = ImageTextPairDataset.from_webdataset(tmp_path)
    inline = ThumbEmbedder(batch_size=2, image_stages=[ImageStatistics(), PerceptualHash()])(ds)
    alone = PerceptualHash()(ds)
    assert inline.provenance["phash"] == alone.provenance["phash"]
    for row, other in zip(rows(inline), rows(alone), strict=True):
        assert [row["phash"], row["dhash"]] == [other["phash"], other["dhash"]]
    assert "phash_flipped" not in alone.metadata.columns


def test_hashes_are_saved_as_they_are(tmp_path, photograph, backend):
    """Unsigned 64 bits, with nulls: half of them are beyond a signed integer."""
    pictures = {f"{n}.jpg": jpeg(n, 64, 48) for n in range(12)} | {"bad.jpg": b"no picture"}
    write_tar(tmp_path / "in" / "0.tar", pictures.items())
    ds = ImageTextPairDataset.from_webdataset(tmp_path / "in", backend=backend)
    lazy = rows(PerceptualHash()(ds))
    assert max(row["dhash"] or 0 for row in lazy) >= 2**63
    assert rows(PerceptualHash()(ds).save_metadata(tmp_path / "out")) == lazy


def test_hashes_are_computed_once(tmp_path):
    write_tar(tmp_path / "in" / "0.tar", [("a.jpg", jpeg(1)), ("b.jpg", jpeg(2))])
    ds = ImageTextPairDataset.from_webdataset(tmp_path / "in")
    out, log = tmp_path / "out", tmp_path / "log"

    def saved(stage) -> int:
        stage(ds).save_metadata(out)
        return (out / "0.parquet").stat().st_mtime_ns

    before = saved(PerceptualHash())
    assert saved(PerceptualHash(num_threads_per_worker=1, use_index_files=True)) == before
    assert saved(PerceptualHash(flips=True)) > before
    LoggingEmbedder(str(log), image_stages=[PerceptualHash()])(ds).save_metadata(out)
    assert computed(log) == 2


def test_two_stages_cannot_write_one_column(tmp_path):
    write_tar(tmp_path / "0.tar", [("a.jpg", jpeg(1))])
    ds = ImageTextPairDataset.from_webdataset(tmp_path)
    with pytest.raises(ConfigError, match="two stages of one pass write the column 'phash'"):
        ThumbEmbedder(image_stages=[PerceptualHash(), PerceptualHash(flips=True)])(ds)
