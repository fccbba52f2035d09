"""The nearest of other rows by each signal: equal digests, near hashes, near embeddings."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate.dedup.hamming import plan_search

_BITS = 64
# Row numbers are below this, so that distance and number are one integer to be minimised.
_ROWS = 1 << 40
_NOTHING = _BITS * _ROWS


class Nearest(NamedTuple):
    """The nearest of the other rows by one signal.

    Attributes
    ----------
    rows : numpy.ndarray of int64, shape (m,)
        Its number; -1 where none was found. Or (m, k): the nearest k, the nearest first.
    similarity : numpy.ndarray of float32, of the same shape
        Of that row, at most 1; NaN where none was found.
    compared : numpy.ndarray of bool, shape (m,)
        Whether the row has what the signal compares.
    """

    rows: np.ndarray
    similarity: np.ndarray
    compared: np.ndarray


def equal_digests(digests: pa.ChunkedArray, others: pa.ChunkedArray) -> Nearest:
    """The first of the others whose digest is the same.

    Parameters
    ----------
    digests : pyarrow.ChunkedArray of string, length m
    others : pyarrow.ChunkedArray of string, length n
        Null where a row has none.
    """
    places = pc.index_in(digests, value_set=others.combine_chunks(), skip_nulls=True)
    rows = places.combine_chunks().fill_null(-1).to_numpy().astype(np.int64)
    similarity = np.where(rows >= 0, 1, np.nan).astype(np.float32)
    return Nearest(rows, similarity, digests.is_valid().to_numpy())


def near_hashes(
    hashes: list[pa.ChunkedArray], others: list[pa.ChunkedArray], radius: int
) -> Nearest:
    """The other whose hash differs in the fewest bits, at most `radius`; the first of such.

    Parameters
    ----------
    hashes, others : list of pyarrow.ChunkedArray of uint64
        The hashes of m and n images, and after them, as far as they are known, those of their
        mirror images; null where an image has none. Two mirror images are not compared: their
        hashes tell what those of the images do.
    radius : int
    """
    compared = hashes[0].is_valid().to_numpy()
    best = np.full(len(compared), _NOTHING)
    other_rows = np.flatnonzero(others[0].is_valid().to_numpy())
    pairs = [(hashes[0], other) for other in others] + [(left, others[0]) for left in hashes[1:]]
    for left, right in pairs:
        codes = _fewest_bits(left.drop_null().to_numpy(), right.drop_null().to_numpy(), radius)
        hit = codes < _NOTHING
        codes[hit] += other_rows[codes[hit] % _ROWS] - codes[hit] % _ROWS
        best[compared] = np.minimum(best[compared], codes)
    rows = np.where(best < _NOTHING, best % _ROWS, -1)
    similarity = 1 - (best // _ROWS) / np.float32(_BITS)
    return Nearest(rows, np.where(rows >= 0, similarity, np.nan).astype(np.float32), compared)


def _fewest_bits(hashes: np.ndarray, others: np.ndarray, radius: int) -> np.ndarray:
    """Distance and place of the nearest of the others, as one number; `_NOTHING` beyond `radius`.

    Each value is looked for once, so that thousands of copies do not meet thousands.
    """
    values, places = np.unique(hashes, return_inverse=True)
    known, first_places = np.unique(others, return_index=True)
    search = plan_search(len(known), radius)
    best = np.full(len(values), _NOTHING)
    for part in range(len(search.parts)):
        for lefts, rights in search.pairs(part, values, known, 0):
            distance = np.bitwise_count(values[lefts] ^ known[rights]).astype(np.int64)
            np.minimum.at(best, lefts, distance * _ROWS + first_places[rights])
    return best[places]
