"""Bundles of partitions: fewer tasks, each part read once, and the same values."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import dask
import dask.dataframe as dd
import pandas as pd
import pytest

from nemo_image_curate.compute import _bundles

COUNT = 12


@dataclass(frozen=True)
class Part:
    number: int
    rows: int | None = 3


class Reader:
    """Gives the rows of a part, and notes what was read."""

    id_col = "key"

    def __init__(self) -> None:
        self.read: list[tuple[int, tuple[str, ...]]] = []

    def __dask_tokenize__(self) -> str:
        return f"reader {id(self)}"

    def __call__(self, part: Part, columns: list[str] | None = None) -> pd.DataFrame:
        numbers = range(part.number * 3, part.number * 3 + 3)
        frame = pd.DataFrame({"key": list(map(str, numbers)), "n": numbers, "size": 1.5})
        frame = frame if columns is None else frame[columns]
        self.read.append((part.number, tuple(frame.columns)))
        return frame


@pytest.fixture
def reader() -> Iterator[Reader]:
    with dask.config.set({"dataframe.convert-string": False}):
        yield Reader()


def opened(reader: Reader, bundles: list[int], rows: int | None = 3) -> Any:
    meta = Reader()(Part(0)).iloc[:0]
    parts = _bundles.Parts([Part(number, rows) for number in range(COUNT)], bundles)
    return _bundles.read_parts(reader, parts, meta, "read")


def even(frame: pd.DataFrame) -> pd.Series:
    return frame["n"] % 2 == 0


def with_rank(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(rank=frame["n"].rank())


def numbered(number: int) -> pd.DataFrame:
    return pd.DataFrame({"n": [number] * 3})


def beside(frame: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(other=other["n"].to_numpy())


COMPUTATIONS = {
    "all": lambda frame: frame,
    "a column": lambda frame: frame["n"],
    "filtered": lambda frame: frame[frame["n"] % 3 == 0],
    "filtered by a function": lambda frame: frame[frame[["n"]].map_partitions(even)],
    "of each partition": lambda frame: frame.map_partitions(with_rank)[["rank", "key"]],
    "assigned": lambda frame: frame.assign(double=frame["n"] * 2, half=frame["n"] / 2),
    "by a mean": lambda frame: frame[frame["n"] > frame["n"].mean()],
    "grouped": lambda frame: frame.assign(last=frame["n"] % 5).groupby("last")["n"].sum().sum(),
    "sum": lambda frame: frame["n"].sum(),
    "some partitions": lambda frame: frame.partitions[2:11],
    "one partition": lambda frame: frame.partitions[7].map_partitions(with_rank),
    "head": lambda frame: frame.map_partitions(with_rank).head(5, npartitions=-1, compute=False),
    "tail": lambda frame: frame.tail(2, compute=False),
    "merged": lambda frame: frame.merge(frame[["key", "n"]], on="key").sort_values("key"),
    "put together": lambda frame: dd.concat([frame, frame[frame["n"] > 3]]),
    "shifted": lambda frame: frame["n"].map_overlap(lambda part: part.shift(1), 1, 0),
    "in fewer partitions": lambda frame: frame.repartition(npartitions=3),
    "sorted": lambda frame: frame.sort_values("n", ascending=False),
    "kept in memory": lambda frame: frame.persist(scheduler="sync").assign(double=1),
    "of an index": lambda frame: frame.set_index("key").loc["12":"17"],
    "joined by an index": lambda frame: frame.set_index("key").join(
        frame.set_index("key")[["n"]].rename(columns={"n": "m"})
    ),
    "described": lambda frame: frame.assign(m=(frame["n"] * 7) % 11).describe(),
    "quantiles": lambda frame: frame["n"].quantile([0.1, 0.5, 0.9]),
    "beside another frame": lambda frame: frame.map_partitions(
        beside, dd.from_map(numbered, range(COUNT)), align_dataframes=False
    ),
    "beside chosen partitions": lambda frame: frame.partitions[:4].map_partitions(
        beside, frame.partitions[[0, 3, 7, 11]], align_dataframes=False
    ),
    "reduced by a function": lambda frame: frame["n"].reduction(len, aggregate=max, meta=int),
}


@pytest.mark.parametrize("bundles", [[1, 8, 3], [COUNT]])
@pytest.mark.parametrize("name", COMPUTATIONS)
def test_values_are_those_of_pandas_whatever_the_bundles(reader, name, bundles):
    computation = COMPUTATIONS[name]
    result = computation(opened(reader, bundles)).compute(scheduler="sync")
    plain = dd.from_map(Reader(), [Part(number) for number in range(COUNT)])
    expected = computation(plain).compute(scheduler="sync")
    if isinstance(expected, (pd.DataFrame, pd.Series)):
        assert result.reset_index(drop=True).equals(expected.reset_index(drop=True))
    else:
        assert result == expected


def test_each_part_is_read_once_in_the_task_of_its_bundle(reader):
    frame = opened(reader, [3] * 4)
    chosen = frame[frame[["n"]].map_partitions(even)]
    assert frame.npartitions == COUNT
    assert len(chosen.optimize().__dask_graph__()) == 4
    assert len(chosen.compute(scheduler="sync")) == COUNT * 3 // 2
    assert set(Counter(number for number, _ in reader.read).values()) == {1}


def test_only_columns_in_use_are_read_to_count(reader):
    frame = opened(reader, [3] * 4)
    assert len(frame[frame[["n"]].map_partitions(even)]) == COUNT * 3 // 2
    assert Counter(reader.read) == {(number, ("n",)): 1 for number in range(COUNT)}


def test_known_rows_are_not_counted_again(reader):
    frame = opened(reader, [3] * 4)
    assert len(frame) == COUNT * 3
    assert len(frame.assign(double=frame["n"] * 2)) == COUNT * 3
    assert reader.read == []
    assert len(opened(reader, [3] * 4, rows=None)) == COUNT * 3
    assert len(reader.read) == COUNT


def test_functions_see_one_partition_at_a_time(reader):
    frame = opened(reader, [3] * 4)
    lengths = frame.map_partitions(len, meta=("length", int)).compute(scheduler="sync")
    assert list(lengths) == [3] * COUNT


def test_tasks_of_single_partitions(reader):
    frame = opened(reader, [3] * 4)
    task_of = _bundles.partition_tasks(with_rank_of(frame).expr)
    task = pickle.loads(pickle.dumps(task_of("key", 7)))
    assert task().equals(with_rank(Reader()(Part(7))))
    with pytest.raises(ValueError, match="partition by partition"):
        _bundles.partition_tasks(frame.shuffle("n").expr)


def with_rank_of(frame: Any) -> Any:
    return frame.map_partitions(with_rank)


def test_there_are_no_bundles_where_dask_does_not_tune(reader):
    frame = opened(reader, [3] * 4)
    assert len(with_rank_of(frame).to_delayed()) == 4
    with dask.config.set({"optimization.tune.active": False}):
        assert len(with_rank_of(frame).to_delayed()) == COUNT


def test_parts_are_not_printed_one_by_one(reader):
    parts = opened(reader, [COUNT]).expr.operand("iterables")
    assert repr(parts) == f"[<{COUNT} parts>]"


def test_arrays_have_the_lengths_of_partitions(reader):
    frame = opened(reader, [3] * 4)
    with dask.config.set(scheduler="sync"):
        array = frame[["n"]].to_dask_array(lengths=True)
        assert array.compute()[:, 0].tolist() == list(range(COUNT * 3))
