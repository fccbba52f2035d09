"""Frames and embedding columns; the same assertions on every backend that works here."""

from __future__ import annotations

import pickle
import subprocess
import sys

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from nemo_image_curate import frames
from nemo_image_curate.errors import (
    BackendError,
    ColumnNotFoundError,
    ConfigError,
    DatasetError,
    SchemaError,
)

TABLE = pa.table(
    {
        "key": pa.array(["a", None, "日本 🐈"]),
        "int": pa.array([1, None, 2**62]),
        "float": pa.array([1.5, None, float("nan")]),
        "bool": pa.array([True, None, False]),
        "list": pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32())),
    }
)


def array(values) -> np.ndarray:
    return values.get() if hasattr(values, "get") else np.asarray(values)


def test_nulls_and_lists_make_the_round_trip(backend):
    frame = frames.from_arrow(TABLE, backend)
    assert frames.backend_of(frame) == backend
    assert frames.backend_of(frame["int"]) == backend
    back = frames.to_arrow(frame)
    assert back.schema == TABLE.schema
    expected = TABLE.to_pylist()
    # NaN says no more than null.
    expected[2]["float"] = None
    assert back.to_pylist() == expected


KINDS = {
    "string": (pa.string(), ["a", ""]),
    "uint64": (pa.uint64(), [2**64 - 1, 0]),
    "float": (pa.float32(), [1.5, -0.0]),
    "time": (pa.timestamp("us"), [0, 1]),
    "zoned": (pa.timestamp("ns", "UTC"), [0, 1]),
    "duration": (pa.duration("s"), [0, 1]),
    "decimal": (pa.decimal128(9, 2), [1, 2]),
    "list": (pa.list_(pa.float32()), [[1.0], []]),
    "texts": (pa.list_(pa.string()), [["a", None], []]),
    "no texts": (pa.list_(pa.string()), [[], []]),
    "null texts": (pa.list_(pa.string()), [[None], [None, None]]),
    "lists": (pa.list_(pa.list_(pa.int64())), [[[1], []], []]),
    "struct": (pa.struct({"a": pa.int64(), "b": pa.string()}), [{"a": 1, "b": None}] * 2),
    "structs": (pa.list_(pa.struct({"a": pa.string()})), [[{"a": "x"}], []]),
}


@pytest.mark.parametrize("rows", ["values", "nulls", "some", "none"])
@pytest.mark.parametrize("name", list(KINDS))
def test_types_are_kept_whatever_the_rows(backend, name, rows):
    kind, values = KINDS[name]
    some = {"values": values, "nulls": [None, None], "some": [None, *values], "none": []}[rows]
    table = pa.table({"x": pa.array(some, kind)})
    frame = frames.from_arrow(table, backend)
    assert frames.to_arrow(frame).equals(table)
    assert frames.column_to_arrow(frame["x"]).equals(table["x"].combine_chunks())
    # The frame's index is none of its columns, whatever pandas noted in the table.
    noted = pa.Table.from_pandas(pd.DataFrame({"x": [1, 2]}, index=[7, 8]))
    assert frames.to_arrow(frames.from_arrow(noted, backend)).column_names == noted.column_names


LACKING = [
    *(pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(3), pa.time64("us")),
    *(pa.date32(), pa.date64(), pa.month_day_nano_interval(), pa.map_(pa.string(), pa.int8())),
    *(pa.timestamp("us", "+02:00"), pa.timestamp("s", "-00:00"), pa.decimal256(40, 2)),
    *(pa.large_list(pa.int8()), pa.list_(pa.int8(), 2), pa.list_view(pa.int8()), pa.float16()),
]
CATEGORIES = pa.dictionary(pa.int8(), pa.string())
LACKING_INSIDE = [
    *(pa.list_(CATEGORIES), pa.struct({"a": CATEGORIES}), pa.dictionary(pa.int8(), pa.date32())),
    pa.list_(pa.struct({"a": pa.timestamp("us", "UTC")})),
]
LACKING_INSIDE += [pa.list_(kind) for kind in LACKING]
LACKING_INSIDE += [pa.struct({"n": pa.int8(), "a": kind}) for kind in LACKING]


@pytest.mark.parametrize("kind", [*LACKING, *LACKING_INSIDE], ids=str)
def test_types_that_cudf_lacks_are_named(kind):
    """Also where there is no GPU: the types decide."""
    table = pa.schema({"x": kind}).empty_table()
    with pytest.raises(SchemaError, match=r"column 'x' is .*, for which cuDF has no type"):
        frames.from_arrow(table, "gpu")


@pytest.mark.parametrize("name", list(KINDS))
def test_frames_are_sent_to_other_processes(backend, name):
    kind, values = KINDS[name]
    table = pa.table({"x": pa.array([None, *values], kind)})
    frame = frames.from_arrow(table, backend)
    # From one to another, and on from there.
    for _ in range(2):
        frame = pickle.loads(pickle.dumps(frame))
        assert frames.to_arrow(frame).equals(table)


def test_index_is_not_written_and_filtered_frames_are_whole(backend):
    frame = frames.from_arrow(TABLE, backend)
    back = frames.to_arrow(frame[frame["int"] > 1])
    assert back.column_names == TABLE.column_names
    assert back["key"].to_pylist() == ["日本 🐈"]
    assert back["list"].num_chunks == 1


def test_columns_are_added_by_row_whatever_the_index(backend):
    frame = frames.from_arrow(TABLE, backend).iloc[1:]
    changed = frames.with_columns(frame, {"x": pa.array([7, None]), "int": pa.array(["p", "q"])})
    assert frames.to_arrow(changed)["x"].to_pylist() == [7, None]
    assert frames.to_arrow(changed)["int"].to_pylist() == ["p", "q"]
    assert frames.to_arrow(frame)["int"].to_pylist() == [None, 2**62], "the given frame is kept"


def test_one_column_to_arrow(backend):
    frame = frames.from_arrow(TABLE, backend)
    assert frames.column_to_arrow(frame["key"]).to_pylist() == TABLE["key"].to_pylist()
    assert frames.column_to_arrow(frame["list"].iloc[1:]).to_pylist() == [None, [3.0, 4.0]]
    assert isinstance(frames.column_to_arrow(frame["int"]), pa.Array)


@pytest.mark.parametrize("kept", [[], [0], [1, 3], [0, 1, 2, 3, 4]])
def test_embeddings_make_the_round_trip(backend, kept):
    values = np.random.default_rng(0).normal(size=(len(kept), 6)).astype(np.float32)
    given = values
    if backend == "gpu":
        import torch

        given = torch.tensor(values, device="cuda")
    column = frames.embedding_column(given, kept, rows=5)
    frame = frames.from_arrow(pa.table({"n": range(5)}), backend)
    frame = frames.with_columns(frame, {"e": column})
    assert frames.to_arrow(frame).schema.field("e").type == pa.list_(pa.float32())
    nulls = [one is None for one in frames.to_arrow(frame)["e"].to_pylist()]
    assert nulls == [row not in kept for row in range(5)]
    found, rows = frames.embedding_array(frame["e"])
    assert rows.tolist() == kept
    assert found.dtype == np.float32
    if kept:
        np.testing.assert_array_equal(array(found), values)
    else:
        assert found.shape == (0, 0)
    part = frame["e"].iloc[2:]
    found, rows = frames.embedding_array(part)
    assert rows.tolist() == [row - 2 for row in kept if row >= 2]
    if len(rows):
        np.testing.assert_array_equal(array(found), values[[kept.index(r + 2) for r in rows]])


def test_embeddings_are_not_copied_on_the_cpu():
    values = np.ones((3, 4), np.float32)
    column = frames.embedding_column(values, [0, 2, 3], rows=4)
    assert np.shares_memory(column.flatten().to_numpy(), values)
    frame = frames.with_columns(frames.from_arrow(pa.table({"n": range(4)}), "cpu"), {"e": column})
    found, _ = frames.embedding_array(frame["e"])
    assert np.shares_memory(found, values)


def test_embeddings_of_different_lengths_are_refused(backend):
    for rows in ([[1.0], [1.0, 2.0]], [[1.0], [1.0, 2.0, 3.0]], [[], [1.0, 2.0]]):
        table = pa.table({"e": pa.array(rows, pa.list_(pa.float32()))})
        with pytest.raises(DatasetError, match="'e': embeddings of different lengths"):
            frames.embedding_array(frames.from_arrow(table, backend)["e"])


def test_double_precision_embeddings_are_read_as_single(backend):
    table = pa.table({"e": pa.array([[1.0, 2.0]], pa.list_(pa.float64()))})
    found, _ = frames.embedding_array(frames.from_arrow(table, backend)["e"])
    assert found.dtype == np.float32


def test_null_rows_that_hold_values(backend):
    """As a cast of a list of fixed size leaves them."""
    lists = pa.FixedSizeListArray.from_arrays(
        pa.array([1, 2, 9, 9, 3, 4], pa.float32()), 2, mask=pa.array([False, True, False])
    )
    table = pa.table({"e": lists.cast(pa.list_(pa.float32()))})
    for rows in (slice(None), slice(1, None)):
        column = frames.from_arrow(table, backend)["e"].iloc[rows]
        found, kept = frames.embedding_array(column)
        assert array(found).tolist() == [[1, 2], [3, 4]][-len(kept) :]
        assert kept.tolist() == ([0, 2] if rows.start is None else [1])


def test_too_many_values_for_one_partition():
    frames.check_leaves(2_796_202, 768)
    with pytest.raises(DatasetError, match=r"2,796,203 rows x 768.*at most 2,796,202 rows"):
        frames.check_leaves(2_796_203, 768)
    wide = np.broadcast_to(np.zeros((1, 1), np.float32), (1, 2**20))
    with pytest.raises(DatasetError, match="repartition"):
        frames.embedding_column(wide, [0], rows=4096)


@pytest.mark.parametrize("name", TABLE.column_names)
def test_an_array_as_a_column(backend, name):
    frame = frames.from_arrow(TABLE, backend)
    frame.index = frame.index + 7
    column = frames.column(TABLE[name], frame)
    assert frames.backend_of(column) == backend
    assert column.dtype == frame[name].dtype
    assert frames.to_arrow(column.to_frame(name)) == frames.to_arrow(frame[[name]])
    assert list(frames.host(column.index.values)) == list(frames.host(frame.index.values))


def test_the_schema_of_frames_and_of_lazy_frames(backend):
    frame = frames.from_arrow(TABLE, backend)
    lazy = dd.from_pandas(frame, npartitions=2)
    for given in (frame, lazy, frame.iloc[:0]):
        assert frames.schema(given) == TABLE.schema
        assert len(frames.empty(given)) == 0
        assert frames.backend_of(given) == frames.backend_of(frames.empty(given)) == backend


def test_missing_columns_are_named_with_the_closest(backend):
    frame = frames.from_arrow(TABLE, backend)
    frames.require_columns(frame, "key", "float")
    with pytest.raises(ColumnNotFoundError) as caught:
        frames.require_columns(frame, "key", "flaot")
    assert "no column 'flaot'. Did you mean 'float'?" in str(caught.value)
    assert "Columns: key, int, float, bool, list" in str(caught.value)


def test_plain_pandas_frames_are_taken_too():
    plain = pd.DataFrame({"key": ["a", None], "n": [1, 2]}, index=[5, 9])
    assert frames.backend_of(plain) == "cpu"
    assert frames.to_arrow(plain).to_pydict() == {"key": ["a", None], "n": [1, 2]}


def test_backend_names(monkeypatch):
    monkeypatch.delenv("NEMO_IMAGE_CURATE_BACKEND", raising=False)
    assert frames.resolve_backend() == ("cpu" if frames.gpu_problem() else "gpu")
    assert frames.resolve_backend("cpu") == "cpu"
    monkeypatch.setenv("NEMO_IMAGE_CURATE_BACKEND", "cpu")
    assert frames.resolve_backend() == "cpu"
    monkeypatch.setenv("NEMO_IMAGE_CURATE_BACKEND", "tpu")
    with pytest.raises(ConfigError, match="'tpu' is none of the backends"):
        frames.resolve_backend()
    assert frames.resolve_backend("cpu") == "cpu", "an argument counts more than the environment"


@pytest.mark.skipif(frames.gpu_problem() is None, reason="a GPU works here")
def test_asking_for_a_gpu_without_one_says_why():
    with pytest.raises(BackendError, match=r"'gpu' does not work here: .*cuda12 or cuda13"):
        frames.resolve_backend("gpu")


def test_importing_the_data_layer_loads_no_model_library_and_no_cluster():
    code = (
        "import sys; import nemo_image_curate.frames, nemo_image_curate.compute.jobs, "
        "nemo_image_curate.shards.reader, nemo_image_curate.dataset;"
        "heavy = {'torch', 'dask.dataframe', 'distributed', 'cudf', 'timm', 'faiss'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("values", [[1, 2], ["a", None], [["a"], ["b"]], [{"a": 1.0}, None]])
def test_a_column_that_holds_no_embeddings(values, backend):
    column = frames.from_arrow(pa.table({"x": pa.array(values)}), backend)["x"]
    with pytest.raises(DatasetError, match=r"column 'x' holds .*, no embeddings"):
        frames.embedding_array(column)
