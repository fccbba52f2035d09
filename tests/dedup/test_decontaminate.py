"""Decontaminate: what it finds by each signal, whom it names, what it leaves alone."""

from __future__ import annotations

import csv
import logging
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nemo_image_curate import (
    Decontaminate,
    ImageTextPairDataset,
    PerceptualHash,
    TimmImageEmbedder,
)
from nemo_image_curate.dedup.leak_presets import PRESETS
from nemo_image_curate.dedup.perceptual import PerceptualDedup
from nemo_image_curate.errors import (
    ColumnNotFoundError,
    ConfigError,
    DatasetError,
    EncoderMismatchError,
)
from tests.dedup.datasets import dataset
from tests.dedup.make_embeddings import write_embeddings
from tests.dedup.photographs import flipped, saved, scaled
from tests.make_data import jpeg, write_sidecar, write_tar
from tests.make_embedders import ThumbEmbedder, rows
from tests.shared import SHARED, needs_shared

COLUMNS = ["is_leak", "leak_of", "leak_of_shard", "leak_of_dataset", "leak_by", "leak_error"]


def noise(seed: int) -> bytes:
    """A picture with structure at all scales, unlike any other."""
    return jpeg(seed, 160, 120)


def changed(seed: int, change: Any) -> bytes:
    import io

    content: bytes = change(Image.open(io.BytesIO(noise(seed))))
    return content


def found(ds: ImageTextPairDataset, prefix: str = "") -> dict[str, tuple[Any, ...]]:
    """By key whether a row is a leak, and of what, by what; and why it was not compared."""
    return {row["key"]: tuple(row[prefix + name] for name in COLUMNS) for row in rows(ds)}


CLEAN = (False, None, None, None, None, None)


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Path:
    """A pool with copies of pictures of two test sets."""
    folder = tmp_path_factory.mktemp("leaks")
    write_tar(folder / "val" / "0.tar", [(f"v{n}.jpg", noise(n)) for n in range(3)])
    write_tar(folder / "val" / "1.tar", [(f"v{n}.jpg", noise(n)) for n in range(3, 6)])
    write_tar(folder / "bench" / "0.tar", [("b0.jpg", noise(1)), ("b1.jpg", noise(20))])
    first = {
        "new0.jpg": noise(50),
        "copy1.jpg": noise(1),
        "small2.jpg": changed(2, scaled(0.5, 80)),
        "mirror4.jpg": changed(4, flipped),
    }
    second = {
        "copy20.jpg": noise(20),
        "flat.jpg": saved(Image.new("RGB", (64, 48), (200, 30, 30))),
        "broken.jpg": b"no picture",
        "none.txt": b"no picture at all",
        "new1.jpg": noise(51),
    }
    for number, members in enumerate((first, second)):
        write_tar(folder / "pool" / f"{number}.tar", members.items())
    return folder


def opened(places: Path, name: str, backend: str = "cpu") -> ImageTextPairDataset:
    return ImageTextPairDataset.from_webdataset(places / name, backend=backend)


def test_exact_and_perceptual_copies(places, tmp_path, backend):
    pool = opened(places, "pool", backend)
    stage = Decontaminate(
        {"val": places / "val", "bench": places / "bench"},
        by=["exact", "perceptual"],
        work_dir=tmp_path,
    )
    ds = stage(pool)
    assert found(ds) == {
        "new0": CLEAN,
        # In both: the first that is named.
        "copy1": (True, "v1", "0.tar", "val", "exact", None),
        "small2": (True, "v2", "0.tar", "val", "perceptual", None),
        "mirror4": (True, "v4", "1.tar", "val", "perceptual", None),
        "copy20": (True, "b1", "0.tar", "bench", "exact", None),
        "flat": (False, None, None, None, None, "no hash"),
        "broken": (False, None, None, None, None, "no hash"),
        "none": (False, None, None, None, None, "no digest, no hash"),
        "new1": CLEAN,
    }
    similarity = {row["key"]: row["leak_similarity"] for row in rows(ds)}
    assert similarity["copy1"] == 1
    assert 1 - 6 / 64 <= similarity["mirror4"] <= 1
    assert similarity["new0"] is None
    # Nothing was removed, and what was measured is there.
    assert rows(ds.select(["phash"]))[0]["phash"] == rows(PerceptualHash()(pool))[0]["phash"]
    assert ds.provenance["is_leak"]["reference"] == ["val", "bench"]
    kept = ds.filter("not is_leak").save_metadata(tmp_path / "clean")
    assert [row["key"] for row in rows(kept)] == ["new0", "flat", "broken", "none", "new1"]


def test_no_mirrors_and_files_only(places, tmp_path):
    pool = opened(places, "pool")
    plain = Decontaminate(places / "val", ["exact", "perceptual"], flips=False, work_dir=tmp_path)
    assert found(plain(pool))["mirror4"] == CLEAN
    # Hashes that were saved without those of mirror images serve; the references have both.
    hashed = PerceptualHash()(pool).save_metadata(tmp_path / "hashed")
    told = Decontaminate(places / "val", "perceptual", work_dir=tmp_path)(hashed)
    assert found(told)["mirror4"] == (True, "v4", "1.tar", "val", "perceptual", None)
    assert "phash_flipped" not in told.metadata.columns
    files = found(Decontaminate(places / "val", by="exact", work_dir=tmp_path)(pool))
    assert files["copy1"] == (True, "v1", "0.tar", "val", "exact", None)
    assert files["small2"] == files["broken"] == CLEAN
    assert files["none"][-1] == "no digest"
    assert [key for key, row in files.items() if row[0]] == ["copy1"]


def test_all_signals_and_mirrored_embeddings(places, tmp_path, backend, caplog):
    pool = ThumbEmbedder()(opened(places, "pool", backend))
    val = ThumbEmbedder(flip=True)(opened(places, "val", backend))
    told = Decontaminate({"val": val}, eps=0.02, work_dir=tmp_path)(pool)
    by = {row["key"]: row["leak_by"] for row in rows(told)}
    assert by["copy1"] == "exact"
    assert by["small2"] == by["mirror4"] == "perceptual+semantic"
    assert by["new0"] is None
    # Where there is no leak, the nearest by the embeddings is named.
    near = next(row for row in rows(told) if row["key"] == "new0")
    assert near["leak_of"] is not None
    assert near["leak_similarity"] < 0.98
    assert found(told)["broken"][-1] == "no hash, no embedding"
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        alone = Decontaminate(
            {"val": ThumbEmbedder()(opened(places, "val", backend))},
            by="semantic",
            eps=0.02,
            work_dir=tmp_path,
        )(pool)
    assert "mirrored copies are found by nothing" in caplog.text
    assert not found(alone)["mirror4"][0]
    # The pool's own serve as well.
    both = ThumbEmbedder(flip=True)(opened(places, "pool", backend))
    stage = Decontaminate(places / "val-embedded", by="semantic", eps=0.02, work_dir=tmp_path)
    ThumbEmbedder()(opened(places, "val", backend)).save_metadata(tmp_path / "val-embedded")
    stage.reference = tmp_path / "val-embedded"
    row = found(stage(both))["mirror4"]
    assert row == (True, "v4", "1.tar", "val-embedded", "semantic", None)


def with_vectors(folder: Path, shards: list[np.ndarray], **columns: Any) -> ImageTextPairDataset:
    """A dataset of such embeddings, null where one is NaN; further columns by shard."""
    for number, vectors in enumerate(shards):
        keys = [f"{number}-{row}" for row in range(len(vectors))]
        write_tar(folder / f"{number}.tar", [(f"{key}.txt", b"") for key in keys])
        lists = [None if np.isnan(vector).any() else vector.tolist() for vector in vectors]
        more = {name: values[number] for name, values in columns.items()}
        table = {
            "key": pa.array(keys, pa.string()),
            "image_embedding": pa.array(lists, pa.list_(pa.float32())),
            **more,
        }
        write_sidecar(folder / f"{number}.parquet", table)
    return ImageTextPairDataset.from_webdataset(folder)


@settings(max_examples=5)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.02, 0.3, 1.0]))
def test_embeddings_against_brute_force(tmp_path_factory, seed, eps):
    tmp_path = tmp_path_factory.mktemp("brute")
    random = np.random.default_rng(seed)
    others = [random.normal(size=(count, 5)).astype(np.float32) for count in (4, 0, 6)]
    mine = [random.normal(size=(count, 5)).astype(np.float32) for count in (5, 7)]
    mine[0][0] = 3 * others[2][1]
    mine[1][2:4] = others[0][0] + 0.05 * random.normal(size=(2, 5))
    mine[1][0], others[2][3] = np.nan, np.nan
    others[2][5] = others[0][2]
    mine[0][1] = others[0][2]
    told = Decontaminate(
        {"other": with_vectors(tmp_path / "other", others)},
        by="semantic",
        eps=eps,
        work_dir=tmp_path / "work",
    )(with_vectors(tmp_path / "mine", mine))
    joined = np.concatenate(others).astype(np.float64)
    joined /= np.linalg.norm(joined, axis=1, keepdims=True)
    keys = [f"{n}-{row}" for n, part in enumerate(others) for row in range(len(part))]
    for row, vector in zip(rows(told), np.concatenate(mine).astype(np.float64), strict=True):
        if np.isnan(vector).any():
            assert row["leak_error"] == "no embedding"
            assert not row["is_leak"]
            continue
        cosines = np.nan_to_num(joined @ vector / np.linalg.norm(vector), nan=-2)
        # To the accuracy that is promised; of equals the first.
        nearest = int(np.flatnonzero(cosines >= cosines.max() - 1e-12)[0])
        assert row["leak_of"] == keys[nearest]
        assert row["leak_similarity"] == pytest.approx(cosines[nearest], abs=1e-6)
        assert row["is_leak"] == (cosines[nearest] >= 1 - eps - 1e-6)


def test_nothing_to_compare(tmp_path):
    vectors = np.eye(3, dtype=np.float32)
    pool = with_vectors(tmp_path / "in", [vectors, np.full((2, 3), np.nan), vectors[:0]])
    reference = with_vectors(tmp_path / "val", [np.full((2, 3), np.nan), vectors[:1]])

    def leaks(ds: ImageTextPairDataset, other: ImageTextPairDataset) -> list[tuple[Any, ...]]:
        stage = Decontaminate({"val": other}, ["exact", "semantic"], work_dir=tmp_path / "work")
        return [(row["is_leak"], row["leak_of"], row["leak_error"]) for row in rows(stage(ds))]

    neither = (False, None, "no digest, no embedding")
    near = (False, "1-0", None)
    assert leaks(pool, reference) == [(True, "1-0", None), near, near, neither, neither]
    nothing = reference.filter("key == 'none'")
    assert leaks(pool, nothing) == [(False, None, None)] * 3 + [neither] * 2
    assert leaks(pool.filter("key == 'none'"), reference) == []
    stage = Decontaminate({"val": nothing}, "perceptual", work_dir=tmp_path / "work")
    assert [row["leak_error"] for row in rows(stage(pool))] == ["no hash"] * 5


def test_any_partitioning_and_any_workers(tmp_path, client):
    random = np.random.default_rng(0)
    vectors = random.normal(size=(60, 8)).astype(np.float32)
    group = [str(number // 4) for number in range(60)]
    others = with_vectors(tmp_path / "other", [vectors[:20] + 0.01, vectors[20:25]])
    cut = [vectors[:31], vectors[31:33], vectors[33:]]
    groups = [group[:31], group[31:33], group[33:]]
    pool = with_vectors(tmp_path / "many", cut, group=groups)
    stage = Decontaminate(others, by="semantic", eps=0.01, group="group", work_dir=tmp_path / "w")
    expected = rows(stage(pool))
    assert sum(row["is_leak"] for row in expected) == 28
    assert [row["leak_by"] for row in expected[24:28]] == ["semantic", "group", "group", "group"]
    other_way = pool.replace(pool.metadata.repartition(npartitions=1))
    assert rows(stage(other_way)) == expected


def test_splits_of_one_dataset(tmp_path):
    split = {"train": [0, 1, 2, 5], "val": [1, 7, 5]}
    members = [(f"{name}-{n}.jpg", noise(n)) for name in split for n in split[name]]
    write_tar(tmp_path / "in" / "0.tar", members)
    keys = [name.removesuffix(".jpg") for name, _ in members]
    columns = {"key": keys, "split": [key.partition("-")[0] for key in keys]}
    write_sidecar(tmp_path / "in" / "0.parquet", columns)
    ds = ImageTextPairDataset.from_webdataset(tmp_path / "in")
    train, val = ds.filter("split == 'train'"), ds.filter("split == 'val'")
    told = found(Decontaminate({"val": val}, ["exact", "perceptual"])(train))
    assert {key: row[1] for key, row in told.items()} == {
        "train-0": None,
        "train-1": "val-1",
        "train-2": None,
        "train-5": "val-5",
    }


def test_new_shards_against_the_curated_set(tmp_path):
    curated = dataset(tmp_path / "curated", {f"{n}.jpg": noise(n) for n in range(3)})
    Decontaminate(tmp_path / "none-yet", by="exact")
    new = dataset(tmp_path / "new", {"0.jpg": noise(0), "9.jpg": noise(9), "1.jpg": noise(30)})
    told = found(Decontaminate(tmp_path / "curated", by="exact")(new))
    assert [key for key, row in told.items() if row[0]] == ["0"]
    assert told["0"][1:4] == ("0", "0.tar", "curated")
    # Compared with itself, every row is its own source.
    assert all(
        row[0] and row[1] == key
        for key, row in found(Decontaminate(curated, by="exact")(curated)).items()
    )


def test_groups_go_whole(tmp_path):
    near = [scaled(0.75, 60), scaled(0.5, 80)]
    pool = dataset(
        tmp_path / "in",
        {"a.jpg": noise(1), "b.jpg": changed(1, near[0]), "c.jpg": noise(2)},
        {"d.jpg": changed(1, near[1]), "e.jpg": changed(2, near[0]), "f.jpg": b"broken"},
    )
    reference = dataset(tmp_path / "val", {"x.jpg": noise(1), "y.jpg": noise(7)})
    options: dict[str, Any] = {"work_dir": tmp_path / "work"}
    # Of the file alone only one is a leak; its group is found by what is seen.
    marked = PerceptualDedup(**options)(pool)
    told = found(Decontaminate(reference, "exact", group="duplicate_of", **options)(marked))
    by = {key: (row[1], row[4]) for key, row in told.items()}
    assert by == {
        "a": ("x", "exact"),
        "b": ("x", "group"),
        "c": (None, None),
        "d": ("x", "group"),
        "e": (None, None),
        "f": (None, None),
    }
    whole = Decontaminate(reference, ["exact", "perceptual"], radius=0, group=True, **options)
    assert {key for key, row in found(whole(pool)).items() if row[0]} >= {"a"}


def test_groups_by_one_signal_join_those_by_another(tmp_path):
    """A leaks; B has A's hash; C has B's embedding, and nothing of the reference."""
    random = np.random.default_rng(1)
    a, b, other = random.normal(size=(3, 6)).astype(np.float32)
    groups = [["p", "p", "q", "r"]], [[None, "s", "s", None]]
    pool = with_vectors(
        tmp_path / "in", [np.stack([a, b, b, other])], hashed=groups[0], seen=groups[1]
    )
    reference = with_vectors(tmp_path / "val", [a[None]])
    told = Decontaminate(
        reference, "semantic", eps=0.01, group=["hashed", "seen"], work_dir=tmp_path / "work"
    )(pool)
    assert [row["leak_by"] for row in rows(told)] == ["semantic", "group", "group", None]
    assert [row["leak_of"] for row in rows(told)][:3] == ["0-0"] * 3
    assert rows(told)[1]["leak_similarity"] is None


def test_found_once_and_again_when_something_changes(places, tmp_path):
    pool = opened(places, "pool")
    reference = tmp_path / "val"
    write_tar(reference / "0.tar", [("x.jpg", noise(50))])

    def leaks() -> list[str]:
        stage = Decontaminate(reference, ["exact", "perceptual"], work_dir=tmp_path / "work")
        return [key for key, row in found(stage(pool)).items() if row[0]]

    assert leaks() == ["new0"]
    (folder,) = [one for one in (tmp_path / "work").iterdir() if one.is_dir()]
    decided = {path.name: path.stat().st_mtime_ns for path in folder.rglob("_done")}
    assert leaks() == ["new0"]
    assert {path.name: path.stat().st_mtime_ns for path in folder.rglob("_done")} == decided
    write_tar(reference / "1.tar", [("y.jpg", noise(51))])
    assert leaks() == ["new0", "new1"]


def test_a_run_that_was_stopped_goes_on(tmp_path):
    random = np.random.default_rng(0)
    pool = with_vectors(tmp_path / "in", [random.normal(size=(6, 4)) for _ in range(3)])
    reference = with_vectors(tmp_path / "val", [random.normal(size=(5, 4))])
    stage = Decontaminate({"val": reference}, "semantic", work_dir=tmp_path / "work")
    whole = rows(stage(pool))
    (mark,) = (tmp_path / "work").rglob("_done")
    near = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("near-*.npz")}
    assert len(near) == 3
    # As when it was killed after two partitions.
    shutil.rmtree(mark.parent)
    gone = max(near)
    gone.unlink()
    assert rows(stage(pool)) == whole
    changed_files = [path for path, time in near.items() if path.stat().st_mtime_ns != time]
    assert changed_files == [gone]


def test_embeddings_that_cannot_be_compared(tmp_path):
    random = np.random.default_rng(0)
    pool = with_vectors(tmp_path / "in", [random.normal(size=(3, 4))])
    same = with_vectors(tmp_path / "same", [random.normal(size=(2, 4))])
    wide = with_vectors(tmp_path / "wide", [random.normal(size=(2, 7))])
    without = same.select([])
    with pytest.raises(ColumnNotFoundError, match="reference 'a' has no embeddings: embed it"):
        Decontaminate({"a": without})(pool)
    with pytest.raises(ColumnNotFoundError, match="the dataset has no embeddings"):
        Decontaminate({"a": same})(without)
    with pytest.raises(DatasetError, match="4 values, those of the references 7"):
        Decontaminate({"a": wide}, "semantic", work_dir=tmp_path / "work")(pool)
    pool.provenance["image_embedding"] = {"encoder": "one"}
    with pytest.raises(EncoderMismatchError, match="reference 'a' are of an unknown encoder"):
        Decontaminate({"a": same}, "semantic")(pool)
    same.provenance["image_embedding"] = {"encoder": "two"}
    with pytest.raises(EncoderMismatchError, match="are of two, but should be of one"):
        Decontaminate({"a": same}, "semantic")(pool)
    stage = Decontaminate({"a": same}, "semantic", check_encoder=False, work_dir=tmp_path / "work")
    assert len(rows(stage(pool))) == 3
    with pytest.raises(EncoderMismatchError, match="should be of sscd_disc_mixup"):
        Decontaminate.preset("sscd-0.90", {"a": same}, by="semantic")(pool)


def test_warns_of_embeddings_whose_encoder_is_not_recorded(tmp_path, caplog, backend):
    vectors = np.random.default_rng(0).normal(size=(3, 4))
    pool = write_embeddings(tmp_path / "pool", vectors, backend=backend)
    val = write_embeddings(tmp_path / "val", vectors[:2], backend=backend)

    def warnings(**options: Any) -> list[str]:
        caplog.clear()
        stage = Decontaminate({"a": val}, "semantic", work_dir=tmp_path / "work", **options)
        assert sum(row["is_leak"] for row in rows(stage(pool))) == 2
        return [record.getMessage() for record in caplog.records if "encoder" in record.msg]

    (message,) = warnings()
    assert "name it as encoder=" in message
    assert not warnings(encoder="one")
    assert not warnings(check_encoder=False)
    pool.provenance["image_embedding"] = {"encoder": "one"}
    assert not warnings(encoder="one")
    with pytest.raises(EncoderMismatchError, match="the dataset are of one, but should be of two"):
        warnings(encoder="two")
    val.provenance["image_embedding"] = {"encoder": "one"}
    assert not warnings()


def test_presets():
    stage = Decontaminate.preset("datacomp-isc", "val", by="semantic")
    assert 1 - stage.eps == pytest.approx(0.604169)
    assert stage.encoder == "isc_ft_v107"
    assert [PRESETS[f"sscd-{value}"].threshold for value in ("0.75", "0.90", "0.95")] == [
        *(0.75, 0.9, 0.95)
    ]
    with pytest.raises(ConfigError, match="no preset 'sscd'; there are datacomp-isc"):
        Decontaminate.preset("sscd", "val")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": ["exact", "colour"]}, "by="),
        ({"by": ()}, "by="),
        ({"radius": 40}, "radius=40"),
        ({"eps": -0.1}, "eps=-0.1"),
        ({"hash": "ahash"}, "hash='ahash'"),
        ({"of": "pixel"}, "of='pixel'"),
        ({"group": ""}, "group=''"),
        ({"reference": {}}, "nothing to compare with"),
        ({"reference": {"a": 3}}, "reference 'a' is 3"),
        ({"reference": ["a/val", "b/val"]}, "several references are called 'val'"),
    ],
)
def test_unusable_parameters(options, message):
    with pytest.raises(ConfigError, match=message):
        Decontaminate(**{"reference": "val", **options}).check()


@needs_shared
def test_the_same_shot_of_cifar_is_named(tmp_path):
    """People's word for duplicates between CIFAR-10's test and training images (ciFAIR)."""
    with (SHARED / "data" / "cifair" / "pairs.csv").open() as file:
        partner_of = {
            row["test"].removesuffix(".jpg"): row["train"].removesuffix(".jpg")
            for row in csv.DictReader(file)
            if row["judgment"] == "1"
        }
    partners = set(partner_of.values())
    write_tar(tmp_path / "test" / "0.tar", _members("cifar10_test.tar", set(partner_of), 0))
    # A part of the others, to save time: with all of them 96 % are named.
    train = _members("cifair/cifar10_train_part.tar", partners, 32)
    write_tar(tmp_path / "train" / "0.tar", train)
    embedder = TimmImageEmbedder("offline", image_stages=[PerceptualHash(flips=True)])
    reference, pool = (
        embedder(ImageTextPairDataset.from_webdataset(tmp_path / name))
        for name in ("train", "test")
    )
    stage = Decontaminate({"train": reference}, eps=0.2, work_dir=tmp_path / "work")
    told = {row["key"]: row for row in rows(stage(pool).select(["is_leak", "leak_of"]))}
    named = [told[key]["leak_of"] == partner for key, partner in partner_of.items()]
    assert len(named) == 125
    assert np.mean(named) >= 0.94
    assert np.mean([told[key]["is_leak"] for key in partner_of]) >= 0.9


def _members(tar: str, keys: set[str], every: int) -> list[tuple[str, bytes]]:
    """These images of a tar, and one of so many others."""
    chosen = []
    with tarfile.open(SHARED / "data" / tar) as opened_tar:
        for number, member in enumerate(opened_tar):
            is_chosen = every > 0 and number % every == 0
            if member.name.removesuffix(".jpg") in keys or is_chosen:
                content = opened_tar.extractfile(member)
                if content is not None:
                    chosen.append((member.name, content.read()))
    return chosen
