"""The embeddings that sections look at, and the nearest of earlier rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nemo_image_curate import frames
from nemo_image_curate.dataset import partitions
from nemo_image_curate.dataset.looking.points import Sample, sample_vectors
from nemo_image_curate.dataset.looking.rows import concatenated, sample_bits, told_rows
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.errors import DatasetError
from nemo_image_curate.vectors.nearest import GRAIN
from nemo_image_curate.vectors.unit import unit_vectors

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

_FIRST = "image_embedding"
# Rows that are compared with all others: at most so many, of so many bytes, and so few that what
# all partitions find of them does not fill the client.
_SAMPLE, _SAMPLE_BYTES, _FOUND_BYTES = 2048, 8 << 20, 64 << 20
# Columns of products that are held at once.
_BLOCK = 4096
# What a partition finds for each row of the sample: its nearest earlier row.
_FOUND = np.dtype([("similarity", np.float32), ("row", np.int32), ("rank", np.uint64)])


def embedding_column(dataset: ImageTextPairDataset) -> str | None:
    """The column of image embeddings, or the first of any; None where there is none."""
    schema = frames.schema(dataset.metadata)
    names = [field.name for field in schema if _holds_embeddings(field.type)]
    return _FIRST if _FIRST in names else next(iter(names), None)


def _holds_embeddings(kind: pa.DataType) -> bool:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_kind(kind) for is_kind in lists) and pa.types.is_floating(kind.value_type)


@dataclass(frozen=True)
class Nearest:
    """A sample of rows, and of each the most similar row before it in a random order.

    Attributes
    ----------
    sample : Sample
    similarity : numpy.ndarray of float32, shape (m,)
        Cosines; -inf for the first row of all.
    partition, row : numpy.ndarray of int64, shape (m,)
        Where the other row is.
    """

    sample: Sample
    similarity: np.ndarray
    partition: np.ndarray
    row: np.ndarray


def nearest_earlier(
    dataset: ImageTextPairDataset,
    column: str,
    columns: Sequence[str],
    seed: int,
    progress: bool | None = None,
) -> Nearest:
    """Compare a random sample of rows with all rows that come before them in a random order.

    Of a row of the sample the share of those at or above 1 - eps is that of all rows which
    SemDeDup's rule removes (Abbas et al. 2023, section 3: a row goes when one before it is within
    eps), without bias and for every eps at once.

    Parameters
    ----------
    dataset : ImageTextPairDataset
    column : str
        Of embeddings.
    columns : sequence of str
        What else to tell of the sample's rows.
    seed : int
        Of the sample. The order is another one: the sample would be the first rows of its own.

    Raises
    ------
    DatasetError
        When no row of the sample has an embedding other than zero, or they differ in length.
    """
    frame = dataset.metadata[[dataset.id_col, SHARD_COLUMN, column]]
    most = min(_SAMPLE, max(1, _FOUND_BYTES // (_FOUND.itemsize * frame.npartitions)))
    sample = sample_vectors(dataset, column, most, columns, seed, progress)
    most = min(len(sample.vectors), max(1, _SAMPLE_BYTES // (4 * sample.vectors.shape[1])))
    # Without torch, which the client may be the only one not to need: workers bring them to unit
    # length. All others than zero have a direction, since all are finite.
    rows = np.flatnonzero(sample.vectors[:most].any(axis=1))
    if not len(rows):
        raise DatasetError(f"column {column!r}: all {most:,} embeddings of the sample are zero.")
    ranks = sample_bits(sample.rows, dataset.id_col, seed + 1)[rows]
    order = np.argsort(ranks, kind="stable")
    ranks, rows = ranks[order], rows[order]
    queries = sample.vectors[rows]
    without = sample.without * most // len(sample.vectors) + most - len(rows)
    parts = partitions.run(
        frame,
        _earlier,
        [(dataset.id_col, column, seed + 1)] * frame.npartitions,
        what="nearest",
        shared=(queries, ranks),
        progress=progress,
    )
    best = np.zeros(len(queries), _FOUND)
    best["similarity"], partition = -np.inf, np.full(len(queries), -1)
    for number, part in enumerate(parts):
        better = (part["similarity"] > best["similarity"]) | (
            (part["similarity"] == best["similarity"]) & (part["rank"] < best["rank"])
        )
        best[better], partition[better] = part[better], number
    of_sample = Sample(sample.rows.take(rows), queries, sample.of, without)
    return Nearest(of_sample, best["similarity"], partition, best["row"].astype(np.int64))


def _earlier(
    frame: Any, id_col: str, column: str, seed: int, queries: np.ndarray, ranks: np.ndarray
) -> np.ndarray:
    """The nearest row of a partition before each of the sample; runs on a worker."""
    import torch

    device = frames.device_of(frame)
    values, with_vector = frames.embedding_array(frame[column])
    best = np.zeros(len(queries), _FOUND)
    best["similarity"] = -np.inf
    if not len(with_vector):
        return best
    unit, places = unit_vectors(values, device)
    places = with_vector[places]
    bits = sample_bits(frames.to_arrow(frame[[id_col, SHARD_COLUMN]]), id_col, seed)[places]
    # By rank: of those equally near the first is found, and those before a query lie together.
    order = np.argsort(bits, kind="stable")
    bits, places, unit = bits[order], places[order], unit[torch.from_numpy(order).to(device)]
    sample, _ = unit_vectors(queries, device)
    for start in range(0, len(bits), _BLOCK):
        block = slice(start, start + _BLOCK)
        products = sample @ unit[block].T
        # Copies of a vector are equally near whatever the last bits of their sums.
        products.div_(GRAIN).round_().mul_(GRAIN)
        before = torch.from_numpy(np.searchsorted(bits[block], ranks)).to(device)
        later = torch.arange(products.shape[1], device=device)[None, :] >= before[:, None]
        values_of, index = products.masked_fill_(later, -torch.inf).max(dim=1)
        cosines, where = values_of.clamp_(max=1).cpu().numpy(), index.cpu().numpy()
        better = cosines > best["similarity"]
        best["similarity"][better] = cosines[better]
        best["row"][better] = places[block][where[better]]
        best["rank"][better] = bits[block][where[better]]
    return best


def rows_at(
    dataset: ImageTextPairDataset,
    partition: np.ndarray,
    row: np.ndarray,
    columns: Sequence[str],
    progress: bool | None = None,
) -> pa.Table:
    """Some rows by partition and place there, in the order asked for.

    Returns
    -------
    pyarrow.Table
        The id column, ``shard``, and `columns`.
    """
    names = list(dict.fromkeys([dataset.id_col, SHARD_COLUMN, *columns]))
    numbers = sorted(set(partition.tolist()))
    wanted = [np.flatnonzero(partition == number) for number in numbers]
    parts = partitions.run(
        dataset.metadata[names],
        _take,
        [(row[places],) for places in wanted],
        what="look",
        numbers=numbers,
        progress=progress,
    )
    if not parts:
        return frames.schema(dataset.metadata[names]).empty_table()
    return concatenated(parts).take(np.argsort(np.concatenate(wanted), kind="stable"))


def _take(frame: Any, rows: np.ndarray) -> pa.Table:
    """Some rows of a partition; runs on a worker."""
    return told_rows(frame, rows)
