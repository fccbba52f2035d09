"""PerceptualDedup: planted variants of real photographs, what it decodes, what it leaves alone."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from nemo_image_curate import ImageStatistics, ImageTextPairDataset
from nemo_image_curate.dedup.perceptual import PerceptualDedup
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError
from nemo_image_curate.quality.perceptual_hash import PerceptualHash
from tests.dedup.datasets import dataset, standing
from tests.dedup.photographs import flickr, flipped, recompressed, saved, scaled
from tests.make_data import digests, jpeg, write_sidecar
from tests.make_embedders import LoggingEmbedder, computed, rows
from tests.shared import needs_shared

OLD = 1_600_000_000


def noise(seed: int, kind: str = "JPEG") -> bytes:
    """A picture with structure at all scales, unlike any other."""
    return jpeg(seed, 160, 120, kind)


@needs_shared
@pytest.mark.parametrize("name", ["phash", "dhash"])
def test_variants_of_photographs_are_found_and_nothing_else(tmp_path, name, backend):
    changes = {
        "a": scaled(0.5, 75),
        "b": scaled(2, 95),
        "c": scaled(0.75, 40),
        "d": recompressed(40),
        "e": recompressed(95),
        "f": lambda image: saved(image, "WEBP", quality=60),
    }
    originals, variants = {}, {}
    for path in flickr(150):
        originals[f"{path.stem}.jpg"] = path.read_bytes()
        image = Image.open(path)
        for kind, change in changes.items():
            variants[f"{path.stem}-{kind}.jpg"] = change(image)
    ds = dataset(tmp_path / "in", originals, variants, backend=backend)
    found = standing(PerceptualDedup(hash=name, work_dir=tmp_path / "work")(ds))
    assert len(found) == 7 * 150
    hits = sum(to == key.partition("-")[0] for key, to in found.items() if "-" in key)
    assert hits >= 0.99 * 6 * 150
    assert all(to == key for key, to in found.items() if "-" not in key), "false pairs"
    assert all(to in (key, key.partition("-")[0]) for key, to in found.items())


@needs_shared
@pytest.mark.parametrize("name", ["phash", "dhash"])
def test_mirrored_pictures_are_duplicates_when_asked_for(tmp_path, name):
    paths = flickr(100)
    members = {f"{path.stem}.jpg": path.read_bytes() for path in paths}
    members |= {f"{path.stem}-flip.jpg": flipped(Image.open(path)) for path in paths}
    ds = dataset(tmp_path / "in", members)

    def hits(flips: bool) -> int:
        stage = PerceptualDedup(hash=name, flips=flips, work_dir=tmp_path / "work")
        return sum(
            "-" in key and to == key.partition("-")[0] for key, to in standing(stage(ds)).items()
        )

    # Some pictures are nearly symmetric.
    assert hits(flips=False) <= 1
    assert hits(flips=True) >= 99


def test_rows_that_cannot_be_compared(tmp_path, backend):
    flat = saved(Image.new("RGB", (64, 48), (200, 30, 30)))
    other = saved(Image.new("RGB", (64, 48), (30, 200, 30)))
    ds = dataset(
        tmp_path / "in",
        {"a.jpg": noise(1), "b.jpg": flat, "c.jpg": other, "d.jpg": b"bad", "e.txt": b"none"},
        {"f.jpg": noise(1, "PNG"), "g.jpg": flat, "h.jpg": b"bad", "i.txt": b"none"},
        backend=backend,
    )
    out = PerceptualDedup(work_dir=tmp_path / "work")(ds)
    found = {row["key"]: row for row in rows(out)}
    assert standing(out) == {"a": "a", "f": "a"} | dict.fromkeys("bcdeghi")
    assert found["f"]["duplicate_of_shard"] == "0.tar"
    assert found["f"]["duplicate_similarity"] >= 1 - 2 / 64
    kinds = {key: (row["image_error"] or "").partition(":")[0] for key, row in found.items()}
    assert kinds == dict.fromkeys("abcfg", "") | dict.fromkeys("dh", "decode") | dict.fromkeys(
        "ei", "missing"
    )
    assert out.summary() == {"samples": 9, "errors": {"decode": 2, "missing": 2}}


def drawing(number: int, colour: tuple[int, int, int] = (0, 0, 0)) -> Image.Image:
    """An icon: some shapes on a transparent ground, the same each time."""
    shapes = random.Random(number)
    alpha = Image.new("L", (200, 200))
    draw = ImageDraw.Draw(alpha)
    for _ in range(shapes.randint(1, 5)):
        left, top = shapes.randint(0, 120), shapes.randint(0, 120)
        box = (left, top, left + shapes.randint(20, 80), top + shapes.randint(20, 80))
        kind = shapes.choice([draw.ellipse, draw.rectangle, draw.line])
        kind(box, fill=255, **({"width": 9} if kind == draw.line else {}))
    image = Image.new("RGB", alpha.size, colour)
    image.putalpha(alpha)
    return image


@pytest.mark.parametrize("kind", ["transparent", "white", "palette"])
def test_different_icons_are_no_duplicates(tmp_path, kind):
    def encoded(number: int) -> bytes:
        image = drawing(number)
        if kind == "palette":
            return saved(image.quantize(16), "PNG")
        if kind == "white":
            white = Image.new("RGB", image.size, "white")
            white.paste(image, mask=image.getchannel("A"))
            image = white
        return saved(image, "PNG")

    members = {f"{number:02d}.png": encoded(number) for number in range(40)}
    members |= {f"{number:02d}-again.png": encoded(number) for number in range(40)}
    found = standing(PerceptualDedup(work_dir=tmp_path / "w")(dataset(tmp_path / "in", members)))
    plain = {key: to for key, to in found.items() if "-" not in key}
    assert sum(to not in (key, None) for key, to in plain.items()) <= 2
    compared = [key for key, to in plain.items() if to is not None]
    assert len(compared) >= 15
    assert all(found[f"{key}-again"] == found[key] for key in compared)


def test_pages_with_a_line_of_text_are_nobodys_duplicates(tmp_path):
    members = {}
    for number in range(20):
        page = Image.new("L", (600, 800), 255)
        place = (50 + 7 * number, 50 + 11 * number)
        ImageDraw.Draw(page).text(place, f"page {number}", fill=0)
        members[f"{number}.png"] = saved(page, "PNG")
    found = rows(PerceptualDedup(work_dir=tmp_path / "w")(dataset(tmp_path / "in", members)))
    assert not any(row["is_duplicate"] for row in found)
    assert {row["image_error"] for row in found} == {None}


def test_similarity_is_that_of_the_hashes(tmp_path):
    members = {f"{n}.jpg": jpeg(n % 6, 64 + 32 * n, 96) for n in range(18)}
    ds = dataset(tmp_path / "in", members)
    found = {row["key"]: row for row in rows(PerceptualDedup(10, work_dir=tmp_path / "w")(ds))}
    removed = [row for row in found.values() if row["is_duplicate"]]
    assert len(removed) >= 6
    for row in removed:
        distance = (row["phash"] ^ found[row["duplicate_of"]]["phash"]).bit_count()
        assert row["duplicate_similarity"] == 1 - distance / 64
        assert distance <= 10


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, "a"),
        ({"keep": "best", "by": "score"}, "c"),
        ({"keep": "random", "random_state": 1}, None),
        ({"rule": "components"}, "a"),
    ],
)
def test_which_one_is_kept(tmp_path, options, kept):
    ds = dataset(tmp_path / "in", {f"{key}.jpg": noise(7) for key in "abcd"})
    scores = {"key": list("abcd"), "score": [0.5, None, 3.0, 1.0]}
    write_sidecar(tmp_path / "in" / "0.parquet", scores)
    ds = ImageTextPairDataset.from_webdataset(tmp_path / "in")
    out = PerceptualDedup(**options, work_dir=tmp_path / "work")(ds)
    found = set(standing(out).values())
    assert len(found) == 1
    assert kept is None or found == {kept}


def test_random_is_another_for_another_seed(tmp_path):
    ds = dataset(tmp_path / "in", {f"{key}.jpg": noise(7) for key in "abcdefgh"})
    ds = PerceptualHash()(ds).save_metadata(tmp_path / "hashed")
    kept = {
        standing(PerceptualDedup(keep="random", random_state=seed, work_dir=tmp_path / "w")(ds))[
            "a"
        ]
        for seed in range(8)
    }
    assert len(kept) > 2


def test_images_are_read_once(tmp_path):
    """Once the decisions are there, saving them does not read the tar again."""
    dataset(tmp_path / "in", {f"{n}.jpg": noise(n % 3) for n in range(6)})
    write_sidecar(tmp_path / "in" / "0.parquet", {"key": [str(n) for n in range(6)]})
    ds = ImageTextPairDataset.from_webdataset(tmp_path / "in")
    out = PerceptualDedup(work_dir=tmp_path / "work")(ds)
    (tmp_path / "in" / "0.tar").write_bytes(bytes(10240))
    found = rows(out.save_metadata(tmp_path / "out"))
    assert [row["image_error"] for row in found] == [None] * 6
    assert [row["is_duplicate"] for row in found] == [False] * 3 + [True] * 3
    assert all(row["phash"] is not None for row in found)


def test_hashes_that_are_there_are_used(tmp_path):
    log = tmp_path / "log"
    ds = dataset(tmp_path / "in", {f"{n}.jpg": noise(n % 3) for n in range(6)})
    stages = [ImageStatistics(), PerceptualHash()]
    hashed = LoggingEmbedder(str(log), image_stages=stages)(ds).save_metadata(tmp_path / "hashed")
    assert computed(log) == 6
    (tmp_path / "in" / "0.tar").unlink()
    out = PerceptualDedup(work_dir=tmp_path / "work")(hashed)
    assert list(standing(out).values()) == ["0", "1", "2", "0", "1", "2"]
    assert computed(log) == 6
    assert out.provenance["phash"] == PerceptualHash().provenance()["phash"]


def test_a_column_of_that_name_that_others_made_is_not_used(tmp_path):
    dataset(tmp_path / "in", {f"{n}.jpg": noise(n) for n in range(3)})
    write_sidecar(tmp_path / "in" / "0.parquet", {"key": ["0", "1", "2"], "phash": ["x", "x", "x"]})
    ds = ImageTextPairDataset.from_webdataset(tmp_path / "in")
    assert standing(PerceptualDedup(work_dir=tmp_path / "w")(ds)) == {"0": "0", "1": "1", "2": "2"}


def test_the_same_bytes_for_any_number_of_workers(tmp_path, request):
    shards = [{f"{s}-{n}.jpg": jpeg(n % 4, 100 + 20 * s, 90) for n in range(6)} for s in range(3)]
    ds = dataset(tmp_path / "in", *shards)

    def run(name: str) -> dict[str, str]:
        stage = PerceptualDedup(flips=True, work_dir=tmp_path / f"work-{name}")
        stage(ds).save_metadata(tmp_path / name)
        return digests(tmp_path / name)

    alone = run("alone")
    assert request.getfixturevalue("client").scheduler_info()["n_workers"] == 2
    assert run("two") == alone


def test_a_save_in_place_that_was_stopped_goes_on(tmp_path):
    shards = [{f"{s}{n}.jpg": noise(n) for n in range(3)} for s in range(2)]

    def run(folder: Path) -> dict[str, str]:
        ds = ImageTextPairDataset.from_webdataset(folder)
        PerceptualDedup(work_dir=tmp_path / "work")(ds).save_metadata()
        return digests(folder)

    dataset(tmp_path / "whole", *shards)
    dataset(tmp_path / "in", *shards)
    expected = run(tmp_path / "whole")
    run(tmp_path / "in")
    # As if it had been stopped after the first shard.
    (tmp_path / "in" / "1.parquet").unlink()
    before = (tmp_path / "in" / "0.parquet").stat().st_mtime_ns
    assert run(tmp_path / "in") == expected
    assert (tmp_path / "in" / "0.parquet").stat().st_mtime_ns == before
    assert standing(ImageTextPairDataset.from_webdataset(tmp_path / "in")) == {
        f"{s}{n}": f"0{n}" for s in range(2) for n in range(3)
    }


def test_a_tar_of_the_same_size_is_another_input(tmp_path):
    ds = dataset(tmp_path / "in", {"a.jpg": noise(1), "b.jpg": noise(2), "c.jpg": noise(3)})
    stage = PerceptualDedup(work_dir=tmp_path / "work")
    stage(ds).save_metadata(tmp_path / "out")
    size = (tmp_path / "in" / "0.tar").stat().st_size
    time.sleep(0.05)
    ds = dataset(tmp_path / "in", {"a.jpg": noise(1), "b.jpg": noise(1), "c.jpg": noise(3)})
    assert (tmp_path / "in" / "0.tar").stat().st_size == size
    saved_again = stage(ds).save_metadata(tmp_path / "out")
    assert standing(saved_again) == {"a": "a", "b": "a", "c": "c"}


def test_one_and_no_rows(tmp_path):
    ds = dataset(tmp_path / "in", {"a.jpg": noise(1)}, {"b.jpg": noise(1)})
    stage = PerceptualDedup(flips=True, work_dir=tmp_path / "work")
    assert standing(stage(ds.filter("key == 'b'"))) == {"b": "b"}
    assert standing(stage(ds.filter("key == 'c'"))) == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": -1}, "radius=-1 should be an integer from 0 to 31"),
        ({"radius": 2.5}, r"radius=2.5 should be an integer"),
        ({"radius": 32}, "radius=32 should be an integer from 0 to 31"),
        ({"hash": "ahash"}, "hash='ahash' should be 'phash' or 'dhash'"),
        ({"rule": "all"}, "rule='all' should be one of"),
        ({"keep": "hard"}, "keep='hard' should be one of 'first', 'random', 'best'"),
        ({"prefix": "ke", "work_dir": "s3://bucket/x"}, "should be on a local"),
    ],
)
def test_what_cannot_be(tmp_path, options, message):
    ds = dataset(tmp_path / "in", {"a.jpg": noise(1)})
    with pytest.raises(ConfigError, match=message):
        PerceptualDedup(**({"work_dir": tmp_path / "work"} | options))(ds)
    assert not (tmp_path / "work").exists()


def test_a_by_column_that_does_not_exist(tmp_path):
    ds = dataset(tmp_path / "in", {"a.jpg": noise(1)})
    with pytest.raises(ColumnNotFoundError, match="no column 'sharpnes'"):
        PerceptualDedup(keep="best", by="sharpnes", work_dir=tmp_path / "work")(ds)
