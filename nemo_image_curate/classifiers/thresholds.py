"""Thresholds of scores, chosen by labelled examples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nemo_image_curate.classifiers.label_tables import is_missing
from nemo_image_curate.classifiers.labelled import listed
from nemo_image_curate.errors import DatasetError

# Folds that tell how a threshold does on examples that did not choose it.
_FOLDS = 5


@dataclass(frozen=True)
class LabelThreshold:
    """A label's threshold, and how it did on examples that did not choose it.

    Attributes
    ----------
    threshold : float or None
        None when no value reaches the precision that is wanted, or no example shows the label.
    examples : int
        Those that show the label.
    precision, recall, f1 : float or None
        In cross-validation: over all folds, by thresholds chosen on the others. None when nothing
        was over the thresholds, or there are fewer than two such examples.
    """

    threshold: float | None
    examples: int
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None


@dataclass(frozen=True)
class ChosenThresholds:
    """Thresholds of labels; printed as a table.

    Attributes
    ----------
    labels : dict of str to LabelThreshold
    examples : int
        Rows that were labelled and have an embedding.
    not_in_dataset, without_embedding : int
        Labels of other samples.
    """

    labels: dict[str, LabelThreshold]
    examples: int
    not_in_dataset: int = 0
    without_embedding: int = 0

    @property
    def thresholds(self) -> dict[str, float]:
        """The thresholds of labels that have one."""
        return {
            name: label.threshold
            for name, label in self.labels.items()
            if label.threshold is not None
        }

    def __str__(self) -> str:
        lines = [
            f"{self.examples:,} examples; {self.not_in_dataset:,} not in the dataset, "
            f"{self.without_embedding:,} without embedding",
            f"{'':20} examples threshold precision recall     f1",
        ]
        for name, label in self.labels.items():
            numbers = [(label.threshold, 9), (label.precision, 9), (label.recall, 6), (label.f1, 6)]
            cells = [f"{'-' if n is None else f'{n:.3f}':>{width}}" for n, width in numbers]
            lines.append(f"{name:20} {label.examples:8,} {' '.join(cells)}")
        return "\n".join(lines)


def best_threshold(
    scores: np.ndarray, is_positive: np.ndarray, precision: float | None = None
) -> float | None:
    """The threshold of the highest F1, or the lowest one that reaches a precision.

    It lies in the middle between the lowest score that is over it and the next one below.

    Parameters
    ----------
    scores : numpy.ndarray, shape (n,)
        Finite.
    is_positive : numpy.ndarray of bool, shape (n,)
    precision : float, optional

    Returns
    -------
    float or None
        None when there is no positive one, or the precision is not reached.
    """
    order = np.argsort(-scores, kind="stable")
    sorted_scores = scores[order].astype(np.float64)
    hits = np.cumsum(is_positive[order])
    if not len(hits) or not hits[-1]:
        return None
    count = np.arange(1, len(hits) + 1)
    # Equal scores are on the same side.
    is_last = np.append(np.diff(sorted_scores) < 0, True)
    if precision is None:
        f1 = np.where(is_last, 2 * hits / (count + hits[-1]), -1)
        place = int(f1.argmax())
    else:
        reaches = np.flatnonzero(is_last & (hits / count >= precision))
        if not len(reaches):
            return None
        place = int(reaches[-1])
    below = sorted_scores[min(place + 1, len(hits) - 1)]
    return float((sorted_scores[place] + below) / 2)


def thresholds_of(
    scores: np.ndarray,
    labels: Sequence[str],
    truth: Sequence[frozenset[str]],
    precision: float | None,
    seed: int,
) -> dict[str, LabelThreshold]:
    """The threshold of each label.

    Parameters
    ----------
    scores : numpy.ndarray, shape (n, labels)
    labels : sequence of str
    truth : sequence of frozenset of str, length n
        What each row shows.
    precision : float, optional
        What is wanted. Default: the highest F1.
    seed : int
        Of the folds.

    Raises
    ------
    DatasetError
        For rows that show something else.
    """
    unknown = sorted(frozenset().union(*truth) - set(labels))
    if unknown:
        raise DatasetError(
            f"examples show {listed(unknown)}, none of the labels {listed(labels)}: write labels "
            "as the classifier has them."
        )
    return {
        label: _threshold(scores[:, at], np.array([label in row for row in truth]), precision, seed)
        for at, label in enumerate(labels)
    }


def _threshold(
    scores: np.ndarray, is_positive: np.ndarray, precision: float | None, seed: int
) -> LabelThreshold:
    threshold = best_threshold(scores, is_positive, precision)
    n_positive = int(is_positive.sum())
    if threshold is None or n_positive < 2:
        return LabelThreshold(threshold, n_positive)
    fold = _folds(is_positive, min(_FOLDS, n_positive), seed)
    is_over = np.zeros(len(scores), dtype=bool)
    for number in range(min(_FOLDS, n_positive)):
        known, held = fold != number, fold == number
        fold_threshold = best_threshold(scores[known], is_positive[known], precision)
        is_over[held] = fold_threshold is not None and scores[held] >= fold_threshold
    hits, over = int((is_over & is_positive).sum()), int(is_over.sum())
    return LabelThreshold(
        threshold,
        n_positive,
        hits / over if over else None,
        hits / n_positive,
        2 * hits / (over + n_positive),
    )


def _folds(is_positive: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The fold of each row; positive and other rows are spread over all of them."""
    fold = np.empty(len(is_positive), dtype=int)
    chance = np.random.default_rng(seed)
    for rows in (np.flatnonzero(is_positive), np.flatnonzero(~is_positive)):
        fold[chance.permutation(rows)] = np.arange(len(rows)) % count
    return fold


def read_shown(value: Any) -> frozenset[str] | None:
    """The labels that a value of a table gives a sample; None when it was not looked at.

    Parameters
    ----------
    value
        A list of labels, which may be empty; or a text with ``|`` between them.
    """
    if isinstance(value, str):
        value = value.split("|")
    elif is_missing(value):
        return None
    if not isinstance(value, Iterable) or not all(isinstance(label, str) for label in value):
        raise DatasetError(
            f"{value!r} should be a list of the labels that a sample shows, or a text with | "
            "between them; empty for none."
        )
    return frozenset(label.strip() for label in value if label.strip())
