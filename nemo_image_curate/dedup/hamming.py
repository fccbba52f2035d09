"""All pairs of 64-bit hashes that differ in few bits, by multi-index hashing.

Norouzi, Punjani and Fleet, "Fast search in Hamming space with multi-index hashing" (CVPR 2012).
Cut into m substrings, two hashes that differ in at most ``r = m * t + a`` bits (``a < m``) differ
in at most t bits in one of the first a + 1 substrings, or in at most t - 1 in one of the others:
else they would differ in ``(a + 1) * (t + 1) + (m - a - 1) * t = r + 1``. So it is enough to
compare hashes whose substrings are that near, which are found by sorting.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from nemo_image_curate.errors import ConfigError

_BITS = 64
# Candidate pairs looked at together: 100 MB with all that is computed of them.
_CHUNK = 1 << 21
# What finding the buckets costs for each hash and mask, in comparisons of two hashes.
_LOOKUP = 8


class _Part(NamedTuple):
    """A substring: where its bits start, how many they are, and how far they are searched."""

    shift: int
    width: int
    radius: int

    @property
    def mask(self) -> int:
        return ((1 << self.width) - 1) << self.shift

    def flips(self) -> Iterator[int]:
        """Every way to change at most `radius` of its bits; none first."""
        for count in range(self.radius + 1):
            for bits in itertools.combinations(range(self.width), count):
                yield sum(1 << (self.shift + bit) for bit in bits)


def close_pairs(hashes: np.ndarray, radius: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of hashes that differ in at most `radius` bits.

    Parameters
    ----------
    hashes : numpy.ndarray of uint64, shape (n,)
        Equal ones are pairs, too: where thousands are equal, hand in each value once.
    radius : int
        0 to 63.

    Returns
    -------
    first, second : numpy.ndarray of int64, shape (p,)
        Places in `hashes`, ``first < second``; by `first`, then `second`; each pair once.
    distance : numpy.ndarray of uint8, shape (p,)

    Raises
    ------
    ConfigError
        For another radius.

    Notes
    -----
    Besides the result, memory is O(n): candidates are compared in chunks.
    """
    if not 0 <= radius < _BITS:
        raise ConfigError(f"radius={radius} should be 0 to {_BITS - 1} bits.")
    hashes = np.ascontiguousarray(hashes, dtype=np.uint64)
    parts = _cut(len(hashes), radius) if len(hashes) else []
    parts_pairs = [
        pairs
        for number in range(len(parts))
        for pairs in _near_in_part(hashes, parts, number, radius)
    ]
    if not parts_pairs:
        nothing = np.empty(0, dtype=np.int64)
        return nothing, nothing, np.empty(0, dtype=np.uint8)
    left, right, distance = (np.concatenate(arrays) for arrays in zip(*parts_pairs, strict=True))
    first, second = np.minimum(left, right), np.maximum(left, right)
    order = np.lexsort((second, first))
    return first[order], second[order], distance[order]


def _cut(n: int, radius: int) -> list[_Part]:
    """The substrings that promise the least work when hashes are spread evenly."""

    def work(parts: list[_Part]) -> float:
        return sum(
            sum(math.comb(part.width, count) for count in range(part.radius + 1))
            * (_LOOKUP + n / 2.0 ** (part.width + 1))
            for part in parts
        )

    return min((_cut_into(count, radius) for count in range(1, radius + 2)), key=work)


def _cut_into(count: int, radius: int) -> list[_Part]:
    radius_each, remainder = divmod(radius, count)
    parts, shift = [], 0
    for number in range(count):
        width = _BITS // count + (number < _BITS % count)
        reach = radius_each if number <= remainder else radius_each - 1
        if reach >= 0:
            parts.append(_Part(shift, width, min(reach, width)))
        shift += width
    return parts


def _near_in_part(
    hashes: np.ndarray, parts: list[_Part], number: int, radius: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Pairs that are near in one part and in none before it."""
    part = parts[number]
    strings = hashes & np.uint64(part.mask)
    order = np.argsort(strings, kind="stable")
    hashes = hashes[order]
    values, starts = np.unique(strings[order], return_index=True)
    ends = np.append(starts[1:], len(hashes))
    for flip in part.flips():
        if flip:
            # Each pair of buckets once: from the one without the flip's highest bit.
            low = np.flatnonzero((values & np.uint64(1 << (flip.bit_length() - 1))) == 0)
            partners = values[low] ^ np.uint64(flip)
            where = np.minimum(np.searchsorted(values, partners), len(values) - 1)
            hit = values[where] == partners
            low, where = low[hit], where[hit]
            sizes = ends[low] - starts[low]
            left = _ranges(starts[low], sizes)
            begin, length = (
                np.repeat(starts[where], sizes),
                np.repeat(ends[where] - starts[where], sizes),
            )
        else:
            left = np.arange(len(hashes))
            begin = left + 1
            length = np.repeat(ends, ends - starts) - begin
        for lefts, rights in _products(left, begin, length):
            differing = hashes[lefts] ^ hashes[rights]
            distance = np.bitwise_count(differing)
            within = distance <= radius
            lefts, rights, differing = lefts[within], rights[within], differing[within]
            fresh = np.ones(len(lefts), dtype=bool)
            for before in parts[:number]:
                shared = np.bitwise_count(differing & np.uint64(before.mask))
                fresh &= shared > before.radius
            yield order[lefts[fresh]], order[rights[fresh]], distance[within][fresh]


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The numbers from each start on, so many of each, one after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    numbers: np.ndarray = np.arange(total) + np.repeat(starts - (ends - lengths), lengths)
    return numbers


def _products(
    left: np.ndarray, begin: np.ndarray, length: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each of `left` with the numbers from its `begin` on, in chunks."""
    nonempty = length > 0
    left, begin, length = left[nonempty], begin[nonempty], length[nonempty]
    ends = np.cumsum(length)
    start = 0
    while start < len(left):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _CHUNK, side="right")))
        yield (
            np.repeat(left[start:stop], length[start:stop]),
            _ranges(begin[start:stop], length[start:stop]),
        )
        start = stop
