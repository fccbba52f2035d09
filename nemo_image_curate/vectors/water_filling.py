"""Budgets cut into parts of which each has limits: whole numbers as even as can be, or near shares.

Both are one line, ``min(x, size)`` and ``clip(wanted + x, lower, upper)``, with one number x that
makes the sum what it should be.
"""

from __future__ import annotations

import numpy as np


def water_fill(sizes: np.ndarray, total: int, chance: np.random.Generator) -> np.ndarray:
    """How many to take of each of some groups, so that all give as many as the smallest allow.

    Vo et al., "Automatic data curation for self-supervised learning: a clustering-based
    approach", 2024, section 3.3.

    Parameters
    ----------
    sizes : numpy.ndarray of int64, shape (k,)
        What each has, at least 0.
    total : int
        How many to take of all.
    chance : numpy.random.Generator
        Draws the groups that give one more, when `total` does not divide.

    Returns
    -------
    numpy.ndarray of int64, shape (k,)
        ``min(x, size)`` with the largest whole x whose sum does not exceed `total`, and one more
        of as many of the larger groups as are missing. The sum is `total`, or all there is.
    """
    sizes = np.asarray(sizes, dtype=np.int64)
    if total >= sizes.sum():
        return sizes.copy()
    ascending = np.sort(sizes)
    before = np.cumsum(ascending) - ascending
    larger = np.arange(len(sizes), 0, -1)
    # The sum if x were the size of each of them; it rises.
    first_capped = np.searchsorted(before + ascending * larger, total, side="right")
    level = (total - before[first_capped]) // larger[first_capped]
    quotas: np.ndarray = np.minimum(sizes, level)
    candidates = np.flatnonzero(sizes > level)
    quotas[chance.permutation(candidates)[: total - quotas.sum()]] += 1
    return quotas


def bounded_shares(
    wanted: np.ndarray, total: float, lower: np.ndarray, upper: np.ndarray
) -> np.ndarray:
    """The numbers nearest to what is wanted that keep their bounds and add up to `total`.

    The minimum of ``|x - wanted|^2`` under ``sum(x) == total`` and ``lower <= x <= upper`` is
    ``clip(wanted + y, lower, upper)`` with one y (the Karush-Kuhn-Tucker conditions), which is
    found by bisection. It is the quadratic program of Abbas et al., "Effective pruning of
    web-scale datasets based on complexity of concept clusters", 2024, equation 3.

    Parameters
    ----------
    wanted, lower, upper : numpy.ndarray, shape (k,)
        ``lower <= upper``.
    total : float
        Taken as the nearest sum that the bounds allow.

    Returns
    -------
    numpy.ndarray of float64, shape (k,)
    """
    wanted, lower, upper = (np.asarray(array, dtype=np.float64) for array in (wanted, lower, upper))
    if not len(wanted):
        return wanted
    low, high = (lower - wanted).min(), (upper - wanted).max()
    middle = (low + high) / 2
    # Until there is no number between the two.
    while low < middle < high:
        if np.clip(wanted + middle, lower, upper).sum() < total:
            low = middle
        else:
            high = middle
        middle = (low + high) / 2
    nearest: np.ndarray = np.clip(wanted + high, lower, upper)
    return nearest


def whole_shares(shares: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers for shares, by largest remainders.

    Parameters
    ----------
    shares : numpy.ndarray, shape (k,)
        At least 0; they add up to `total` but for rounding.
    total : int

    Returns
    -------
    numpy.ndarray of int64, shape (k,)
        Each share rounded down or up, those with the largest remainders up, the first of equal
        ones, so that the sum is `total`. Bounds that are whole numbers hold.
    """
    # Next to a whole number a share is that number.
    shares = np.where(np.abs(shares - np.rint(shares)) < 1e-6, np.rint(shares), shares)
    whole: np.ndarray = np.floor(shares).astype(np.int64)
    missing = total - int(whole.sum())
    order = np.argsort(whole - shares, kind="stable")
    whole[order[:missing]] += 1
    return whole
