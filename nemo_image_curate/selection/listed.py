"""Rows that a Parquet file lists by key and shard, found again in the partitions of a dataset."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nemo_image_curate import frames, storage
from nemo_image_curate.dataset import uid_lists
from nemo_image_curate.dataset.selections import KEY, MULTIPLICITY, WEIGHT
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.errors import ConfigError, DamagedError, DatasetError, SchemaError
from nemo_image_curate.shards import sidecars
from nemo_image_curate.stages.base import NO_EFFECT, Stage

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

logger = logging.getLogger(__name__)

_SELECTED = "selected"


class ListedRows:
    """Finds what a file says of the rows of a partition; the function that Dask maps.

    Parameters
    ----------
    path : str
        Of a Parquet file with ``key``, ``shard`` and the columns, which all workers see.
    id_col : str
        What the frame calls the key.
    names : tuple of str
        Columns of the file.
    digest : str
        Of what is in it.
    flag : str, optional
        A column that is true for the rows that are listed.
    """

    # What Dask's dashboard calls these tasks.
    __name__ = "join-listed-rows"

    def __init__(
        self, path: str, id_col: str, names: tuple[str, ...], digest: str, flag: str | None = None
    ):
        self.path = path
        self.id_col = id_col
        self.names = names
        self.digest = digest
        self.flag = flag

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        # With the place: Dask takes expressions of one name for one, and a file may be gone.
        return (*self.content_token(), self.path)

    def content_token(self) -> tuple[Any, ...]:
        """What the columns hold, wherever the file is."""
        return ("ListedRows", self.digest, self.id_col, self.names, self.flag)

    def __call__(self, frame: Any) -> dict[str, Any]:
        keys, shards = (frames.column_to_arrow(frame[name]) for name in (self.id_col, SHARD_COLUMN))
        listed = self._read(shards.unique().drop_null())
        known = _names(listed[SHARD_COLUMN], listed[KEY])
        if self.flag:
            self._refuse_repeats(listed, known)
        places = pc.index_in(_names(shards, keys), known, skip_nulls=True)
        columns = {name: listed[name].combine_chunks().take(places) for name in self.names}
        if MULTIPLICITY in columns:
            columns[MULTIPLICITY] = columns[MULTIPLICITY].fill_null(0)
        return columns | ({self.flag: places.is_valid()} if self.flag else {})

    def _refuse_repeats(self, listed: pa.Table, known: Any) -> None:
        """Refuse a file that lists a sample more than once: which line counts nobody can tell."""
        counts = pc.value_counts(known)
        repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
        if len(repeated):
            row = pc.index(known, repeated[0]).as_py()
            raise DatasetError(
                f"{self.path} lists the sample {listed[KEY][row]} of {listed[SHARD_COLUMN][row]} "
                f"more than once. Have a line for each sample, with how often it is taken in a "
                f"column {MULTIPLICITY!r}."
            )

    def _read(self, shards: pa.Array) -> pa.Table:
        """What is listed of some shards; of the file, only the row groups that may have them."""
        with storage.reaching(self.path), storage.open_read(self.path) as file:
            table = pq.read_table(
                file,
                columns=[KEY, SHARD_COLUMN, *self.names],
                filters=pc.field(SHARD_COLUMN).isin(shards.cast(pa.string())),
            )
        return table.combine_chunks()


class ListedUids:
    """Finds how often a list of uids has those of a partition's rows; the function that Dask maps.

    Parameters
    ----------
    path : str
        Of the list, which all workers see.
    column : str
        What holds the rows' uids.
    digest : str
        Of what is in the list.
    """

    # What Dask's dashboard calls these tasks.
    __name__ = "join-listed-uids"

    def __init__(self, path: str, column: str, digest: str):
        self.path = path
        self.column = column
        self.digest = digest

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return (*self.content_token(), self.path)

    def content_token(self) -> tuple[Any, ...]:
        """What the columns hold, wherever the file is."""
        return ("ListedUids", self.digest, self.column)

    def __call__(self, frame: Any) -> dict[str, Any]:
        uids = frames.column_to_arrow(frame[self.column]).cast(pa.string())
        is_uid = uid_lists.are_uids(uids)
        listed = uid_lists.read_uid_list_once(self.path, self.digest)
        sought = uid_lists.pairs_of(uids.filter(is_uid))
        counts = np.zeros(len(uids), dtype=np.int64)
        begin, end = (np.searchsorted(listed, sought, side) for side in ("left", "right"))
        counts[np.asarray(is_uid)] = end - begin
        return {_SELECTED: pa.array(counts > 0), MULTIPLICITY: pa.array(counts)}


def _names(shards: Any, keys: Any) -> Any:
    """Shard and key as one text."""
    large = pa.large_string()
    names = pc.binary_join_element_wise(
        shards.cast(large), keys.cast(large), pa.scalar("\0", large)
    )
    return names.combine_chunks() if isinstance(names, pa.ChunkedArray) else names


@dataclass(eq=False)
class SelectionFile(Stage):
    """Marks the rows that a file lists which `ImageTextPairDataset.to_selection` wrote.

    Adds ``selected``, and ``multiplicity`` (0 for rows that are not listed) and ``weight`` (null
    for them) where the file has them.

    Parameters
    ----------
    path : str or path
        Any Parquet file with the columns ``key`` and ``shard`` is a selection, if it has each
        sample once; and, with `column`, an ``.npy`` of uids, as DataComp's resharder takes it.
    column : str, optional
        The column of the dataset that the uids of an ``.npy`` are of, such as ``uid``. Then
        ``multiplicity`` says how often each is listed.

    Raises
    ------
    DatasetError
        When computed: when the file lists a sample more than once.

    Notes
    -----
    A partition reads of the file what may be of its shards. When the stage is called it looks at
    the first shard that is in both, and warns where nothing that is listed is in the dataset.

    Examples
    --------
    >>> summary = ds.filter("clip_score > 0.3").to_selection("chosen.parquet")
    >>> ds = SelectionFile("chosen.parquet")(ds)
    >>> len(ds.filter("selected")) == summary.rows
    True
    """

    path: str | os.PathLike[str] = dataclasses.field(metadata=NO_EFFECT)
    column: str | None = None

    @property
    def location(self) -> str:
        """Where it is."""
        return storage.normalise(self.path)

    def columns(self) -> dict[str, pa.DataType]:
        """``selected``, and what the file has.

        Raises
        ------
        ConfigError
            When it is an ``.npy`` and `column` is not given, or the other way round.
        SchemaError
            When it is no selection.
        """
        if storage.is_local(self.location) and os.path.isdir(self.location):
            raise SchemaError(f"{self.location} is a folder; give the file of a selection.")
        if (self.column is not None) != uid_lists.is_uid_list(self.location):
            raise ConfigError(
                f"path={self.location!r} and column={self.column!r}: a list of uids ends in .npy, "
                "and needs the column that holds these in the dataset, as in "
                "SelectionFile('subset.npy', column='uid'); any other selection needs none."
            )
        if self.column is not None:
            uid_lists.read_uid_list(self.location)
            return {_SELECTED: pa.bool_(), MULTIPLICITY: pa.int64()}
        schema = self._footer().schema
        for name in (KEY, SHARD_COLUMN):
            if name not in schema.names or not pa.types.is_string(schema.field(name).type):
                raise SchemaError(
                    f"{self.location} has no column {name!r} of texts, only: "
                    f"{', '.join(schema.names)}. Rows are found by their key and their shard's "
                    "path relative to the dataset; to_selection writes both."
                )
        extra = [name for name in (MULTIPLICITY, WEIGHT) if name in schema.names]
        return {_SELECTED: pa.bool_()} | {name: schema.field(name).type for name in extra}

    def needs(self, dataset: ImageTextPairDataset) -> list[str]:
        """The column of uids."""
        return [] if self.column is None else [self.column]

    def _footer(self) -> sidecars.Footer:
        try:
            return sidecars.read_footer(self.location)
        except DamagedError as error:
            raise SchemaError(
                f"{self.location} is no selection, a Parquet file with the columns {KEY!r} and "
                f"{SHARD_COLUMN!r} such as to_selection writes: {error.__cause__}"
            ) from error

    def config(self) -> dict[str, Any]:
        """Which content of the file."""
        if self.column is None:
            return {"selection": self._footer().digest}
        digest = hashlib.sha256(storage.read_bytes(self.location)).hexdigest()
        return {"selection": digest, "column": self.column}

    def listed(self) -> int:
        """How many rows it lists."""
        if self.column is None:
            return self._footer().rows
        return len(np.unique(uid_lists.read_uid_list(self.location)))

    def __call__(self, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        """The dataset with the columns, read when they are needed.

        Raises
        ------
        ConfigError, ColumnNotFoundError
            When there is no such `column` of uids, or the file is none that has one.
        SchemaError, NotFoundError
            When the file is no selection, or cannot be read.
        """
        columns = self.columns()
        if self.column is not None:
            frames.require_columns(dataset.metadata, *self.needs(dataset))
            kind = frames.schema(dataset.metadata).field(self.column).type
            if not pa.types.is_string(kind):
                raise ConfigError(f"column {self.column!r} is {kind}, not uids as texts.")
            uids = ListedUids(self.location, self.column, self.config()["selection"])
            return dataset.with_columns(uids, columns, self.provenance())
        names = tuple(name for name in columns if name != _SELECTED)
        digest = self.config()["selection"]
        find = ListedRows(self.location, dataset.id_col, names, digest, _SELECTED)
        # Whoever computes the columns is told of what cannot be read.
        with contextlib.suppress(DatasetError):
            self._warn_of_others(dataset)
        return dataset.with_columns(find, columns, self.provenance())

    def _warn_of_others(self, dataset: ImageTextPairDataset) -> None:
        """Warn of a selection that seems to be of another dataset, by the first shard in both."""
        reader, sources = dataset.source()
        by_shard = {source.shard: source for source in sources if source.shard is not None}
        # Files with rows of many shards do not name these.
        if not by_shard or len(by_shard) < len(sources):
            return
        listed_shards: set[str] = set()
        with storage.reaching(self.location), storage.open_read(self.location) as file:
            for batch in pq.ParquetFile(file).iter_batches(columns=[KEY, SHARD_COLUMN]):
                shards = batch[SHARD_COLUMN]
                listed_shards.update(shards.unique().drop_null().to_pylist())
                if shared := sorted(listed_shards & by_shard.keys()):
                    source = by_shard[shared[0]]
                    keys = batch[KEY].filter(pc.equal(shards, shared[0]))
                    break
            else:
                logger.warning(
                    "%s lists %s rows of %s shards, none of which is one of the dataset's %s: no "
                    "row is selected. It names %r, the dataset %r",
                    *(self.location, f"{self.listed():,}", f"{len(listed_shards):,}"),
                    *(f"{len(by_shard):,}", min(listed_shards, default=None), min(by_shard)),
                )
                return
        # Of a shard far away the keys are not looked at.
        if not storage.is_local(source.sidecar_location):
            return
        known = reader.read(source, [dataset.id_col])[dataset.id_col]
        if not pc.any(pc.is_in(known, keys)).as_py():
            logger.warning(
                "%s lists %s rows of %s, none of which is among its %s: no row of it is selected. "
                "It names %r, the shard %r",
                *(self.location, f"{len(keys):,}", source.shard, f"{len(known):,}"),
                *(keys[0].as_py(), known[0].as_py() if len(known) else None),
            )
