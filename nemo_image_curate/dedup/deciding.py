"""The end of a deduplication: which row stands for which, told to the rows and written down."""

from __future__ import annotations

import abc
import itertools
import json
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pyarrow as pa

from nemo_image_curate import storage
from nemo_image_curate.compute import jobs
from nemo_image_curate.dataset.fingerprints import fingerprint
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.dedup.exchange import Exchange, write_batches
from nemo_image_curate.dedup.results import (
    DONE,
    block_file,
    partition_name,
    read_decisions,
    row_order,
)
from nemo_image_curate.dedup.staged import Block, StagedRows, owners
from nemo_image_curate.errors import DatasetError
from nemo_image_curate.tables import content_digest, small_texts


class RowFacts(abc.ABC):
    """What a block of rows knows by itself."""

    @abc.abstractmethod
    def equals(self, block: Block) -> np.ndarray:
        """The place of the row in the block that each row is equal to, and shares its fate with.

        Its own place for most; -1 for rows that could not be compared with others.
        """

    def columns(self, block: Block) -> dict[str, pa.Array]:
        """Further columns."""
        return {}


def write(
    folder: Path,
    staged: StagedRows,
    partners: Exchange,
    facts: RowFacts,
    why_not: str,
    progress: bool | None,
) -> None:
    """Write the decisions, one Arrow file per block, then the mark that they are complete.

    Parameters
    ----------
    folder : Path
    staged : StagedRows
    partners : Exchange
        To the blocks of the rows that stand for others: ``row``, ``partner``, ``similarity``.
    facts : RowFacts
    why_not : str
        What ``dedup_error`` says of rows that could not be compared.
    progress : bool or None

    Raises
    ------
    DatasetError
        When partitions hold the same rows, whose decisions could not be told apart.
    """
    count = len(staged.blocks)
    named = Exchange(partners.folder, "named", count, count)
    arguments: list[tuple[Any, ...]] = [
        (partners, block, staged.id_col, staged.starts) for block in staged.blocks
    ]
    named.fill(_name_partners, arguments, "decide", progress)
    folder.mkdir(parents=True, exist_ok=True)
    call = dask.delayed(_write_block, pure=False)
    written = jobs.compute_all(
        [call(folder, named, block, staged.id_col, facts, why_not) for block in staged.blocks],
        [f"block {block.number}" for block in staged.blocks],
        "decide",
        progress,
    )
    mark_complete(folder, staged, written)


def mark_complete(folder: Path, staged: StagedRows, written: list[tuple[str, list[str]]]) -> None:
    """Note where the decisions about each partition are: the mark that they are all there.

    Parameters
    ----------
    folder : Path
    staged : StagedRows
    written : list of (str, list of str)
        What `write_table` gave for each block.

    Raises
    ------
    DatasetError
        When partitions hold the same rows, whose decisions could not be told apart.
    """
    places: dict[str, tuple[int, int]] = {}
    for block, (_, names) in zip(staged.blocks, written, strict=True):
        for batch, name in enumerate(names):
            place = (block.number, batch)
            if places.setdefault(name, place) != place:
                _refuse_unlike(folder, places[name], place)
    digest = fingerprint([digest for digest, _ in written])
    record = {"digest": digest, "places": places}
    storage.write_bytes(str(folder / DONE), json.dumps(record).encode())


def _refuse_unlike(folder: Path, place: tuple[int, int], other: tuple[int, int]) -> None:
    """Refuse two partitions of the same rows about which different things were decided."""
    decided = read_decisions(folder, *place)
    if content_digest(decided) != content_digest(read_decisions(folder, *other)):
        raise DatasetError(
            f"two partitions of the dataset hold the same {len(decided):,} rows; have each sample "
            "once in it."
        )


def _name_partners(
    named: Exchange,
    sender: int,
    partners: Exchange,
    block: Block,
    id_col: str,
    starts: np.ndarray,
) -> None:
    """Tell rows key and shard of the row in this block that stands for them; runs on a worker."""
    pairs = partners.read(sender)
    names = block.table([id_col, SHARD_COLUMN]) if len(pairs) else _no_names(id_col)
    partner = names.take(pairs["partner"].to_numpy() - block.start)
    table = pa.table(
        {
            "row": pairs["row"],
            "duplicate_of": partner[id_col],
            "duplicate_of_shard": partner[SHARD_COLUMN],
            "duplicate_similarity": pairs["similarity"],
        }
    )
    named.write(sender, table, owners(starts, pairs["row"].to_numpy()))


def _no_names(id_col: str) -> pa.Table:
    return pa.table(dict.fromkeys([id_col, SHARD_COLUMN], pa.array([], pa.large_string())))


def _write_block(
    folder: Path, named: Exchange, block: Block, id_col: str, facts: RowFacts, why_not: str
) -> tuple[str, list[str]]:
    """Write the decisions about a block, as `write_table`; runs on a worker."""
    names, equals, rows = block.table([id_col, SHARD_COLUMN]), facts.equals(block), block.rows()
    rows -= block.start
    compared = equals >= 0
    first = np.where(compared, equals, rows)
    gone = named.read(block.number)
    # Where a row is told its fate, below all those of the block.
    gone_place = np.full(len(block), -1)
    gone_place[gone["row"].to_numpy() - block.start] = np.arange(len(gone))
    place = gone_place[first]
    place = np.where((place < 0) & (first != rows), len(gone) + first, place)
    removed = place >= 0
    duplicates = pa.array(place, mask=~removed)

    def partner(name: str, gone_name: str) -> pa.Array:
        return pa.chunked_array([*gone[gone_name].chunks, *names[name].chunks]).take(duplicates)

    similarity = np.concatenate(
        [gone["duplicate_similarity"].to_numpy(), np.ones(len(block), dtype=np.float32)]
    )
    decided = {
        "is_duplicate": pa.array(removed),
        "dedup_error": pa.array(np.full(len(block), why_not, object), pa.string(), mask=compared),
        "duplicate_of": partner(id_col, "duplicate_of"),
        "duplicate_of_shard": partner(SHARD_COLUMN, "duplicate_of_shard"),
        "duplicate_similarity": pa.array(similarity[place], mask=~removed),
    }
    return write_table(folder, block, names, id_col, decided | facts.columns(block))


def write_table(
    folder: Path, block: Block, names: pa.Table, id_col: str, columns: dict[str, Any]
) -> tuple[str, list[str]]:
    """Write the columns that were made of a block's rows.

    Parameters
    ----------
    folder : Path
    block : Block
    names : pyarrow.Table
        Key and shard of its rows.
    id_col : str
    columns : dict of str to pyarrow.Array
        In the order of the rows.

    Returns
    -------
    digest : str
        Of all that was written.
    names : list of str
        The name of each partition, by its rows.
    """
    parts = np.repeat(np.arange(len(block.counts)), block.counts)
    order = row_order(names[id_col], names[SHARD_COLUMN], parts)
    table = small_texts(pa.table(columns).take(order))
    ends = list(itertools.accumulate(block.counts))
    write_batches(block_file(folder, block.number), table, ends)
    names = small_texts(names.take(order))
    return content_digest(table), [
        partition_name(part[id_col], part[SHARD_COLUMN])
        for part in (
            names.slice(end - count, count) for end, count in zip(ends, block.counts, strict=True)
        )
    ]
