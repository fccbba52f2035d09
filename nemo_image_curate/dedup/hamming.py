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


class Part(NamedTuple):
    """A substring: where its bits start, how many they are, and how far they are searched."""

    shift: int
    width: int
    radius: int

    @property
    def mask(self) -> int:
        """The substring's bits."""
        return ((1 << self.width) - 1) << self.shift

    def flips(self, bits: int = 0, head: int = 0) -> Iterator[int]:
        """Every way to change at most `radius` of its bits; none first.

        Parameters
        ----------
        bits : int
            How many of the highest are changed as `head` says.
        head : int
        """
        low = self.width - bits
        changed = head << (self.shift + low)
        for count in range(self.radius - head.bit_count() + 1):
            for places in itertools.combinations(range(low), count):
                yield changed | sum(1 << (self.shift + place) for place in places)


class Search(NamedTuple):
    """How pairs are looked for: in which substrings, each cut into buckets by its highest bits.

    Attributes
    ----------
    radius : int
    parts : list of Part
    bits : int
        A part has ``2 ** bits`` buckets, as far as it is that wide.
    """

    radius: int
    parts: list[Part]
    bits: int

    def width(self, part: int) -> int:
        """How many bits choose a bucket of a part."""
        return min(self.bits, self.parts[part].width)

    def buckets(self, part: int, hashes: np.ndarray) -> np.ndarray:
        """The bucket of each hash, int64."""
        if not self.bits:
            return np.zeros(len(hashes), dtype=np.int64)
        shift, width, _ = self.parts[part]
        strings = (hashes >> np.uint64(shift)) & np.uint64((1 << width) - 1)
        return (strings >> np.uint64(width - self.width(part))).astype(np.int64)

    def partners(self, part: int, bucket: int) -> list[int]:
        """The buckets, from this one on, that hold hashes near to some of its own."""
        later = range(bucket, 1 << self.width(part))
        return [other for other in later if (other ^ bucket).bit_count() <= self.parts[part].radius]

    def pairs(
        self, part: int, left: np.ndarray, right: np.ndarray, head: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pairs between two buckets that are near in this part and in none before it.

        Parameters
        ----------
        part : int
        left, right : numpy.ndarray of uint64
            Hashes; the same object for pairs inside a bucket.
        head : int
            The bits in which the numbers of the buckets differ.

        Yields
        ------
        left_places, right_places : numpy.ndarray of int64
        """
        sorted_left = _Sorted(left, self.parts[part])
        sorted_right = sorted_left if right is left else _Sorted(right, self.parts[part])
        for flip in self.parts[part].flips(self.width(part), head):
            for lefts, rights in _candidates(sorted_left, sorted_right, flip):
                differing = sorted_left.hashes[lefts] ^ sorted_right.hashes[rights]
                near = np.flatnonzero(np.bitwise_count(differing) <= self.radius)
                lefts, rights, differing = lefts[near], rights[near], differing[near]
                fresh = np.ones(len(near), dtype=bool)
                for before in self.parts[:part]:
                    shared = np.bitwise_count(differing & np.uint64(before.mask))
                    fresh &= shared > before.radius
                yield sorted_left.order[lefts[fresh]], sorted_right.order[rights[fresh]]


def plan_search(n: int, radius: int, buckets: int = 1) -> Search:
    """How to look for pairs among about `n` hashes, in at least so many buckets a part.

    Raises
    ------
    ConfigError
        For a radius that is not 0 to 63.
    """
    if not 0 <= radius < _BITS:
        raise ConfigError(f"radius={radius} should be 0 to {_BITS - 1} bits.")
    return Search(radius, _cut(n, radius), (buckets - 1).bit_length())


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
    hashes = np.ascontiguousarray(hashes, dtype=np.uint64)
    search = plan_search(len(hashes), radius)
    nothing = np.empty(0, dtype=np.int64)
    left_places, right_places = [nothing], [nothing]
    for part in range(len(search.parts)):
        for lefts, rights in search.pairs(part, hashes, hashes, 0):
            left_places.append(lefts)
            right_places.append(rights)
    left, right = np.concatenate(left_places), np.concatenate(right_places)
    first, second = np.minimum(left, right), np.maximum(left, right)
    order = np.lexsort((second, first))
    first, second = first[order], second[order]
    return first, second, np.bitwise_count(hashes[first] ^ hashes[second])


def _cut(n: int, radius: int) -> list[Part]:
    """The substrings that promise the least work when hashes are spread evenly."""

    def work(parts: list[Part]) -> float:
        return sum(
            sum(math.comb(part.width, count) for count in range(part.radius + 1))
            * (_LOOKUP + n / 2.0 ** (part.width + 1))
            for part in parts
        )

    return min((_cut_into(count, radius) for count in range(1, radius + 2)), key=work)


def _cut_into(count: int, radius: int) -> list[Part]:
    radius_each, remainder = divmod(radius, count)
    parts, shift = [], 0
    for number in range(count):
        width = _BITS // count + (number < _BITS % count)
        reach = radius_each if number <= remainder else radius_each - 1
        if reach >= 0:
            parts.append(Part(shift, width, min(reach, width)))
        shift += width
    return parts


class _Sorted:
    """Hashes by one of their substrings, and where each value of it starts and ends."""

    def __init__(self, hashes: np.ndarray, part: Part):
        strings = hashes & np.uint64(part.mask)
        self.order = np.argsort(strings, kind="stable")
        self.hashes = hashes[self.order]
        self.values, self.starts = np.unique(strings[self.order], return_index=True)
        self.ends = np.append(self.starts, len(hashes))[1:]


def _candidates(
    left: _Sorted, right: _Sorted, flip: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places of hashes whose substrings differ in just these bits, each pair once, in chunks."""
    if right is left and not flip:
        begin = np.arange(1, len(left.hashes) + 1)
        length = np.repeat(left.ends, left.ends - left.starts) - begin
        yield from _products(begin - 1, begin, length)
        return
    values = np.arange(len(left.values))
    if right is left:
        # Each pair of values once: from the one without the flip's highest bit.
        highest = np.uint64(1 << (flip.bit_length() - 1))
        values = np.flatnonzero((left.values & highest) == 0)
    if not len(values) or not len(right.values):
        return
    wanted = left.values[values] ^ np.uint64(flip)
    where = np.minimum(np.searchsorted(right.values, wanted), len(right.values) - 1)
    hit = right.values[where] == wanted
    values, where = values[hit], where[hit]
    sizes = left.ends[values] - left.starts[values]
    yield from _products(
        _ranges(left.starts[values], sizes),
        np.repeat(right.starts[where], sizes),
        np.repeat(right.ends[where] - right.starts[where], sizes),
    )


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
