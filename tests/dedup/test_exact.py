"""ExactDedup: the same bytes, the same pixels, and rows that have neither."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from nemo_image_curate import ImageTextPairDataset
from nemo_image_curate.dedup.exact import ExactDedup
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError
from nemo_image_curate.quality.digest import ImageDigest
from tests.dedup.datasets import dataset, standing
from tests.make_data import digests, jpeg, write_sidecar
from tests.make_embedders import ThumbEmbedder, column, rows
from tests.shared import SHARED, needs_shared


def lossless(seed: int, kind: str, **options) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


MIXED = (
    {
        "a.png": lossless(1, "PNG"),
        "b.webp": lossless(1, "WEBP", lossless=True),
        "c.png": lossless(2, "PNG"),
        "d.jpg": b"no picture",
        "e.txt": b"a caption",
        "f.jpg": b"",
    },
    {
        "g.bmp": lossless(1, "BMP"),
        "h.png": lossless(1, "PNG"),
        "i.jpg": b"no picture",
        "j.txt": b"a caption",
        "k.jpg": b"",
        "l.png": lossless(2, "PNG")[:-30],
    },
)


def test_the_same_bytes(tmp_path, backend):
    ds = dataset(tmp_path / "in", *MIXED, backend=backend)
    out = ExactDedup(work_dir=tmp_path / "work")(ds)
    alone = {key: key for key in "abcdgl"}
    assert standing(out) == alone | {"h": "a", "i": "d"} | dict.fromkeys("efjk")
    assert "image_error" not in out.metadata.columns
    for row in rows(out):
        content = next(
            (data for shard in MIXED for name, data in shard.items() if name[0] == row["key"]), b""
        )
        readable = content and row["key"] not in "ej"
        assert row["image_sha256"] == (hashlib.sha256(content).hexdigest() if readable else None)
        assert row["duplicate_similarity"] == (1 if row["is_duplicate"] else None)


def test_the_same_pixels(tmp_path, backend):
    ds = dataset(tmp_path / "in", *MIXED, backend=backend)
    out = ExactDedup("pixels", work_dir=tmp_path / "work")(ds)
    same = {"a": "a", "b": "a", "c": "c", "g": "a", "h": "a"}
    assert standing(out) == same | dict.fromkeys("defijkl")
    assert out.summary() == {"samples": 12, "errors": {"decode": 5, "missing": 2}}
    pixels = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    expected = hashlib.sha256(b"30x20\n" + pixels.tobytes()).hexdigest()
    assert column(out, "image_sha256")[0] == expected


def test_pixels_of_another_shape_are_another_picture(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10)).save(buffer, "PNG")
    wide, high = buffer.getvalue(), io.BytesIO()
    Image.new("RGB", (10, 20)).save(high, "PNG")
    ds = dataset(tmp_path / "in", {"a.png": wide, "b.png": high.getvalue()})
    out = ExactDedup("pixels", work_dir=tmp_path / "work")(ds)
    assert standing(out) == {"a": "a", "b": "b"}


def test_the_limit_of_pixels(tmp_path):
    ds = dataset(tmp_path / "in", {"a.png": lossless(1, "PNG")})
    found = rows(ImageDigest("pixels", max_pixels=599)(ds))[0]
    assert found["image_sha256"] is None
    assert found["image_error"].startswith("too large: ")
    assert rows(ImageDigest("pixels", max_pixels=600)(ds))[0]["image_error"] is None


def test_errors_are_those_of_the_image_pass(tmp_path):
    ds = dataset(tmp_path / "in", *MIXED)
    expected = column(ThumbEmbedder()(ds), "image_error")
    assert column(ImageDigest("pixels")(ds), "image_error") == expected


def test_rows_in_any_order_find_their_bytes(tmp_path):
    shards = [{f"{s}{n}.jpg": jpeg(10 * s + n) for n in range(5)} for s in range(3)]
    ds = dataset(tmp_path / "in", *shards)
    mixed = ds.replace(ds.metadata.sort_values("key", ascending=False).repartition(npartitions=2))
    expected = {
        name[:2]: hashlib.sha256(data).hexdigest() for one in shards for name, data in one.items()
    }
    found = {row["key"]: row["image_sha256"] for row in rows(ImageDigest()(mixed))}
    assert found == expected


def test_which_one_is_kept(tmp_path):
    dataset(tmp_path / "in", {f"{key}.jpg": jpeg(1) for key in "abc"})
    write_sidecar(
        tmp_path / "in" / "0.parquet",
        {"key": list("abc"), "score": [1, None, 2], "flag": [True, None, True]},
    )
    ds = ImageTextPairDataset.from_webdataset(tmp_path / "in")
    work = tmp_path / "work"
    assert set(standing(ExactDedup(work_dir=work)(ds)).values()) == {"a"}
    best = ExactDedup(keep="best", by="score", work_dir=work)(ds)
    assert set(standing(best).values()) == {"c"}
    lowest = ExactDedup(keep="best", by=["flag", "-score"], work_dir=work)(ds)
    assert set(standing(lowest).values()) == {"a"}
    assert lowest.provenance["is_duplicate"]["by"] == ["flag", "-score"]
    with pytest.raises(ColumnNotFoundError, match="Did you mean 'score'"):
        ExactDedup(keep="best", by=["flag", "-scores"], work_dir=work)(ds)


def test_a_digest_that_is_there_is_used(tmp_path):
    ds = dataset(tmp_path / "in", {"a.jpg": jpeg(1), "b.jpg": jpeg(1)})
    saved = ImageDigest()(ds).save_metadata(tmp_path / "saved")
    (tmp_path / "in" / "0.tar").unlink()
    assert standing(ExactDedup(work_dir=tmp_path / "w")(saved)) == {"a": "a", "b": "a"}


def test_bytes_and_pixels_are_not_taken_for_each_other(tmp_path):
    ds = dataset(tmp_path / "in", *MIXED)
    both = ExactDedup(work_dir=tmp_path / "w")(ds)
    both = ExactDedup("pixels", prefix="pixels_", work_dir=tmp_path / "w")(both)
    found = {row["key"]: row for row in rows(both)}
    assert [found["b"][name] for name in ("is_duplicate", "pixels_is_duplicate")] == [False, True]
    assert both.provenance["image_sha256"]["of"] == "pixels"
    assert both.provenance["is_duplicate"]["of"] == "bytes"


def test_a_run_that_failed_goes_on_with_what_is_missing(tmp_path):
    shards = [{f"{s}{n}.jpg": jpeg(n) for n in range(3)} for s in range(2)]
    dataset(tmp_path / "in", *shards)
    for s in range(2):
        keys = [f"{s}{n}" for n in range(3)]
        write_sidecar(tmp_path / "in" / f"{s}.parquet", {"key": keys})
    ds = ImageTextPairDataset.from_webdataset(tmp_path / "in")
    tars = [tmp_path / "in" / f"{s}.tar" for s in range(2)]
    stage = ExactDedup(work_dir=tmp_path / "work")
    tars[1].rename(tmp_path / "away.tar")
    with pytest.raises(Exception, match=r"shard .*1\.tar does not exist"):
        stage(ds)
    (tmp_path / "away.tar").rename(tars[1])
    # What was read in the first run is not read again.
    tars[0].write_bytes(bytes(10240))
    assert list(standing(stage(ds)).values()) == ["00", "01", "02"] * 2
    left = {path.suffix for path in (tmp_path / "work").rglob("*") if path.is_file()}
    assert ".parquet" not in left
    assert ".arrow" in left


def test_the_same_bytes_for_any_number_of_workers(tmp_path, request):
    ds = dataset(tmp_path / "in", *MIXED, *MIXED[:1])

    def run(name: str) -> dict[str, str]:
        stage = ExactDedup("pixels", work_dir=tmp_path / f"work-{name}")
        stage(ds).save_metadata(tmp_path / name)
        return digests(tmp_path / name)

    alone = run("alone")
    assert request.getfixturevalue("client").scheduler_info()["n_workers"] == 2
    assert run("two") == alone


@needs_shared
def test_one_picture_in_many_formats(tmp_path):
    folder = SHARED / "data" / "formats"
    names = ["ukbench09380.bmp", "ukbench09380.png", "ukbench09380.jpeg", "ukbench09380.webp"]
    members = {
        f"{n}.{name.split('.')[1]}": (folder / name).read_bytes() for n, name in enumerate(names)
    }
    expected = []
    for name in names:
        with Image.open(folder / name) as image:
            rgb = np.asarray(image.convert("RGB"))
        expected.append(rgb.tobytes())
    ds = dataset(tmp_path / "in", members)
    found = list(standing(ExactDedup("pixels", work_dir=tmp_path / "w")(ds)).values())
    assert found == [str(expected.index(one)) for one in expected]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"of": "hash"}, "of='hash' should be 'bytes' or 'pixels'"),
        ({"keep": "best"}, "keep='best' needs by=COLUMN"),
    ],
)
def test_what_cannot_be(tmp_path, options, message):
    ds = dataset(tmp_path / "in", {"a.jpg": jpeg(1)})
    with pytest.raises(ConfigError, match=message):
        ExactDedup(**options, work_dir=tmp_path / "work")(ds)
    with pytest.raises(ConfigError, match="max_pixels=0 should be a positive integer"):
        ImageDigest("pixels", max_pixels=0)(ds)
