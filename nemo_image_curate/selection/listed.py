"""Rows that a Parquet file lists by key and shard, found again in the partitions of a dataset."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nemo_image_curate import frames, storage
from nemo_image_curate.dataset.selections import KEY, MULTIPLICITY, WEIGHT
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.errors import DatasetError, SchemaError
from nemo_image_curate.shards import sidecars
from nemo_image_curate.stages.base import NO_EFFECT, Stage

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

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
        sample once.

    Raises
    ------
    DatasetError
        When computed: when the file lists a sample more than once.

    Notes
    -----
    A partition reads of the file what may be of its shards.

    Examples
    --------
    >>> summary = ds.filter("clip_score > 0.3").to_selection("chosen.parquet")
    >>> ds = SelectionFile("chosen.parquet")(ds)
    >>> len(ds.filter("selected")) == summary.rows
    True
    """

    path: str | os.PathLike[str] = dataclasses.field(metadata=NO_EFFECT)

    @property
    def location(self) -> str:
        """Where it is."""
        return storage.normalise(self.path)

    def columns(self) -> dict[str, pa.DataType]:
        """``selected``, and what the file has.

        Raises
        ------
        SchemaError
            When it is no selection.
        """
        if storage.is_local(self.location) and os.path.isdir(self.location):
            raise SchemaError(f"{self.location} is a folder; give the file of a selection.")
        schema = sidecars.read_footer(self.location).schema
        for name in (KEY, SHARD_COLUMN):
            if name not in schema.names or not pa.types.is_string(schema.field(name).type):
                raise SchemaError(
                    f"{self.location} has no column {name!r} of texts, only: "
                    f"{', '.join(schema.names)}. Rows are found by their key and their shard's "
                    "path relative to the dataset; to_selection writes both."
                )
        extra = [name for name in (MULTIPLICITY, WEIGHT) if name in schema.names]
        return {_SELECTED: pa.bool_()} | {name: schema.field(name).type for name in extra}

    def config(self) -> dict[str, Any]:
        """Which content of the file."""
        return {"selection": sidecars.read_footer(self.location).digest}

    def listed(self) -> int:
        """How many rows it lists."""
        return sidecars.read_footer(self.location).rows

    def __call__(self, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        """The dataset with the columns, read when they are needed.

        Raises
        ------
        SchemaError, DamagedError, NotFoundError
            When the file is no selection, or cannot be read.
        """
        columns = self.columns()
        names = tuple(name for name in columns if name != _SELECTED)
        digest = self.config()["selection"]
        find = ListedRows(self.location, dataset.id_col, names, digest, _SELECTED)
        return dataset.with_columns(find, columns, self.provenance())
