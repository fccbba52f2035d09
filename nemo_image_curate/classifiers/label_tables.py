"""Labels by key: a mapping, a table, or a file of one."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import pandas as pd
import pyarrow as pa

from nemo_image_curate import storage
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.errors import ConfigError, DatasetError

KEY = "key"
LABEL = "label"
# By key, or by shard and key; a table of them, or the file of one; a column of the dataset.
Labels: TypeAlias = Mapping[Any, Any] | pd.DataFrame | str | os.PathLike[str]
# The shard, where it is given, the key, and what stands for a label.
Entry: TypeAlias = tuple[str | None, str, Any]


def entries(labels: Labels, id_col: str) -> Iterator[Entry]:
    """The samples that are listed, with what stands beside them.

    Parameters
    ----------
    labels : mapping, pandas.DataFrame, str or path
        By key, or by (shard, key); a table with the columns ``key``, ``label`` and, where keys are
        not unique, ``shard``; a CSV, TSV or Parquet file of such a table.
    id_col : str
        What a table may call the key, too.

    Raises
    ------
    ConfigError
        For labels of another kind.
    DatasetError
        When a file cannot be read, or a table lacks a column.
    """
    if isinstance(labels, Mapping):
        return _of_mapping(labels)
    if isinstance(labels, pd.DataFrame):
        return _of_table(labels, "the table of labels", id_col)
    if isinstance(labels, (str, os.PathLike)):
        location = storage.normalise(labels)
        return _of_table(_read_file(location), location, id_col)
    raise ConfigError(
        f"labels is {type(labels).__name__}; give labels by key, a pandas DataFrame, a file, or "
        "the name of a column."
    )


def is_missing(value: Any) -> bool:
    """Whether a value of a table is null, or NaN."""
    return value is None or value is pd.NA or (isinstance(value, float) and value != value)


def _of_mapping(labels: Mapping[Any, Any]) -> Iterator[Entry]:
    for name, value in labels.items():
        shard, key = name if isinstance(name, tuple) and len(name) == 2 else (None, name)
        if not isinstance(key, str) or not isinstance(shard, str | None):
            raise ConfigError(f"labels: {name!r} is no key, which is a text, nor (shard, key).")
        yield shard, key, value


def _read_file(location: str) -> pd.DataFrame:
    ending = location.rpartition(".")[2].lower()
    if ending not in ("csv", "tsv", "parquet"):
        raise ConfigError(f"{location}: labels are read from .csv, .tsv and .parquet files.")
    if os.path.isdir(location):
        raise DatasetError(f"{location} is a folder, no table of labels.")
    with storage.reaching(location), storage.open_read(location) as file:
        try:
            if ending == "parquet":
                return pd.read_parquet(file, dtype_backend="pyarrow")
            # All as texts: keys may begin with zeros, and a label may be called NA.
            options: dict[str, Any] = {
                "sep": "\t" if ending == "tsv" else ",",
                "dtype": str,
                "index_col": False,
            }
            # Rows that are longer than the head would lose values, or be shifted.
            with warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)
                return pd.read_csv(file, keep_default_na=False, encoding="utf-8-sig", **options)
        except (ValueError, pa.ArrowException, pd.errors.ParserWarning) as error:
            raise DatasetError(f"{location} is no table of labels: {error}") from error


def _of_table(table: pd.DataFrame, source: str, id_col: str) -> Iterator[Entry]:
    id_col = KEY if KEY in table.columns else id_col
    if not {id_col, LABEL} <= set(table.columns):
        raise DatasetError(
            f"{source} should have the columns {KEY!r} and {LABEL!r}, and {SHARD_COLUMN!r} where "
            f"keys are not unique; there are: {', '.join(map(str, table.columns))}."
        )
    shards = table[SHARD_COLUMN] if SHARD_COLUMN in table.columns else [None] * len(table)
    for shard, key, value in zip(shards, table[id_col], table[LABEL], strict=True):
        if not isinstance(key, str):
            raise DatasetError(f"{source}: the key {key!r} is no text; leading zeros may be lost.")
        yield (shard if isinstance(shard, str) and shard else None), key, value
