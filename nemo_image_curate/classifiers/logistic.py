"""Multinomial logistic regression on embeddings, its penalty chosen by cross-validation."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

# Inverse strengths of the penalty that are tried. Vectors are centred and scaled to a mean square
# of 1 before, so that they mean the same for all encoders. Of 0.1 to 1,000,000, with 25 to 300
# labels on photographs of ImageNet, the lowest loss was at 100 on features of EfficientNet-Lite0,
# and at 10, 1,000 and 1,000,000 on ConSE's vectors, the last 1 % below that at 100,000.
PENALTIES = tuple(10.0**power for power in range(-1, 6))
# Without a class of several labels there is nothing to choose by. In the same measurements its loss
# was the lowest on features, and 1 to 39 % above that on ConSE's vectors.
DEFAULT_PENALTY = 100.0
MAX_FOLDS = 5
_MAX_ITERATIONS = 1000


@dataclass(frozen=True)
class Fitted:
    """A linear classifier of K classes, and how it did on labels that it had not seen.

    Attributes
    ----------
    weight : numpy.ndarray, shape (K, d), float32
    bias : numpy.ndarray, shape (K,), float32
        Of the logits x W^T + b; their softmax is the probability.
    C : float
        The inverse strength of the penalty.
    losses : dict of float to float
        The mean of -log p(label) in cross-validation, by C; empty when there was none.
    folds : int
        0 without cross-validation.
    rows : numpy.ndarray of int64, shape (m,)
        Those that were predicted by models that had not seen them.
    probabilities : numpy.ndarray, shape (m, K)
        What these were given.
    """

    weight: np.ndarray
    bias: np.ndarray
    C: float
    losses: dict[float, float]
    folds: int
    rows: np.ndarray
    probabilities: np.ndarray


def fit(
    vectors: np.ndarray, labels: np.ndarray, n_classes: int, C: float | None, seed: int
) -> Fitted:
    """Fit a classifier to unit vectors.

    The loss is that of scikit-learn's `LogisticRegression`: the sum of -log p(label) and
    ||W||^2 / (2 C), on vectors that are centred and divided by the root of their mean square.

    Parameters
    ----------
    vectors : numpy.ndarray, shape (n, d)
    labels : numpy.ndarray of int, shape (n,)
        From 0; each class is there at least once.
    n_classes : int
    C : float or None
        None: the one of `PENALTIES` with the lowest loss in stratified cross-validation of at most
        `MAX_FOLDS` folds. A class of one label is never held out.
    seed : int
        Decides which rows are held out together.

    Returns
    -------
    Fitted
    """
    mean = vectors.mean(axis=0, dtype=np.float64)
    centred = vectors - mean
    scale = float(np.sqrt(np.square(centred).sum(axis=1).mean())) or 1.0
    # The penalty does not change under rotations, and weights lie in the span of the rows: on
    # fewer rows than dimensions as many numbers are left as there are rows.
    rotated, values, axes = np.linalg.svd(centred / scale, full_matrices=False)
    reduced = rotated * values
    rows, folds = _held_out(labels, n_classes, seed)
    losses: dict[float, float] = {}
    held_out: dict[float, np.ndarray] = {}
    if folds:
        for penalty in PENALTIES if C is None else (C,):
            held_out[penalty] = _predict(reduced, labels, n_classes, folds, penalty)[rows]
            likelihood = held_out[penalty][np.arange(len(rows)), labels[rows]]
            losses[penalty] = float(-np.log(np.clip(likelihood, 1e-15, 1)).mean())
    # The strongest penalty of those that do as well.
    chosen = C or min(losses, key=lambda penalty: (losses[penalty], penalty), default=None)
    chosen = chosen or DEFAULT_PENALTY
    weight, bias = _weights(reduced, labels, n_classes, chosen)
    weight = weight @ axes / scale
    return Fitted(
        weight.astype(np.float32),
        (bias - weight @ mean).astype(np.float32),
        chosen,
        losses,
        len(folds),
        rows,
        held_out.get(chosen, np.empty((0, n_classes))),
    )


def _held_out(
    labels: np.ndarray, n_classes: int, seed: int
) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """The rows that are held out once, and for each fold the rows to learn from and to predict."""
    from sklearn.model_selection import StratifiedKFold

    counts = np.bincount(labels, minlength=n_classes)
    is_single = counts[labels] < 2
    rows, singles = np.flatnonzero(~is_single), np.flatnonzero(is_single)
    if not len(rows):
        return rows, []
    splitter = StratifiedKFold(min(MAX_FOLDS, int(counts.max())), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # Classes with fewer labels than folds, of which users are told by us.
        warnings.simplefilter("ignore", UserWarning)
        splits = list(splitter.split(rows, labels[rows]))
    return rows, [(np.sort([*rows[known], *singles]), rows[held]) for known, held in splits]


def _predict(
    vectors: np.ndarray,
    labels: np.ndarray,
    n_classes: int,
    folds: list[tuple[np.ndarray, np.ndarray]],
    penalty: float,
) -> np.ndarray:
    """The probabilities (n, K) of rows by a model that has not seen them; 0 of all others."""
    from scipy.special import softmax

    probabilities = np.zeros((len(vectors), n_classes))
    for known, held in folds:
        weight, bias = _weights(vectors[known], labels[known], n_classes, penalty)
        probabilities[held] = softmax(vectors[held] @ weight.T + bias, axis=1)
    return probabilities


def _weights(
    vectors: np.ndarray, labels: np.ndarray, n_classes: int, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """W, (K, d), and b, (K,), of a softmax."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=penalty, max_iter=_MAX_ITERATIONS)
    model.fit(vectors, labels)
    weight, bias = model.coef_, model.intercept_
    if n_classes == 2:
        # Of a sigmoid.
        weight, bias = np.concatenate([0 * weight, weight]), np.concatenate([0 * bias, bias])
    return weight, bias
