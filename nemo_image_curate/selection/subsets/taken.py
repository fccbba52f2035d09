"""What of a partition subsets are compared by; its functions run on workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate import frames
from nemo_image_curate.dataset.looking.rows import sample_bits
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.vectors.unit import unit_vectors

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

# Rows of all subsets together that the client holds at most, and held-out ones: with pictures of
# 1,024 and texts of 384 values 600 MB, and thrice as much for a moment.
MOST_ROWS = 100_000
MOST_HELD_OUT = 5_000
# What identical pictures share, and rows of a group of duplicates.
_DIGESTS = ("sha256", "image_sha256")
_DUPLICATE_OF = "duplicate_of"
# Between shard and key.
BETWEEN = pa.scalar("\0", pa.large_string())
# The column that rows are sampled by, and what columns that copies share begin with.
SCORE, TIE = "__score", "__tie_"
# The subset that held-out rows are of, where there is one, and the rows of any other.
HELD_OUT, ANY = "__held_out", "__any"


@dataclass(frozen=True)
class Columns:
    """Which columns are looked at.

    Attributes
    ----------
    key, images, texts : str
        Of keys, and of embeddings.
    label : str or None
    ties : tuple of str
        What tells copies: digests, and the rows that duplicates are of.
    """

    key: str
    images: str
    texts: str
    label: str | None
    ties: tuple[str, ...]

    @classmethod
    def of(
        cls, dataset: ImageTextPairDataset, images: str, texts: str, label: str | None
    ) -> Columns:
        """Those of a dataset."""
        names = [name for name in dataset.metadata.columns if isinstance(name, str)]
        ties = [name for name in names if name in _DIGESTS or name.endswith(_DUPLICATE_OF)]
        return cls(dataset.id_col, images, texts, label, tuple(ties))

    def needed(self, has: Sequence[str]) -> list[str]:
        """All of them, as far as a frame has them."""
        shards = [f"{name}_shard" for name in self.ties if f"{name}_shard" in has]
        names = [self.key, SHARD_COLUMN, self.images, self.texts, self.label, *self.ties, *shards]
        return list(dict.fromkeys(name for name in names if name))


@dataclass(frozen=True)
class Shares:
    """Which rows are taken, by a number from 0 to 1 that each has by its key.

    Attributes
    ----------
    held_out : float
        Rows below it are held out, of those that may be.
    low, high : float
        Rows from one to the other are trained on, unless they are kept out.
    has_condition : bool
        Whether the rows that may be held out are those of `HELD_OUT`, which are all kept out of
        training. Else they are all rows.
    seed : int
    """

    held_out: float
    low: float
    high: float
    has_condition: bool
    seed: int

    @classmethod
    def of(cls, sizes: dict[str, int], held_out: float | None, seed: int) -> Shares:
        """As many as fit; `held_out` is None where there is a condition."""
        if held_out is None:
            pool, share, low = sizes[ANY], MOST_HELD_OUT / max(1, sizes[HELD_OUT]), 0.0
        else:
            share = min(held_out, MOST_HELD_OUT / max(1, sizes[""]))
            pool, low = round(sizes[ANY] * (1 - share)), share
        high = low + (1 - low) * min(1.0, MOST_ROWS / max(1, pool))
        return cls(min(1.0, share), low, high, held_out is None, seed)


@dataclass(frozen=True)
class Rows:
    """A sample of usable rows, in the order of their scores.

    Attributes
    ----------
    images, texts : numpy.ndarray of float32, shape (n, d_image) and (n, d_text)
        Of unit length.
    table : pyarrow.Table, n rows
        Key and shard, the label, and columns in which copies have the same value.
    is_held_out : numpy.ndarray of bool, shape (n,)
    members : dict of str to numpy.ndarray of bool, shape (n,)
        By subset.
    counts : dict of str to dict of str to int
        For each subset, and for all rows (""), of the whole dataset: ``rows``, ``no_image`` and
        ``no_text`` without an embedding (with neither: the former), ``kept_out`` of the rest
        because they are held out, or might be.
    """

    images: np.ndarray
    texts: np.ndarray
    table: pa.Table
    is_held_out: np.ndarray
    members: dict[str, np.ndarray]
    counts: dict[str, dict[str, int]]


def count_members(
    frame: Any, columns: dict[str, str], arrays: dict[str, np.ndarray]
) -> dict[str, int]:
    """How many rows of a partition each subset has; runs on a worker."""
    members = _members(frame, columns, arrays)
    counts = {name: int(mask.sum()) for name, mask in members.items()}
    return counts | {"": len(frame), ANY: int(_trainable(members, len(frame)).sum())}


def take_rows(
    frame: Any,
    subsets: dict[str, str],
    arrays: dict[str, np.ndarray],
    columns: Columns,
    shares: Shares,
) -> Rows:
    """The rows of a partition that are taken, with counts of all; runs on a worker."""
    all_rows = np.ones(len(frame), dtype=bool)
    members = _members(frame, subsets, arrays)
    images, has_image = _vectors(frame, columns.images)
    texts, has_text = _vectors(frame, columns.texts)
    names = [columns.key, SHARD_COLUMN, *([columns.label] if columns.label else [])]
    table = frames.to_arrow(frame[list(dict.fromkeys(names))])
    score = sample_bits(table, columns.key, shares.seed) / 2.0**64
    may_be_held_out = members[HELD_OUT] if shares.has_condition else all_rows
    is_held_out = may_be_held_out & (score < shares.held_out)
    kept_out = may_be_held_out if shares.has_condition else is_held_out
    is_trained = _trainable(members, len(frame)) & ~kept_out
    is_trained &= (score >= shares.low) & (score < shares.high)
    rows = np.flatnonzero(has_image & has_text & (is_held_out | is_trained))
    table = table.append_column(SCORE, pa.array(score))
    for name in columns.ties:
        table = table.append_column(f"{TIE}{name}", _tie(frame, name, columns.key))
    return Rows(
        images=images[np.cumsum(has_image)[rows] - 1],
        texts=texts[np.cumsum(has_text)[rows] - 1],
        table=table.take(pa.array(rows)),
        is_held_out=is_held_out[rows],
        members={name: mask[rows] for name, mask in members.items()},
        counts={
            name: {
                "rows": int(mask.sum()),
                "no_image": int((mask & ~has_image).sum()),
                "no_text": int((mask & has_image & ~has_text).sum()),
                "kept_out": int((mask & has_image & has_text & kept_out).sum()),
            }
            for name, mask in {"": all_rows, **members}.items()
        },
    )


def _members(
    frame: Any, columns: dict[str, str], arrays: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Which rows of a partition belong to each subset; null is no."""
    masks = {
        name: frames.column_to_arrow(frame[column]).fill_null(False).to_numpy(zero_copy_only=False)
        for name, column in columns.items()
    }
    return masks | arrays


def _trainable(members: dict[str, np.ndarray], rows: int) -> np.ndarray:
    """Rows of any subset that are not kept out by a condition."""
    masks = [mask for name, mask in members.items() if name != HELD_OUT]
    in_any = np.any(masks, axis=0) if masks else np.zeros(rows, dtype=bool)
    trainable: np.ndarray = in_any & ~members.get(HELD_OUT, np.zeros(rows, dtype=bool))
    return trainable


def _vectors(frame: Any, column: str) -> tuple[np.ndarray, np.ndarray]:
    """The directions of a column's vectors, and which rows have one."""
    values, embedded = frames.embedding_array(frame[column])
    vectors, with_direction = unit_vectors(values, frames.device_of(frame))
    has = np.zeros(len(frame), dtype=bool)
    has[embedded[with_direction]] = True
    return vectors.cpu().numpy(), has


def _tie(frame: Any, name: str, key: str) -> pa.Array:
    """What copies of a row share: a digest, or the row that they are duplicates of."""
    values = frames.column_to_arrow(frame[name]).cast(pa.large_string())
    if not name.endswith(_DUPLICATE_OF):
        return values
    keys = frames.column_to_arrow(frame[key]).cast(pa.large_string())
    if (shard := f"{name}_shard") in frame.columns:
        shards = (frames.column_to_arrow(frame[column]) for column in (shard, SHARD_COLUMN))
        of, at = (column.cast(pa.large_string()) for column in shards)
        values = pc.binary_join_element_wise(of, values, BETWEEN)
        keys = pc.binary_join_element_wise(at, keys, BETWEEN)
    return pc.coalesce(values, keys)
