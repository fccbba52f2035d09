"""A choice of rows as one small Parquet file: which samples of which shards, and how often."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nemo_image_curate import frames, storage
from nemo_image_curate.dataset import saving, uid_lists
from nemo_image_curate.dataset.conditions import Dropped
from nemo_image_curate.dataset.fingerprints import fingerprint
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.dataset.wanted import Wanted
from nemo_image_curate.errors import ConfigError, DatasetError
from nemo_image_curate.expressions.check import check
from nemo_image_curate.shards import sidecars
from nemo_image_curate.version import __version__

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

KEY = "key"
MULTIPLICITY = "multiplicity"
WEIGHT = "weight"
# In the files of the parts of a list of uids.
_UID = "uid"
# Rows of a row group at least, if there are so many. Who looks for the rows of one shard reads the
# footer, which tells the shards of each.
_GROUP_ROWS = 1 << 16
# What stands in the record of a selection's footer, and in no other.
_MARK = "selection"


@dataclass(frozen=True)
class SelectionSummary:
    """What a selection holds: every row of the input is in one of these numbers.

    Attributes
    ----------
    path : str
    rows : int
        Listed.
    samples : int
        What one pass over the selection gives: more than `rows` where some come several times.
    filtered : int
        Left out because a condition, or `filter_column`, was not true, or multiplicity or weight 0.
    null : int
        Of these, how many because it was null.
    null_columns : dict of str to int
        In how many of these which column was null.
    missing : int
        Wanted, but without key or shard.
    conditions : dict of str to int
        How many rows each expression of `filter` dropped, of those that the ones before it left.
    """

    path: str
    rows: int
    samples: int
    filtered: int
    null: int
    null_columns: dict[str, int]
    missing: int
    conditions: dict[str, int] = field(default_factory=dict)


def write_selection(
    dataset: ImageTextPairDataset,
    path: str,
    wanted: Wanted,
    progress: bool | None,
    uid_column: str | None = None,
) -> SelectionSummary:
    """Write which rows of a dataset are wanted; see its `to_selection`.

    Workers write the rows of each partition to a folder beside; the client copies these, one at a
    time, into one file.
    """
    frame, conditions = dataset.unfiltered()
    wanted = replace(wanted, conditions=conditions)
    wanted.check(frame)
    _check_uid_column(frame, path, wanted, uid_column)
    _refuse_other_file(path)
    looked_at = [column for text in conditions for column in check(text, list(frame.columns))]
    chosen = (wanted.filter_column, wanted.multiplicity, wanted.weight, uid_column)
    names = [wanted.id_col, SHARD_COLUMN, *looked_at, *(name for name in chosen if name)]
    frame = frame[list(dict.fromkeys(names))]
    folder = f"{path}.parts"
    locations = [
        storage.join(folder, f"part-{number:05d}.parquet") for number in range(frame.npartitions)
    ]
    config = ["selection", wanted.filter_column, wanted.id_col, *wanted.config()]
    if uid_column is not None:
        config.append(("uid_column", uid_column))
    parts = saving.plan(frame, dataset.source()[1], locations, False, *config)
    newest = max((part.newest_input for part in parts), default=0.0)
    whole = saving.Target(path, path, fingerprint([part.fingerprint for part in parts]), "", newest)
    (summary,) = saving.summaries([whole])
    if summary is None:
        list_rows = _ListRows(wanted, uid_column)
        summaries = saving.save(frame, parts, dataset.provenance, "select", progress, list_rows)
        if uid_column is None:
            summary = _join(whole, wanted, summaries, locations, dataset.provenance)
        else:
            summary = _join_uids(path, summaries, locations)
    storage.remove_tree(folder)
    dropped = Dropped(**summary["dropped"])
    dropped.tell()
    return SelectionSummary(
        path,
        summary["rows"],
        summary["samples"],
        dropped.by_condition + dropped.by_null,
        dropped.by_null,
        dropped.null_columns,
        summary["missing"],
        dropped.conditions,
    )


def _check_uid_column(frame: Any, path: str, wanted: Wanted, uid_column: str | None) -> None:
    """Refuse what cannot be a list of uids.

    Raises
    ------
    ColumnNotFoundError, ConfigError
    """
    if (uid_column is not None) != uid_lists.is_uid_list(path):
        raise ConfigError(
            f"path={path!r} and column={uid_column!r}: a list of uids for DataComp's resharder "
            "needs both a name that ends in .npy and the column that holds them, such as "
            "to_selection('subset.npy', column='uid'); any other selection neither."
        )
    if uid_column is None:
        return
    frames.require_columns(frame, uid_column)
    kind = frames.schema(frame).field(uid_column).type
    if not pa.types.is_string(kind):
        raise ConfigError(f"column {uid_column!r} is {kind}, not texts of 32 hexadecimal digits.")
    if wanted.weight is not None:
        raise ConfigError(
            f"a list of uids has no weights, but there is the column {wanted.weight!r}; drop it, "
            "or write a Parquet selection."
        )


def _refuse_other_file(path: str) -> None:
    """Refuse to replace what is no selection.

    Raises
    ------
    DatasetError
    """
    if storage.is_local(path) and os.path.isdir(path):
        raise DatasetError(
            f"{path} is a folder. Give the name of a file, such as {path}/selection.parquet."
        )
    if storage.stat(path) is not None and not is_selection(path):
        raise DatasetError(f"{path} exists and is no selection. Choose another name.")


def is_selection(path: str) -> bool:
    """Whether a file is one that `to_selection` wrote."""
    try:
        if uid_lists.is_uid_list(path):
            uid_lists.read_uid_list(path)
            return True
        return _MARK in sidecars.read_footer(path).record
    except DatasetError:
        return False


class _ListRows:
    """Makes of a partition the rows of a selection."""

    def __init__(self, wanted: Wanted, uid_column: str | None):
        self.wanted = wanted
        self.uid_column = uid_column

    def __call__(self, table: pa.Table) -> tuple[pa.Table, dict[str, Any]]:
        table, summary = self.wanted.rows(table)
        passing = len(table)
        key_columns = (self.wanted.id_col, SHARD_COLUMN)
        table = table.filter(pc.and_(*(pc.is_valid(table[name]) for name in key_columns)))
        counts = self.wanted.counts(table)
        columns = {
            name: table[source]
            for name, source in zip((KEY, SHARD_COLUMN), key_columns, strict=True)
        }
        if self.wanted.multiplicity is not None:
            columns[MULTIPLICITY] = counts
        if self.wanted.weight is not None:
            columns[WEIGHT] = table[self.wanted.weight].cast(pa.float64())
        if self.uid_column is not None:
            columns[_UID] = table[self.uid_column]
            self._refuse_other_texts(table)
        summary |= {"samples": pc.sum(counts).as_py() or 0, "missing": passing - len(table)}
        return pa.table(columns), summary

    def _refuse_other_texts(self, table: pa.Table) -> None:
        values = table[self.uid_column]
        other = pc.invert(uid_lists.are_uids(values))
        if (row := pc.index(other, True).as_py()) >= 0:
            key, shard = (table[name][row] for name in (self.wanted.id_col, SHARD_COLUMN))
            raise DatasetError(
                f"{self.uid_column!r} holds {values[row].as_py()!r} for the sample {key} of "
                f"{shard}, not 32 hexadecimal digits; leave such rows out by filter."
            )


def _join(
    whole: saving.Target,
    wanted: Wanted,
    summaries: list[dict[str, Any]],
    locations: list[str],
    provenance: dict[str, Any],
) -> dict[str, Any]:
    """Copy the parts into one file, in their order; returns its summary."""
    summary = _totals(summaries)
    schema = pa.schema([(KEY, pa.string()), (SHARD_COLUMN, pa.string())])
    made_of = {}
    for name, source, kind in (
        (MULTIPLICITY, wanted.multiplicity, pa.int64()),
        (WEIGHT, wanted.weight, pa.float64()),
    ):
        if source is not None:
            schema = schema.append(pa.field(name, kind))
            made_of[name] = provenance.get(source)
    record = {
        "version": __version__,
        "fingerprint": whole.fingerprint,
        "names": schema.names,
        "columns": {name: how for name, how in made_of.items() if how is not None},
        "summary": summary,
        _MARK: {"filter_column": wanted.filter_column, "conditions": wanted.conditions},
        **saving.time_of(whole.newest_input, time.time()),
    }
    text = json.dumps(record, sort_keys=True, ensure_ascii=False)
    schema = schema.with_metadata({sidecars.RECORD_KEY: text.encode("utf-8", "backslashreplace")})
    storage.make_dirs(storage.parent(whole.location))
    with (
        storage.atomic_write(whole.location) as file,
        pq.ParquetWriter(file, schema) as writer,
    ):
        for table in _groups(locations):
            writer.write_table(table.replace_schema_metadata(schema.metadata))
    return summary


def _join_uids(path: str, summaries: list[dict[str, Any]], locations: list[str]) -> dict[str, Any]:
    """Write the uids of all parts, sorted and each as often as it is taken; returns a summary."""
    pairs = [np.empty(0, dtype=uid_lists.PAIR)]
    for location in locations:
        part = sidecars.read_sidecar(location, [_UID, MULTIPLICITY])
        of_part = uid_lists.pairs_of(part[_UID])
        if MULTIPLICITY in part.column_names:
            of_part = np.repeat(of_part, part[MULTIPLICITY].to_numpy())
        pairs.append(of_part)
    storage.make_dirs(storage.parent(path))
    uid_lists.write_uid_list(path, np.concatenate(pairs))
    return _totals(summaries)


def _totals(summaries: list[dict[str, Any]]) -> dict[str, Any]:
    totals = {
        name: sum(summary[name] for summary in summaries) for name in ("rows", "samples", "missing")
    }
    return {**totals, "dropped": vars(Dropped.total(summaries))}


def _groups(locations: Iterable[str]) -> Iterator[pa.Table]:
    """The rows of all parts, in their order, as tables that are not small."""
    waiting = list[pa.Table]()
    for location in locations:
        waiting.append(sidecars.read_sidecar(location))
        if sum(map(len, waiting)) >= _GROUP_ROWS:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting.clear()
    if any(map(len, waiting)):
        yield pa.concat_tables(waiting).combine_chunks()


def columns_of(frame: Any, multiplicity: str | None, weight: str | None) -> tuple[str | None, ...]:
    """Which columns a selection takes: those named, or those called as its own are."""
    return tuple(
        given if given is not None or name not in frame.columns else name
        for given, name in ((multiplicity, MULTIPLICITY), (weight, WEIGHT))
    )
