"""The two dataframe backends: pandas on a CPU, cuDF on a GPU.

Only this module knows which one is in use. Everything else exchanges Arrow tables with it, or
uses the methods that both share.

In pandas numbers have its nullable types (``Int64``, ``Float32``, ``boolean``), and all else those
of Arrow: so nulls mean what they mean in cuDF, lists stay lists, and every operator of numbers is
there. Arrow's own numbers lack ``%`` and ``divmod`` in pandas. The nullable types take 130 ms
instead of 10 to make of a million rows of five columns, and a fifth more memory; comparisons take
half as long (measured with pandas 3.0).
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate.errors import (
    BackendError,
    ColumnNotFoundError,
    ConfigError,
    DatasetError,
    SchemaError,
)

Backend = Literal["cpu", "gpu"]
_ENVIRONMENT = "NEMO_IMAGE_CURATE_BACKEND"
# cuDF columns, and Arrow's 32-bit list offsets, address at most this many leaf values.
# Bytes of a table that one thread converts faster than several.
_THREADS_FROM = 2**20
MAX_LEAVES = 2**31 - 1


@functools.cache
def gpu_problem() -> str | None:
    """Why the GPU backend does not work on this machine, or None when it does.

    ``import cudf`` succeeds without a GPU and fails at first use, so a tiny frame is built.
    """
    # Asked before PyTorch, which takes seconds to import.
    if importlib.util.find_spec("cudf") is None:
        return "cuDF is not installed"
    try:
        import torch

        if not torch.cuda.is_available():
            return "torch.cuda.is_available() is False"
        import cudf

        cudf.DataFrame({"a": [1]})
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def resolve_backend(backend: str = "auto") -> Backend:
    """Turn ``auto``, ``cpu`` or ``gpu`` into the backend to use.

    The environment variable ``NEMO_IMAGE_CURATE_BACKEND`` takes the place of ``auto``.

    Raises
    ------
    ConfigError
        For any other name.
    BackendError
        When ``gpu`` is asked for and no GPU works.
    """
    if backend == "auto":
        backend = os.environ.get(_ENVIRONMENT, "auto")
    if backend == "auto":
        return "cpu" if gpu_problem() else "gpu"
    if backend == "cpu":
        return "cpu"
    if backend != "gpu":
        raise ConfigError(f"{backend!r} is none of the backends 'auto', 'cpu', 'gpu'.")
    if problem := gpu_problem():
        raise BackendError(
            f"'gpu' does not work here: {problem}. Install the cuda12 or cuda13 extra on a machine "
            "with an NVIDIA GPU, or use 'cpu'."
        )
    return "gpu"


def backend_of(frame: Any) -> Backend:
    """The backend of a frame, series or Dask collection of them."""
    partition = getattr(frame, "_meta", frame)
    return "gpu" if type(partition).__module__.split(".")[0] == "cudf" else "cpu"


def device_of(frame: Any) -> Literal["cpu", "cuda"]:
    """Where models that work on a frame's rows run: ``cuda`` for cuDF, ``cpu`` for pandas."""
    return "cuda" if backend_of(frame) == "gpu" else "cpu"


def host(values: Any) -> np.ndarray:
    """An array of the CPU's memory: a NumPy array as it is, a CuPy array copied."""
    array: np.ndarray = values.get() if hasattr(values, "get") else values
    return array


def from_arrow(table: pa.Table, backend: Backend) -> Any:
    """A dataframe with the columns of an Arrow table; nulls mean the same on both backends.

    Raises
    ------
    SchemaError
        For a column that cuDF has no type for.
    """
    if backend == "gpu":
        for field in table.schema:
            is_category = pa.types.is_dictionary(field.type)
            if not _cudf_holds(field.type.value_type if is_category else field.type):
                raise SchemaError(
                    f"column {field.name!r} is {field.type}, for which cuDF has no type. Cast or "
                    "drop it in the sidecars, or use backend='cpu'."
                )
        import cudf

        # Dask finds the rest by itself, but not how large a frame is: see `dask.sizeof`.
        import dask_cudf  # noqa: F401

        _let_structs_travel()
        # In pandas NaN is null already.
        whole = {name: nan_to_null(table[name]) for name in table.column_names}
        return cudf.DataFrame.from_arrow(pa.table(whole))

    # Small tables are done before other threads have begun.
    is_large = table.nbytes > _THREADS_FROM
    return table.to_pandas(types_mapper=_pandas_type, ignore_metadata=True, use_threads=is_large)


_NULLABLE_NUMBERS: dict[pa.DataType, Any] = {
    pa.bool_(): pd.BooleanDtype(),
    pa.int8(): pd.Int8Dtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.uint8(): pd.UInt8Dtype(),
    pa.uint16(): pd.UInt16Dtype(),
    pa.uint32(): pd.UInt32Dtype(),
    pa.uint64(): pd.UInt64Dtype(),
    pa.float32(): pd.Float32Dtype(),
    pa.float64(): pd.Float64Dtype(),
}


def _pandas_type(kind: pa.DataType) -> Any:
    return _NULLABLE_NUMBERS.get(kind) or pd.ArrowDtype(kind)


_CUDF_HOLDS = (
    *(pa.types.is_null, pa.types.is_boolean, pa.types.is_integer, pa.types.is_duration),
    *(pa.types.is_float32, pa.types.is_float64, pa.types.is_decimal),
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
)


def _cudf_holds(kind: pa.DataType) -> bool:
    """Whether a column comes back from cuDF as the type it had, or as plain text where it was text.

    Dates would come back as timestamps, and shards saved on a GPU no longer go with the others.
    """
    types = pa.types
    if types.is_list(kind):
        return _cudf_holds(kind.value_type)
    if types.is_struct(kind):
        # In structs times lose their zone on the way from one worker to another.
        return all(_cudf_holds(field.type) and not _zone(field.type) for field in kind)
    if types.is_timestamp(kind):
        # cuDF knows zones by name only.
        return not _zone(kind).startswith(("+", "-"))
    return any(is_kind(kind) for is_kind in _CUDF_HOLDS) and not types.is_decimal256(kind)


def _zone(kind: pa.DataType) -> str:
    return (kind.tz or "") if pa.types.is_timestamp(kind) else ""


@functools.cache
def _let_structs_travel() -> None:
    """Have structs that hold texts be sent from one process to another.

    cuDF 26.10 sends the name in `dtype.str` of each member, which its dtype of texts does not have.
    It understands that of NumPy's objects instead, also where this was not called.
    """
    import cudf

    serialize = cudf.StructDtype.serialize

    def with_texts(struct: Any) -> Any:
        members = {
            name: np.dtype(object) if isinstance(kind, pd.StringDtype) else kind
            for name, kind in struct.fields.items()
        }
        return serialize(cudf.StructDtype(members))

    cudf.StructDtype.serialize = with_texts


def to_arrow(frame: Any) -> pa.Table:
    """An Arrow table with the columns of a dataframe, in one chunk and without its index."""
    if backend_of(frame) == "gpu":
        return pa.table({name: column_to_arrow(frame[name]) for name in frame.columns})
    table = pa.Table.from_pandas(frame, preserve_index=False)
    return table.replace_schema_metadata(None).combine_chunks()


def empty(frame: Any) -> Any:
    """A dataframe without rows, of the columns of another or of a Dask collection."""
    return getattr(frame, "_meta", frame).iloc[:0]


def schema(frame: Any) -> pa.Schema:
    """The Arrow schema of a dataframe, or of a Dask collection, of which nothing is computed."""
    return to_arrow(empty(frame)).schema


def nan_to_null(values: Any) -> Any:
    """An Arrow array in which null stands for NaN: neither says what a value is."""
    if not pa.types.is_floating(values.type):
        return values
    return pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)


def column_to_arrow(series: Any) -> pa.Array:
    """One column as a single Arrow array."""
    if backend_of(series) == "gpu":
        import cudf

        array = nan_to_null(series.to_arrow())
        # cuDF gives lists and structs without any value, or any text inside, the type null, and
        # texts the type that pandas has for them.
        if isinstance(series.dtype, (cudf.ListDtype, cudf.StructDtype)):
            return array.cast(series.dtype.to_arrow())
        return array.cast(pa.string()) if pa.types.is_large_string(array.type) else array
    array = pa.array(series, from_pandas=True)
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def with_columns(frame: Any, columns: dict[str, Any]) -> Any:
    """A copy of `frame` with columns added or replaced.

    Parameters
    ----------
    frame : pandas.DataFrame or cudf.DataFrame
    columns : dict of str to pyarrow.Array or series
        Each as long as the frame. Arrow arrays become columns of the frame's backend.
    """
    series = {}
    for name, values in columns.items():
        if isinstance(values, (pa.Array, pa.ChunkedArray)):
            values = column(values, frame)
        values.index = frame.index
        series[name] = values
    if backend_of(frame) == "cpu" and series and series.keys().isdisjoint(frame):
        # At once: pandas takes most of a millisecond for each of them by itself.
        return pd.concat([frame, pd.DataFrame(series)], axis=1)
    frame = frame.copy(deep=False)
    for name, values in series.items():
        frame[name] = values
    return frame


def check_leaves(rows: int, dim: int) -> None:
    """Refuse an embedding column that would overflow 32-bit list offsets.

    Raises
    ------
    DatasetError
        With the number of rows that would fit.
    """
    if rows * dim > MAX_LEAVES:
        raise DatasetError(
            f"a partition of {rows:,} rows x {dim} values exceeds the 2^31 values that one list "
            f"column can hold (at most {MAX_LEAVES // dim:,} rows at this width). Use smaller "
            "shards, or metadata.repartition(npartitions=...)."
        )


def embedding_type() -> pa.DataType:
    """The type of an embedding column: ``list<float32>``."""
    return pa.list_(pa.field("item", pa.float32()))


def embedding_column(values: Any, row_numbers: Any, rows: int) -> Any:
    """A ``list<float32>`` column from the 2-D array of its non-null rows.

    Its values are those of the array, not copied, where that is contiguous and single precision.
    cuDF copies a column when it becomes one of a frame.

    Parameters
    ----------
    values : numpy.ndarray or torch.Tensor, shape (n, d), float32
        One embedding for each of the row numbers.
    row_numbers : sequence of int, length n
        Ascending row numbers that have an embedding; all other rows become null.
    rows : int
        Length of the column.

    Returns
    -------
    pyarrow.ListArray, or cudf.Series when `values` is a CUDA tensor
    """
    n, dim = values.shape
    check_leaves(rows, dim)
    present = np.zeros(rows, dtype=bool)
    present[np.asarray(row_numbers, dtype=np.int64)] = True
    offsets = np.zeros(rows + 1, dtype=np.int32)
    np.cumsum(present, out=offsets[1:])
    offsets *= dim
    if getattr(values, "is_cuda", False):
        return _cudf_lists(values, offsets, present)

    leaves = pa.array(np.ascontiguousarray(values, dtype=np.float32).reshape(n * dim))
    return pa.ListArray.from_arrays(
        pa.array(offsets), leaves, mask=None if present.all() else pa.array(~present)
    )


def _cudf_lists(values: Any, offsets: np.ndarray, present: np.ndarray) -> Any:
    import cudf
    import cupy
    import pylibcudf as plc

    def column(array: Any) -> Any:
        return plc.Column.from_cuda_array_interface(cupy.asarray(array).reshape(-1))

    # cuDF adopts the device buffer through pylibcudf, and keeps the tensor alive; only the small
    # offsets and the mask travel.
    mask, nulls = (None, 0) if present.all() else plc.transform.bools_to_mask(column(present))
    lists = plc.DataType(plc.TypeId.LIST)
    children = [column(offsets), column(values.detach().float().contiguous())]
    return cudf.Series.from_pylibcudf(
        plc.Column(lists, len(present), None, mask, nulls, 0, children)
    )


def embedding_array(series: Any) -> tuple[Any, np.ndarray]:
    """The non-null rows of an embedding column as one 2-D array.

    Parameters
    ----------
    series : pandas.Series or cudf.Series of list<float32>

    Returns
    -------
    values : numpy.ndarray or cupy.ndarray, shape (n, d), float32
        A view of the column's memory where it can be; d is 0 when no row has an embedding.
    row_numbers : numpy.ndarray of int64, shape (n,)
        The rows that `values` belong to.

    Raises
    ------
    DatasetError
        When it is no column of lists of numbers, or rows differ in length, so that there is no
        2-D array.
    """
    if backend_of(series) == "gpu":
        import cupy

        row_numbers = cupy.asnumpy(cupy.flatnonzero(series.notna().values))
        if not len(row_numbers):
            return cupy.empty((0, 0), dtype=np.float32), row_numbers
        _check_lists(series.name, column_to_arrow(series.iloc[:0]).type)
        present = series.dropna() if series.has_nulls else series
        leaves = present.list.leaves.values.astype(np.float32, copy=False)
        widths = cupy.asnumpy(present.list.len().values)
    else:
        array = column_to_arrow(series)
        row_numbers = np.flatnonzero(pc.is_valid(array).to_numpy(zero_copy_only=False))
        if not len(row_numbers):
            return np.empty((0, 0), dtype=np.float32), row_numbers
        _check_lists(series.name, array.type)
        # Unlike after drop_null, nothing is copied as long as null rows hold no values.
        leaves = array.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
        widths = pc.list_value_length(array).drop_null().to_numpy(zero_copy_only=False)
    if (widths != widths[0]).any():
        raise DatasetError(
            f"column {series.name!r}: embeddings of different lengths "
            f"({int(widths.min())} to {int(widths.max())}) in one partition."
        )
    return leaves.reshape(len(row_numbers), int(widths[0])), row_numbers


def _check_lists(name: str, kind: pa.DataType) -> None:
    types = pa.types
    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    if not any(is_kind(kind) for is_kind in lists) or not types.is_floating(kind.value_type):
        raise DatasetError(f"column {name!r} holds {kind}, no embeddings.")


def scatter(
    values: Sequence[Any], row_numbers: Iterable[int], rows: int, kind: pa.DataType
) -> pa.Array:
    """A column of `rows` rows with `values` at some row numbers, and nulls elsewhere.

    A value that is NaN is null, too.
    """
    column: list[Any] = [None] * rows
    for row, value in zip(row_numbers, values, strict=True):
        column[row] = value
    return pa.array(column, kind, from_pandas=True)


def require_columns(frame: Any, *names: str) -> None:
    """Check that columns exist.

    Raises
    ------
    ColumnNotFoundError
        Naming the first that is missing, the columns there are, and the closest name.
    """
    for name in names:
        if name not in frame.columns:
            raise ColumnNotFoundError(name, frame.columns)


def column(values: Any, frame: Any) -> Any:
    """An Arrow array, as long as a dataframe, as a series of its kind and index."""
    if backend_of(frame) == "gpu":
        series = from_arrow(pa.table({"column": values}), "gpu")["column"]
        series.index = frame.index
        return series
    return pd.Series(_pandas_type(values.type).__from_arrow__(values), index=frame.index)
