"""What the partitions of a dataset are read from, and how."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from nemo_image_curate import frames, storage, tables
from nemo_image_curate.shards import columns, names, sidecars
from nemo_image_curate.shards.reader import TarShard

SHARD_COLUMN = names.SHARD_COLUMN
ERROR_COLUMN = names.ERROR_COLUMN
# Fewer shards are a task each.
_BUNDLED_FROM = 128
# Where one task reads several shards, it takes as long as with one usual one, or less.
_LONGEST_BUNDLE = 64
_BUNDLE_TAR_BYTES = 32 * 2**20
_BUNDLE_SIDECAR_BYTES = 2**20


@dataclass(frozen=True)
class Source:
    """Where one partition's rows come from.

    Attributes
    ----------
    shard : str or None
        The tar, relative to the dataset's root; None for a Parquet file with rows of many shards.
    sidecar_location : str
        Where the Parquet file is, or would be.
    tar, sidecar : FileInfo or None
    digest : str
        Digest of the sidecar's footer; empty without one.
    origin : str or None
        The digest of the sidecar that an earlier save made this one from, if it recorded one.
    rows : int or None
        How many rows the sidecar has; None without one.
    account : dict or None
        The `Account` of tar and sidecar that an earlier save recorded, if it is still true.
    """

    shard: str | None
    sidecar_location: str
    tar: storage.FileInfo | None
    sidecar: storage.FileInfo | None = None
    digest: str = ""
    origin: str | None = None
    rows: int | None = None
    account: dict[str, Any] | None = field(default=None, compare=False)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return (self.shard, self.tar, self.sidecar, self.digest)

    @property
    def label(self) -> str:
        """The name to show to people."""
        return self.shard or self.sidecar_location

    def identity(self, in_place: bool) -> tuple[str | None, int | None, str]:
        """What a fingerprint knows of the input: neither its place nor its time.

        In a save in place the sidecar is input and output at once: there, what counts is the
        sidecar that the first save started from.
        """
        original = self.origin if in_place and self.origin is not None else self.digest
        return (self.shard, self.tar.size if self.tar else None, original)


def bundle_sizes(sources: Sequence[Source]) -> list[int]:
    """How many sources, one after the other, one task may read, where there are many small ones.

    Goes by the sources alone, so that nothing depends on the number of workers.
    """
    if len(sources) < _BUNDLED_FROM:
        return [1] * len(sources)
    most = min(_LONGEST_BUNDLE, math.isqrt(len(sources)))
    sizes, load = [0], 0.0
    for source in sources:
        cost = _load(source)
        if sizes[-1] and (sizes[-1] == most or load + cost > 1):
            sizes.append(0)
            load = 0.0
        sizes[-1] += 1
        load += cost
    return sizes


def _load(source: Source) -> float:
    """The part of a bundle's bytes that a source has."""
    tar_bytes = source.tar.size if source.tar else 0
    sidecar_bytes = source.sidecar.size if source.sidecar else 0
    return max(tar_bytes / _BUNDLE_TAR_BYTES, sidecar_bytes / _BUNDLE_SIDECAR_BYTES)


class MetadataReader:
    """Reads one source as a frame; the leaf of every dataset's Dask graph.

    Parameters
    ----------
    root : str
        What shard paths are relative to.
    id_col : str
    schema : pyarrow.Schema
        The schema of all partitions, `id_col` and ``shard`` included.
    backend : {"cpu", "gpu"}
    """

    def __init__(self, root: str, id_col: str, schema: pa.Schema, backend: frames.Backend):
        self.root = root
        self.id_col = id_col
        self.schema = schema
        self.backend = backend

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return ("MetadataReader", self.root, self.id_col, str(self.schema), self.backend)

    def __call__(self, source: Source, columns: Sequence[str] | None = None) -> Any:
        table = self.read(source, columns)
        return frames.from_arrow(table, self.backend)

    def read(self, source: Source, wanted: Sequence[str] | None = None) -> pa.Table:
        """Read (some columns of) one source as an Arrow table of the common schema.

        Raises
        ------
        ChangedError
            When the rows are made of the tar, and it is not what it was when it was opened.
        """
        wanted = self.schema.names if wanted is None else list(wanted)
        schema = pa.schema([self.schema.field(name) for name in wanted])
        if source.sidecar is not None:
            # The id column is read even when only `shard` is wanted: it gives the number of rows.
            table = sidecars.read_sidecar(
                source.sidecar_location, [*wanted, self.id_col], source.shard
            )
        else:
            with TarShard(storage.join(self.root, source.shard or "")) as shard:
                if source.tar is not None:
                    source.tar.require_same(shard.info)
                table, _ = columns.read_tar(shard, self.id_col, self.schema)
        if source.shard is not None and SHARD_COLUMN in wanted:
            if SHARD_COLUMN in table.column_names:
                table = table.drop_columns(SHARD_COLUMN)
            shards = pa.array([source.shard] * len(table), pa.string())
            table = table.append_column(SHARD_COLUMN, shards)
        return tables.without_nan(tables.conform(table, schema))
