"""What users compute with columns of numbers: every operation on every type that can hold nulls.

The same operation on plain floats of pandas, in which NaN stands for null, says what is right.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from nemo_image_curate import frames
from nemo_image_curate.compute import _dask

N = [7, None, 3, 9, 1, 3, 8, 5]
OTHER = [2, 5, None, 4, 1, 3, 2, 5]
GROUP = [0, 1, 0, 1, 0, 1, 0, 1]
TYPES = {
    str(kind): kind
    for kind in (
        *(pa.int8(), pa.int16(), pa.int32(), pa.int64()),
        *(pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
        *(pa.float32(), pa.float64()),
    )
}

Operation = Callable[[Any], Any]
# Row by row, or to one number: Dask has them all.
EVERYWHERE: dict[str, Operation] = {
    "n + 2": lambda f: f["n"] + 2,
    "2 + n": lambda f: 2 + f["n"],
    "n + other": lambda f: f["n"] + f["other"],
    "n - 1": lambda f: f["n"] - 1,
    "9 - n": lambda f: 9 - f["n"],
    "n * 3": lambda f: f["n"] * 3,
    "n * other": lambda f: f["n"] * f["other"],
    "n / 2": lambda f: f["n"] / 2,
    "1 / n": lambda f: 1 / f["n"],
    "n / other": lambda f: f["n"] / f["other"],
    "n // 2": lambda f: f["n"] // 2,
    "9 // n": lambda f: 9 // f["n"],
    "n // other": lambda f: f["n"] // f["other"],
    "n % 3": lambda f: f["n"] % 3,
    "9 % n": lambda f: 9 % f["n"],
    "n % other": lambda f: f["n"] % f["other"],
    "n ** 2": lambda f: f["n"] ** 2,
    "n * 0.5": lambda f: f["n"] * 0.5,
    "n == 3": lambda f: f["n"] == 3,
    "n != 3": lambda f: f["n"] != 3,
    "n < 3": lambda f: f["n"] < 3,
    "n <= 3": lambda f: f["n"] <= 3,
    "n > other": lambda f: f["n"] > f["other"],
    "n >= 3": lambda f: f["n"] >= 3,
    "between": lambda f: f["n"].between(3, 7),
    "isin": lambda f: f["n"].isin([3, 9]),
    "isna": lambda f: f["n"].isna(),
    "notnull": lambda f: f["n"].notnull(),
    "fillna": lambda f: f["n"].fillna(4),
    "abs": lambda f: f["n"].abs(),
    "clip": lambda f: f["n"].clip(2, 6),
    "where": lambda f: f["n"].where(f["other"] > 2),
    "mask": lambda f: f["n"].mask(f["g"] > 0),
    "diff": lambda f: f["n"].astype("Float64").diff(),
    "cumsum": lambda f: f["n"].cumsum(),
    "as Int32": lambda f: f["n"].astype("Int32"),
    "as float32": lambda f: f["n"].fillna(0).astype("float32"),
    "filter": lambda f: f[f["n"] > 3]["n"],
    "filter by %": lambda f: f[f["n"] % 3 == 0]["n"],
    "dropna": lambda f: f.dropna()["n"],
    "sum": lambda f: f["n"].sum(),
    "mean": lambda f: f["n"].mean(),
    "min": lambda f: f["n"].min(),
    "max": lambda f: f["n"].max(),
    "var": lambda f: f["n"].var(),
    "std": lambda f: f["n"].std(),
    "count": lambda f: f["n"].count(),
    "nunique": lambda f: f["n"].nunique(),
    "groupby sum": lambda f: f.groupby("g")["n"].sum(),
    "groupby mean": lambda f: f.groupby("g")["n"].mean(),
    "groupby max": lambda f: f.groupby("g")["n"].max(),
    "groupby count": lambda f: f.groupby("g")["n"].count(),
    "value_counts": lambda f: f["n"].value_counts(),
    "sort_values": lambda f: f.sort_values(["n", "g"])["n"],
    "nlargest": lambda f: f["n"].nlargest(3),
    "drop_duplicates": lambda f: f["n"].drop_duplicates(),
    "merge": lambda f: f.merge(f[["n"]].dropna().drop_duplicates(), on="n")["n"],
}
UNORDERED = {"value_counts", "drop_duplicates", "merge"} | {
    name for name in EVERYWHERE if name.startswith("groupby")
}
# Dask has no such operation, or an approximate one.
OF_A_PARTITION: dict[str, Operation] = {
    "quantile": lambda f: f["n"].quantile(0.25),
    "median": lambda f: f["n"].median(),
    "rank": lambda f: f["n"].rank(),
    "cut": lambda f: _module(f).cut(f["n"].fillna(0), [-1, 2, 6, 10], labels=False),
    "round": lambda f: (f["n"] / 3).round(1),
    "shift": lambda f: f["n"].shift(1),
    "cummax": lambda f: f["n"].cummax(),
    "groupby rank": lambda f: f.groupby("g")["n"].rank(),
    "iloc": lambda f: f["n"].iloc[2:5],
}
# cuDF has no divmod.
OF_PANDAS: dict[str, Operation] = {
    "divmod 3": lambda f: divmod(f["n"], 3)[1],
    "divmod other": lambda f: divmod(f["n"], f["other"])[0],
}


def _module(frame: Any) -> Any:
    return pd if frames.backend_of(frame) == "cpu" else pytest.importorskip("cudf")


def table(kind: pa.DataType) -> pa.Table:
    return pa.table({"n": pa.array(N, kind), "other": pa.array(OTHER, kind), "g": pa.array(GROUP)})


def plain() -> pd.DataFrame:
    return pd.DataFrame({"n": N, "other": OTHER, "g": GROUP}, dtype="float64")


def values(result: Any) -> list[float]:
    """What an operation gave, as floats; NaN for null, and for a comparison with null false."""
    if hasattr(result, "compute"):
        result = result.compute()
    if hasattr(result, "to_arrow") or isinstance(result, pd.Series):
        column = frames.column_to_arrow(result)
        if pa.types.is_boolean(column.type):
            column = column.fill_null(False)
        result = column.to_pylist()
    listed = result if isinstance(result, list) else [result]
    return [math.nan if x is None or x is pd.NA else float(x) for x in listed]


def nan_last(value: float) -> tuple[bool, float]:
    """What to sort by: comparisons with NaN leave the order to where it was."""
    return math.isnan(value), value


def agree(result: Any, operation: str, function: Operation) -> None:
    right = function(plain())
    if operation == "n != 3":
        # Null is equal to nothing and unequal to nothing; NaN is unequal to everything.
        right &= plain()["n"].notna()
    given, expected = values(result), values(right)
    if operation in UNORDERED:
        given, expected = sorted(given, key=nan_last), sorted(expected, key=nan_last)
    # Arithmetic with single precision differs in the eighth digit.
    assert given == pytest.approx(expected, rel=1e-6, nan_ok=True)


def lazy(kind: pa.DataType, backend: str) -> Any:
    _dask.teach_quantiles()
    return dd.from_pandas(frames.from_arrow(table(kind), backend), npartitions=2, sort=False)


@pytest.mark.parametrize("kind", list(TYPES))
@pytest.mark.parametrize("operation", [*EVERYWHERE, *OF_A_PARTITION, *OF_PANDAS])
def test_operations_on_a_partition(operation, kind, backend):
    if backend == "gpu" and operation in OF_PANDAS:
        pytest.skip("cuDF has no divmod")
    function = {**EVERYWHERE, **OF_A_PARTITION, **OF_PANDAS}[operation]
    agree(function(frames.from_arrow(table(TYPES[kind]), backend)), operation, function)


@pytest.mark.parametrize("kind", ["int32", "uint64", "float"])
@pytest.mark.parametrize("operation", list(EVERYWHERE))
def test_operations_on_the_whole_frame(operation, kind, backend):
    function = EVERYWHERE[operation]
    with dask.config.set(scheduler="synchronous"):
        agree(function(lazy(TYPES[kind], backend)), operation, function)


@pytest.mark.parametrize("kind", list(TYPES))
def test_quantiles_samples_and_summaries_of_the_whole_frame(kind, backend):
    frame = lazy(TYPES[kind], backend)
    with dask.config.set(scheduler="synchronous"):
        assert values(frame["n"].quantile([0.0, 1.0]).compute()) == [1, 9]
        assert set(values(frame["n"].dropna().sample(frac=0.5, random_state=0).compute())) <= {
            7,
            3,
            9,
            1,
            8,
            5,
        }
        described = frames.to_arrow(frame[["n"]].describe().compute().reset_index(drop=True))
        assert described["n"][0].as_py() == 7
        assert described["n"][1].as_py() == pytest.approx(np.nanmean(plain()["n"]))


def test_a_cast_that_has_no_place_for_nulls_is_refused_by_the_backends(backend):
    """`Int32` is the name of the type that has one."""
    column = frames.from_arrow(table(pa.int64()), backend)["n"]
    if backend == "cpu":
        with pytest.raises(ValueError, match="NA"):
            column.astype("int32")
    integers = values(column.astype("Int32" if backend == "cpu" else "int32"))
    assert integers == pytest.approx(values(plain()["n"]), nan_ok=True)
