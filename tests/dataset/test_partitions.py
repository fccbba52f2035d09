"""Functions of computed partitions, whoever computes them."""

from __future__ import annotations

import dask.dataframe as dd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from distributed import Client

from nemo_image_curate import ImageTextPairDataset, frames
from nemo_image_curate.dataset import partitions
from nemo_image_curate.dataset.fingerprints import Lineage
from nemo_image_curate.errors import DatasetError, JobError
from tests.make_data import make_dataset

SIZES = [2, 0, 3, 4]


@pytest.fixture
def ds(tmp_path, backend) -> ImageTextPairDataset:
    make_dataset(tmp_path, sizes=SIZES)
    return ImageTextPairDataset.from_webdataset(tmp_path, backend=backend)


def test_of_every_partition_in_order(ds):
    assert partitions.run(ds.metadata, len, what="count") == SIZES


def test_of_some_partitions_with_arguments_of_their_own(ds):
    results = partitions.run(
        ds.metadata,
        lambda part, name, factor: (name, len(part) * factor),
        [("c", 10), ("a", 1)],
        what="count",
        numbers=[2, 0],
    )
    assert results == [("c", 30), ("a", 2)]
    assert partitions.run(ds.metadata, len, what="count", numbers=[]) == []


@pytest.mark.parametrize("filesystem", ["fsspec", "arrow"])
def test_small_files_that_dask_puts_together_stay_partitions(tmp_path, filesystem):
    more = {f"c{number}": [1] for number in range(30)}
    for number in range(40):
        row = {"key": [f"{number:09d}"], "shard": ["00000.tar"], "score": [float(number)]}
        pq.write_table(pa.table({**row, **more}), tmp_path / f"{number:03}.parquet")
    frame = dd.read_parquet(tmp_path, filesystem=filesystem)
    doubled = frame[["score"]] * 2
    assert len(doubled.to_delayed()) < doubled.npartitions == 40
    scores = partitions.run(doubled, lambda part: part.score.tolist(), what="read")
    assert sorted(scores) == [[number * 2.0] for number in range(40)]
    ds = ImageTextPairDataset(str(tmp_path), frame, [])
    assert ds.threshold("score", top=0.3) == 28


def test_rows_arrive_in_the_same_order_with_and_without_workers(ds, workers):
    def keys(part):
        return frames.column_to_arrow(part["key"]).to_pylist()

    shuffled = ds.metadata.shuffle("key", npartitions=3)
    alone = partitions.run(shuffled, keys, what="shuffle")
    with Client(workers):
        assert partitions.run(shuffled, keys, what="shuffle") == alone


def test_failures_are_named_and_the_others_finish(ds, tmp_path):
    def work(part, number):
        if number % 2:
            raise ValueError(f"part {number} is odd")
        (tmp_path / f"{number}.done").touch()

    with pytest.raises(JobError, match=r"test: 2 of 4 .*\n  b: ValueError: part 1 is odd\n  d: "):
        partitions.run(
            ds.metadata, work, [(number,) for number in range(4)], what="test", labels=[*"abcd"]
        )
    assert sorted(path.stem for path in tmp_path.glob("*.done")) == ["0", "2"]

    def refuse(part):
        raise DatasetError("for the same reason")

    with pytest.raises(DatasetError, match=r"^for the same reason$"):
        partitions.run(ds.metadata, refuse, what="test")


def test_columns_are_those_of_the_function(ds):
    def lengths(part):
        return {"rows": pa.array([len(part)] * len(part), pa.int32()), "again": part["key"]}

    added = ds.with_columns(lengths, {"rows": pa.int32(), "again": pa.string()}, {"rows": {"a": 1}})
    assert frames.schema(added.metadata).field("rows").type == pa.int32()
    table = frames.to_arrow(added.metadata.compute())
    assert table["rows"].to_pylist() == [size for size in SIZES for _ in range(size)]
    assert table["again"].equals(table["key"])
    assert table.schema == frames.schema(added.metadata)
    assert added.provenance["rows"] == {"a": 1}
    token = Lineage(added.metadata).token

    def other(part):
        return {"rows": pa.array([0] * len(part), pa.int32()), "again": part["key"]}

    changed = ds.with_columns(other, {"rows": pa.int32(), "again": pa.string()})
    assert Lineage(changed.metadata).token != token
