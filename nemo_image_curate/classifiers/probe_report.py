"""How well a linear probe tells its classes apart, on labels that it had not seen."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nemo_image_curate.classifiers.logistic import MAX_FOLDS, Fitted

# Parts of the probabilities' range in which these are compared with what was right.
_BINS = 10
# Labels that are listed for another look.
_DOUBTFUL = 20


@dataclass(frozen=True)
class ProbeReport:
    """What a probe was trained on, and how it did in cross-validation.

    Every score is of rows that the model had not seen: each is held out once. They are of the rows
    that were labelled, and hold for others only as far as these are like them; near-duplicates
    among the labelled rows make them too good. The penalty was chosen by the same folds.

    Attributes
    ----------
    classes : list of str
    counts : dict of str to int
        Labels that were used, by class.
    given, empty, not_in_dataset, without_embedding : int
        Labels in all; samples that were listed without one; labels of samples that the dataset
        does not have, or that have no embedding.
    names : dict of str to list of str
        Some of the last two, by what they are.
    few : list of str
        Classes with fewer labels than there could be folds.
    C : float
        The inverse strength of the penalty.
    losses : dict of str to float
        Mean -log p(label), by C.
    folds : int
        0 when there was no class of several labels: then there are no scores.
    rows : int
        Rows that were held out.
    accuracy : float or None
        The share of them whose most likely class was right.
    accuracy_interval : tuple of float
        Its 95 % interval (Wilson).
    majority : float or None
        The accuracy of naming the most frequent class always.
    by_class : dict of str to dict
        ``precision``, ``recall``, ``f1`` and ``labels`` of each class.
    confusion : dict of str to dict of str to int
        How often rows of a class were named so; zeros are left out.
    calibration : list of dict
        For parts of the probabilities' range: ``rows``, their mean ``probability`` and the
        ``accuracy``.
    calibration_error : float or None
        The mean difference of these two over all rows (Naeini et al., "Obtaining well calibrated
        probabilities using Bayesian binning", 2015).
    doubtful : list of dict
        The labels that are the least likely to the models that had not seen them: worth another
        look. ``key``, ``shard``, ``label``, ``probability``, ``predicted``.
    """

    classes: list[str]
    counts: dict[str, int]
    given: int
    empty: int
    not_in_dataset: int
    without_embedding: int
    names: dict[str, list[str]]
    few: list[str]
    C: float
    losses: dict[str, float]
    folds: int
    rows: int
    accuracy: float | None = None
    accuracy_interval: tuple[float, float] | None = None
    majority: float | None = None
    by_class: dict[str, dict[str, float]] = field(default_factory=dict)
    confusion: dict[str, dict[str, int]] = field(default_factory=dict)
    calibration: list[dict[str, float]] = field(default_factory=list)
    calibration_error: float | None = None
    doubtful: list[dict[str, Any]] = field(default_factory=list)

    def data(self) -> dict[str, Any]:
        """All of it as plain values."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        lines = [
            f"labels      {sum(self.counts.values()):,} used of {self.given:,}; "
            f"{self.not_in_dataset:,} not in the dataset, {self.without_embedding:,} without "
            f"embedding; {self.empty:,} samples without label",
        ]
        for reason, names in filter(lambda pair: pair[1], self.names.items()):
            lines.append(f"            {reason}: {', '.join(names)}")
        if self.few:
            lines.append(f"few labels  {', '.join(self.few)}: fewer than {MAX_FOLDS}")
        if self.accuracy is None or self.accuracy_interval is None:
            lines.append("scores      none: no class has two labels. Label more samples.")
            return "\n".join(lines)
        low, high = self.accuracy_interval
        lines += [
            f"accuracy    {self.accuracy:.3f} ({low:.3f} to {high:.3f}) in {self.folds} folds of "
            f"{self.rows:,} labels; {self.majority:.3f} by the most frequent class alone",
            f"calibration off by {self.calibration_error:.3f} on average; C = {self.C:g}",
            f"{'':20} labels precision recall     f1",
        ]
        for name, scores in self.by_class.items():
            lines.append(
                f"{name:20} {scores['labels']:6,} {scores['precision']:9.3f} "
                f"{scores['recall']:6.3f} {scores['f1']:6.3f}"
            )
        mistakes = [
            (count, truth, named)
            for truth, row in self.confusion.items()
            for named, count in row.items()
            if named != truth
        ]
        for count, truth, named in sorted(mistakes, key=lambda mistake: -mistake[0])[:5]:
            lines.append(f"{count:,} of {truth!r} were named {named!r}")
        for row in [row for row in self.doubtful if row["predicted"] != row["label"]][:5]:
            lines.append(
                f"look again: {row['shard']}: {row['key']} is labelled {row['label']!r}, which has "
                f"a probability of {row['probability']:.3f}; {row['predicted']!r} is likelier"
            )
        return "\n".join(lines)


def scores_of(
    fitted: Fitted, labels: np.ndarray, classes: list[str], names: list[tuple[str, str]]
) -> dict[str, Any]:
    """What `ProbeReport` has of cross-validation.

    Parameters
    ----------
    fitted : Fitted
    labels : numpy.ndarray of int, shape (n,)
    classes : list of str
    names : list of (str, str)
        Shard and key of each row.
    """
    rows = fitted.rows
    if not len(rows):
        return {}
    from scipy.stats import binomtest
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    truth, best = labels[rows], fitted.probabilities.argmax(axis=1)
    numbers = range(len(classes))
    n_right = int((truth == best).sum())
    interval = binomtest(n_right, len(rows)).proportion_ci(method="wilson")
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, best, labels=numbers, zero_division=0.0
    )
    matrix = confusion_matrix(truth, best, labels=numbers)
    label_probability = fitted.probabilities[np.arange(len(rows)), truth]
    calibration = _calibration(fitted.probabilities.max(axis=1), truth == best)
    return {
        "accuracy": n_right / len(rows),
        "accuracy_interval": (float(interval.low), float(interval.high)),
        "majority": float(np.bincount(truth).max() / len(rows)),
        "by_class": {
            name: {
                "labels": int(support[number]),
                "precision": float(precision[number]),
                "recall": float(recall[number]),
                "f1": float(f1[number]),
            }
            for number, name in enumerate(classes)
        },
        "confusion": {
            name: {classes[at]: int(matrix[row, at]) for at in np.flatnonzero(matrix[row])}
            for row, name in enumerate(classes)
        },
        "calibration": calibration,
        "calibration_error": sum(
            bin_["rows"] * abs(bin_["probability"] - bin_["accuracy"]) for bin_ in calibration
        )
        / len(rows),
        "doubtful": [
            {
                "shard": names[rows[place]][0],
                "key": names[rows[place]][1],
                "label": classes[truth[place]],
                "probability": float(label_probability[place]),
                "predicted": classes[best[place]],
            }
            for place in np.argsort(label_probability, kind="stable")[:_DOUBTFUL]
        ],
    }


def _calibration(probabilities: np.ndarray, is_right: np.ndarray) -> list[dict[str, float]]:
    """Mean probability and accuracy by parts of the probabilities' range, those with rows."""
    part = np.minimum((probabilities * _BINS).astype(int), _BINS - 1)
    return [
        {
            "rows": int(in_part.sum()),
            "probability": float(probabilities[in_part].mean()),
            "accuracy": float(is_right[in_part].mean()),
        }
        for in_part in (part == number for number in range(_BINS))
        if in_part.any()
    ]
