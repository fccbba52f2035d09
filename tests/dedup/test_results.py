"""Decisions on disk: attached to the rows they are of, and to no others."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from nemo_image_curate import ImageTextPairDataset
from nemo_image_curate.dedup import deciding, results
from nemo_image_curate.dedup.equals import send_partners
from nemo_image_curate.dedup.exchange import Exchange
from nemo_image_curate.dedup.staged import stage
from nemo_image_curate.errors import ConfigError, DatasetError
from tests.make_data import digests, make_dataset
from tests.make_embedders import rows

RECORD = {"stage": "test"}


@pytest.fixture
def made(tmp_path):
    return make_dataset(tmp_path / "in", sizes=[4, 0, 5, 3])


def opened(made, **options) -> ImageTextPairDataset:
    return ImageTextPairDataset.from_webdataset(made.root, **options)


class Numbers(deciding.RowFacts):
    """The number of each row as a further column; row 1 may be one that was not compared."""

    def __init__(self, name: str, not_compared: bool):
        self.name = name
        self.not_compared = not_compared

    def equals(self, block):
        left_out = (block.rows() == 1) & self.not_compared
        return np.where(left_out, -1, np.arange(len(block)))

    def columns(self, block):
        return {self.name: pa.array(block.rows())}


def every_second(
    ds: ImageTextPairDataset,
    folder: Path,
    not_compared: bool = False,
    prefix: str = "",
    numbers: str = "extra",
) -> ImageTextPairDataset:
    """From the last row on each second one is a duplicate of the row after it."""
    rows_of = stage(ds, [], folder / "rows", None)
    gone = np.arange(len(rows_of))[-2::-2]
    partners = Exchange(folder, "partners", 1, len(rows_of.blocks))
    similarity = np.full(len(gone), 0.75, dtype=np.float32)
    send_partners(partners, 0, gone, gone + 1, similarity, rows_of.starts)
    facts = Numbers(numbers, not_compared)
    deciding.write(folder / "decided", rows_of, partners, facts, "no image", None)
    return results.attach(ds, folder / "decided", prefix, RECORD, {"extra": None})


def check(found: list[dict], n: int) -> None:
    assert len(found) == n
    for number, row in enumerate(found):
        rank = n - 1 - number
        assert row["is_duplicate"] == (rank % 2 == 1)
        partner = found[number + 1] if rank % 2 else {"key": None, "shard": None}
        assert row["duplicate_of"] == partner["key"]
        assert row["duplicate_of_shard"] == partner["shard"]
        assert row["duplicate_similarity"] == (0.75 if rank % 2 else None)
        assert row["extra"] == number


def test_every_row_gets_its_own(made, tmp_path, backend):
    ds = opened(made, backend=backend)
    out = every_second(ds, tmp_path / "w")
    assert out.backend == backend
    found = rows(out)
    assert [row["key"] for row in found] == made.keys
    check(found, 12)
    assert out.provenance["duplicate_of"] == RECORD
    assert "extra" not in out.provenance
    saved = out.save_metadata(tmp_path / "out")
    assert rows(saved) == found


def test_rows_that_were_not_compared_are_nobodys_duplicates(made, tmp_path, backend):
    found = rows(every_second(opened(made, backend=backend), tmp_path / "w", not_compared=True))
    assert found[1]["is_duplicate"] is False
    assert [row["dedup_error"] for row in found] == [None, "no image", *[None] * 10]


def test_a_prefix(made, tmp_path):
    ds = every_second(opened(made), tmp_path / "w", prefix="near_")
    names = [
        "is_duplicate",
        "dedup_error",
        "duplicate_of",
        "duplicate_of_shard",
        "duplicate_similarity",
    ]
    assert [name for name in ds.metadata.columns if name.startswith("near_")] == [
        "near_" + name for name in names
    ]
    assert "extra" in ds.metadata.columns


def test_filtered_and_repartitioned_frames(made, tmp_path, backend):
    ds = opened(made, backend=backend).filter("score > 2")
    left = [row["key"] for row in made.rows if row["score"] > 2]
    assert 2 < len(left) < 12
    out = every_second(ds, tmp_path / "filtered")
    assert [row["key"] for row in rows(out)] == left
    check(rows(out), len(left))
    wide = ds.replace(ds.metadata.repartition(npartitions=2))
    check(rows(every_second(wide, tmp_path / "repartitioned")), len(left))
    sorted_ds = ds.replace(ds.metadata.sort_values("url", ascending=False))
    out = every_second(sorted_ds, tmp_path / "sorted")
    check(rows(out), len(left))
    assert [row["key"] for row in rows(out)] == left[::-1]
    # And what is filtered afterwards keeps its own.
    kept = rows(out.filter("is_duplicate == False"))
    assert [row["key"] for row in kept] == [
        row["key"] for row in rows(out) if not row["is_duplicate"]
    ]


def test_in_place(made, tmp_path):
    saved = every_second(opened(made), tmp_path / "w").save_metadata()
    check(rows(saved), 12)
    check(rows(opened(made)), 12)
    # Its folder is no longer needed.
    shutil.rmtree(tmp_path / "w")
    check(rows(opened(made)), 12)


def test_filters_and_assignments_stay_aligned(made, tmp_path, backend):
    """A frame joined with another would be shuffled by Dask as soon as it meets its own columns."""
    out = every_second(opened(made, backend=backend), tmp_path / "w")
    expected = [row["key"] for row in rows(out) if not row["is_duplicate"]]
    for kept in (
        out.filter("is_duplicate == False"),
        out.filter(out.metadata.duplicate_of.isna()),
        out.replace(out.metadata[~out.metadata.is_duplicate]),
        out.replace(out.metadata.assign(x=out.metadata.score * 2)).filter("not is_duplicate"),
    ):
        assert [row["key"] for row in rows(kept)] == expected
        saved = kept.save_metadata(tmp_path / "kept")
        names = {path.name for path in (tmp_path / "kept").glob("*.parquet")}
        assert names == {f"{shard:05d}.parquet" for shard in range(4)}
        assert [row["key"] for row in rows(saved)] == expected


def test_rows_of_a_partition_may_change_their_order(made, tmp_path, backend):
    ds = opened(made, backend=backend)
    out = every_second(ds, tmp_path / "w")
    turned = ds.replace(ds.metadata.map_partitions(lambda part: part[::-1]))
    again = results.attach(turned, tmp_path / "w" / "decided", "", RECORD, {"extra": None})
    expected = {row["key"]: row for row in rows(out)}
    assert [row["key"] for row in rows(again)] != list(expected)
    assert {row["key"]: row for row in rows(again)} == expected


def test_a_key_that_is_there_twice(made, tmp_path):
    """Rows of one partition with the same key keep their order; whole partitions cannot."""
    import dask.dataframe as dd

    ds = opened(made)
    frame = ds.metadata.partitions[[0]]
    twice = ds.replace(dd.concat([frame, frame]).repartition(npartitions=1))
    check(rows(every_second(twice, tmp_path / "w")), 8)
    apart = ds.replace(dd.concat([frame, frame], interleave_partitions=False))
    assert apart.metadata.npartitions == 2
    with pytest.raises(DatasetError, match="two partitions of the dataset hold the same 4 rows"):
        every_second(apart, tmp_path / "x")


def test_other_rows_than_those_it_was_made_from(made, tmp_path):
    every_second(opened(made), tmp_path / "w")
    fewer = opened(made).filter("score > 2")
    out = results.attach(fewer, tmp_path / "w" / "decided", "", RECORD, {"extra": None})
    with pytest.raises(DatasetError, match="no decisions about the rows of a partition"):
        rows(out)


def test_files_that_are_gone(made, tmp_path):
    out = every_second(opened(made), tmp_path / "w")
    shutil.rmtree(tmp_path / "w")
    with pytest.raises(DatasetError, match=r"its files are gone\. Run the deduplication again"):
        rows(out)


def test_saving_depends_on_what_was_decided_and_not_on_where(made, tmp_path):
    out = tmp_path / "out"
    every_second(opened(made), tmp_path / "one" / "w").save_metadata(out)
    first = digests(out)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    old = every_second(opened(made), tmp_path / "one" / "w")
    shutil.rmtree(tmp_path / "one")
    check(rows(every_second(opened(made), tmp_path / "two" / "w")), 12)
    with pytest.raises(DatasetError, match="its files are gone"):
        rows(old)
    every_second(opened(made), tmp_path / "two" / "w").save_metadata(out)
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")} == before
    every_second(opened(made), tmp_path / "two" / "w", not_compared=True).save_metadata(out)
    assert digests(out) != first


def test_complete_when_all_is_written(made, tmp_path):
    assert not results.complete(tmp_path / "w" / "decided")
    every_second(opened(made), tmp_path / "w")
    assert results.complete(tmp_path / "w" / "decided")


def test_the_folder_is_that_of_input_and_parameters(made, tmp_path):
    def name(ds, *config) -> str:
        return results.work_folder(ds, tmp_path / "work", *config).name

    ds = opened(made)
    assert name(ds, 1) == name(opened(made), 1)
    moved = tmp_path / "moved"
    shutil.copytree(made.root, moved)
    others = {
        name(ImageTextPairDataset.from_webdataset(moved), 1),
        name(ds, 2),
        name(ds.filter("score > 2"), 1),
        name(ds.replace(ds.metadata.repartition(npartitions=2)), 1),
        name(ds, 1),
    }
    assert len(others) == 5
    ds.replace(ds.metadata.assign(x=1)).save_metadata()
    assert name(opened(made), 1) == name(ds, 1), "a save in place that was stopped"
    later = time.time() + 5
    os.utime(made.root / "00002.tar", (later, later))
    assert name(opened(made), 1) not in others, "a tar was replaced"


def test_a_merged_frame_goes_with_both_its_inputs(made, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(made.root, moved)

    def name() -> str:
        one, other = opened(made), ImageTextPairDataset.from_webdataset(moved)
        both = one.metadata.merge(other.metadata[["key"]], on="key")
        return results.work_folder(one.replace(both), tmp_path / "work").name

    before = name()
    assert name() == before
    later = time.time() + 5
    os.utime(moved / "00002.tar", (later, later))
    assert name() != before


def test_a_folder_that_cannot_be(made, tmp_path):
    with pytest.raises(ConfigError, match="work_dir='s3://bucket/x' should be on a local"):
        results.work_folder(opened(made), "s3://bucket/x")
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match="cannot create"):
        results.work_folder(opened(made), tmp_path / "file")


def test_a_prefix_that_would_overwrite_the_key(made, tmp_path):
    with pytest.raises(ConfigError, match="prefix='sh' would overwrite the column 'shard'"):
        every_second(opened(made), tmp_path / "w", prefix="sh", numbers="ard")
