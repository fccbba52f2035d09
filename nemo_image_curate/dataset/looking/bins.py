"""Bars of histograms that add up: those of partitions lie within those of all rows.

Edges are multiples of a power of two, so that each bar of a partition is wholly in one of the
wider bars of the whole. Beside them values are counted in parts of octaves, the steps of a
logarithmic axis (as HdrHistogram does, G. Tene 2012): which of the two shows more is known at the
end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

# Of a float64's bits after those of its exponent, so many tell the part of the octave.
_OCTAVE_BITS = 3
_MANTISSA_BITS = 52
# An axis is logarithmic when so large a part of the values is in so small a part of a linear one.
_CROWD = 0.9
_CORNER = 16
# Larger values, and smaller than its inverse, are taken for this one, and 0: widths of bars do not
# leave the range of float64.
_LARGEST = 2.0**400
# No bar is further away than what a shift of 64-bit numbers reaches.
_FARTHEST = 63


@dataclass(frozen=True)
class Bins:
    """Finite values counted by parts of an axis.

    Attributes
    ----------
    whole : bool
        The values are whole numbers: no bar is narrower than 1.
    low, high : float
    exponent : int
        Bars are 2^exponent wide.
    first : int
        The first bar begins at ``first * 2**exponent``.
    counts : numpy.ndarray of int64
        Of each bar.
    octaves : numpy.ndarray of int64, shape (o, 2)
        The leading bits of the values in each part of an octave, and how many there are; empty
        unless all values are above 0.
    """

    whole: bool
    low: float
    high: float
    exponent: int
    first: int
    counts: np.ndarray
    octaves: np.ndarray

    @property
    def count(self) -> int:
        return int(self.counts.sum())

    @classmethod
    def of(cls, values: np.ndarray, most: int, whole: bool) -> Bins | None:
        """Values in at most so many bars; None when there are none.

        Parameters
        ----------
        values : numpy.ndarray of float64, shape (n,)
            Finite.
        most : int
        whole : bool
        """
        if not len(values):
            return None
        values = np.where(np.abs(values) < 1 / _LARGEST, 0.0, values).clip(-_LARGEST, _LARGEST)
        low, high = float(values.min()), float(values.max())
        exponent = _exponent(low, high, most, whole)
        first = _place(low, exponent)
        # Exact, since the width is a power of two.
        places = np.floor(np.ldexp(values, -exponent)) - first
        counts = np.bincount(places.astype(np.int64))
        octaves = np.empty((0, 2), np.int64)
        if low > 0:
            leading = values.view(np.int64) >> (_MANTISSA_BITS - _OCTAVE_BITS)
            octaves = np.stack(np.unique(leading, return_counts=True), axis=1)
        return cls(whole, low, high, exponent, first, counts, octaves)

    @classmethod
    def merged(cls, parts: Sequence[Bins], most: int) -> Bins | None:
        """What `of` gives for all values together, with the same `most`."""
        if not parts:
            return None
        whole = parts[0].whole
        low, high = min(part.low for part in parts), max(part.high for part in parts)
        # No less than that of any part: it has at most as many bars of any width.
        exponent = _exponent(low, high, most, whole)
        first = _place(low, exponent)
        counts = np.zeros(_place(high, exponent) - first + 1, np.int64)
        for part in parts:
            places = np.arange(len(part.counts)) + part.first
            places >>= min(exponent - part.exponent, _FARTHEST)
            np.add.at(counts, places - first, part.counts)
        octaves = np.empty((0, 2), np.int64)
        if low > 0:
            octaves = _added(np.concatenate([part.octaves for part in parts]))
        return cls(whole, low, high, exponent, first, counts, octaves)

    def bars(self, most: int) -> tuple[np.ndarray, np.ndarray, bool]:
        """Edges, counts, and whether they are for a logarithmic axis.

        Returns
        -------
        edges : numpy.ndarray of float64, shape (b + 1,)
            From `low` to `high`, or one more than that for whole numbers. Both are the same where
            all values are, unless they are whole.
        counts : numpy.ndarray of int64, shape (b,)
            The last bar includes its upper edge.
        log : bool
        """
        corner = self.counts[: max(1, len(self.counts) // _CORNER)].sum()
        is_log = len(self.counts) >= _CORNER and self.low > 0
        is_log &= bool(corner >= _CROWD * self.count)
        if is_log:
            edges, counts = self._octave_bars(most)
        else:
            places = np.arange(len(self.counts)) + self.first
            edges, counts = np.ldexp(places.astype(np.float64), self.exponent), self.counts
        if not self.whole and len(edges) > 1 and edges[-1] == self.high:
            # No bar for the highest value alone, which would have no width.
            counts = np.append(counts[:-2], counts[-2:].sum())
            edges = edges[:-1]
        edges[0] = self.low
        return np.append(edges, self.high + self.whole), counts, is_log

    def _octave_bars(self, most: int) -> tuple[np.ndarray, np.ndarray]:
        parts, shift = self.octaves, _MANTISSA_BITS - _OCTAVE_BITS
        while parts[-1, 0] - parts[0, 0] >= most:
            parts, shift = _added(np.stack([parts[:, 0] >> 1, parts[:, 1]], axis=1)), shift + 1
        first, last = parts[0, 0], parts[-1, 0]
        counts = np.zeros(last - first + 1, np.int64)
        counts[parts[:, 0] - first] = parts[:, 1]
        edges = (np.arange(first, last + 1) << shift).view(np.float64)
        return edges, counts


def exact_sum(values: np.ndarray) -> Fraction:
    """The sum of finite values without rounding, so that it does not depend on their order.

    Parameters
    ----------
    values : numpy.ndarray of float64, shape (n,), n < 2^36
    """
    mantissas, exponents = np.frexp(values)
    whole = np.ldexp(mantissas, _MANTISSA_BITS + 1).astype(np.int64)
    total = Fraction(0)
    for exponent in np.unique(exponents).tolist():
        group = whole[exponents == exponent]
        # In two parts: 64 bits hold the sum of each.
        high, low = int((group >> 27).sum()), int((group & (2**27 - 1)).sum())
        total += ((high << 27) + low) * Fraction(2) ** (exponent - _MANTISSA_BITS - 1)
    return total


def _added(parts: np.ndarray) -> np.ndarray:
    """The rows of `Bins.octaves`, those of the same part as one."""
    places, inverse = np.unique(parts[:, 0], return_inverse=True)
    counts = np.zeros(len(places), np.int64)
    np.add.at(counts, inverse, parts[:, 1])
    return np.stack([places, counts], axis=1)


def _place(value: float, exponent: int) -> int:
    return math.floor(math.ldexp(value, -exponent))


def _exponent(low: float, high: float, most: int, whole: bool) -> int:
    """The lowest one with which at most so many bars reach from one value to another."""
    # Of equal values any would do; this one is no more than that of values around them.
    span = (high / most - low / most) or math.ulp(low) / most
    exponent = math.frexp(span)[1] - 1
    exponent = max(exponent, 0) if whole else exponent
    while _place(high, exponent) - _place(low, exponent) >= most:
        exponent += 1
    return exponent
