"""How well texts find their pictures, and pictures their texts: ranks, and figures of ranks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Similarities that are held at once, in float32: 64 MiB.
_MOST_AT_ONCE = 2**24
# Draws of the bootstrap, and how many are made at once.
_DRAWS, _DRAWS_AT_ONCE = 1000, 50


@dataclass(frozen=True)
class Ranks:
    """Where each query's own stands among all candidates; 0 is the first place.

    Attributes
    ----------
    text_to_image : numpy.ndarray of int64, shape (m,)
        How many pictures are at least as similar to a text as its own.
    image_to_text : numpy.ndarray of int64, shape (n,)
        How many texts of other pictures are at least as similar to a picture as the best of its
        own.
    image_numbers : numpy.ndarray of int64, shape (m,)
        Which picture each text belongs to.
    """

    text_to_image: np.ndarray
    image_to_text: np.ndarray
    image_numbers: np.ndarray


def ranks(images: np.ndarray, texts: np.ndarray, image_numbers: np.ndarray) -> Ranks:
    """Compare all texts with all pictures, some rows at a time.

    Parameters
    ----------
    images : numpy.ndarray of float32, shape (n, d)
        Of unit length.
    texts : numpy.ndarray of float32, shape (m, d)
        Of unit length.
    image_numbers : numpy.ndarray of int, shape (m,)
        Which row of `images` each text belongs to; each picture has one text at least.

    Returns
    -------
    Ranks

    Notes
    -----
    Ties count against the query, so vectors that are all the same find nothing; so do NaNs.
    """
    text_to_image = np.empty(len(texts), np.int64)
    for rows in _blocks(len(texts), len(images)):
        similarities = texts[rows] @ images.T
        own_similarity = np.take_along_axis(similarities, image_numbers[rows, None], 1)
        text_to_image[rows] = len(images) - 1 - (similarities < own_similarity).sum(1)
    image_to_text = np.empty(len(images), np.int64)
    for rows in _blocks(len(images), len(texts)):
        similarities = images[rows] @ texts.T
        is_own = image_numbers == np.arange(rows.start, rows.stop)[:, None]
        best = similarities.max(1, where=is_own, initial=-np.inf, keepdims=True)
        worse = ((similarities < best) & ~is_own).sum(1)
        image_to_text[rows] = len(texts) - is_own.sum(1) - worse
    return Ranks(text_to_image, image_to_text, image_numbers)


def recall_at(query_ranks: np.ndarray, k: int) -> float:
    """R@k: the share of queries whose own is among the first `k`."""
    return float((query_ranks < k).mean())


def mean_reciprocal_rank(query_ranks: np.ndarray) -> float:
    """The mean of one over the place, counted from 1."""
    return float((1 / (query_ranks + 1)).mean())


def median_rank(query_ranks: np.ndarray) -> float:
    """The middle place, counted from 1."""
    return float(np.median(query_ranks) + 1)


def interval(values: np.ndarray, groups: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of a mean over queries, of which those of one picture come together.

    Parameters
    ----------
    values : numpy.ndarray, shape (m,)
        What is averaged, such as ``ranks < 10`` for R@10 or ``1 / (ranks + 1)``.
    groups : numpy.ndarray of int, shape (m,)
        The picture of each query: captions of one picture are not independent.
    seed : int

    Returns
    -------
    low, high : float

    Notes
    -----
    The percentile bootstrap over pictures (Efron and Tibshirani, "An Introduction to the
    Bootstrap", 1993, chapter 13), 1,000 draws. Of values that are all equal it has no width.
    """
    from scipy.stats import bootstrap

    _, group_numbers = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(group_numbers, weights=values), np.bincount(group_numbers)
    if len(sums) < 2:
        return (float("nan"), float("nan"))
    estimate = bootstrap(
        (sums, counts),
        lambda sums, counts, axis: sums.sum(axis) / counts.sum(axis),
        paired=True,
        n_resamples=_DRAWS,
        batch=_DRAWS_AT_ONCE,
        method="percentile",
        random_state=seed,
    ).confidence_interval
    return float(estimate.low), float(estimate.high)


def _blocks(count: int, others: int) -> list[slice]:
    """Rows, so many at a time that their similarities to `others` fit."""
    step = max(1, _MOST_AT_ONCE // max(1, others))
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]
