"""How `LinearProbe.fit` makes the file of a probe."""

from __future__ import annotations

import logging
import os
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_image_curate import storage
from nemo_image_curate.classifiers.base import origin
from nemo_image_curate.classifiers.label_tables import Labels, is_missing
from nemo_image_curate.classifiers.labelled import KEPT, LabelledRows, labelled_rows, listed
from nemo_image_curate.classifiers.logistic import MAX_FOLDS, Fitted, fit
from nemo_image_curate.classifiers.probe_file import OTHER_COLUMNS, ProbeFile
from nemo_image_curate.classifiers.probe_report import ProbeReport, scores_of
from nemo_image_curate.classifiers.prompts import label_columns
from nemo_image_curate.errors import ConfigError, DatasetError, EncoderMismatchError, require
from nemo_image_curate.outputs import check_output
from nemo_image_curate.version import __version__

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

logger = logging.getLogger(__name__)

# As many as scikit-learn takes.
_SEEDS = 2**32


def train(
    dataset: ImageTextPairDataset,
    labels: Labels,
    path: str | os.PathLike[str],
    pred_column: str,
    embedding_column: str,
    C: float | str,
    seed: int,
    progress: bool | None,
) -> str:
    """Train a probe as `LinearProbe.fit` says, and write it.

    Returns
    -------
    str
        Where it is.
    """
    require("sklearn", "probe", "LinearProbe.fit")
    if C != "auto" and (isinstance(C, (str, bool)) or not 0 < C < np.inf):
        raise ConfigError(f"C={C!r} should be 'auto' or a number over 0.")
    if not 0 <= seed < _SEEDS:
        raise ConfigError(f"seed={seed} should be 0 or more, and below 2**32.")
    if pred_column in OTHER_COLUMNS:
        raise ConfigError(
            f"pred_column={pred_column!r} is a column of every dataset; name another."
        )
    location = storage.local_path(path, "path", "workers read it")
    if not location.endswith(".safetensors"):
        raise ConfigError(f"path={os.fspath(path)!r} should end in .safetensors.")
    check_output(location, is_folder=False)
    record = dataset.provenance.get(embedding_column, {})
    if "conflict" in record:
        raise EncoderMismatchError(
            f"the embeddings are {origin(record)}. Embed all with one model first."
        )
    rows = labelled_rows(dataset, labels, [embedding_column], read_label, progress)
    vectors, row_numbers = rows.unit_vectors(embedding_column)
    named = [rows.labels[row] for row in row_numbers]
    is_bool = all(isinstance(label, bool) for label in named)
    classes = ["False", "True"] if is_bool else sorted(set(map(str, named)))
    if len(set(map(str, named))) < 2:
        raise DatasetError(_too_few(rows, named))
    label_columns(pred_column, classes)
    number_of = {name: number for number, name in enumerate(classes)}
    numbers = np.array([number_of[str(label)] for label in named])
    fitted = fit(vectors, numbers, len(classes), None if C == "auto" else float(C), seed)
    report = _report(rows, row_numbers, classes, numbers, fitted)
    recipe = {
        "version": __version__,
        "pred_column": pred_column,
        "encoder": record.get("encoder"),
        "encoder_weights_sha256": record.get("weights_sha256"),
        "classes": classes,
        "is_bool": is_bool,
        "seed": seed,
        "report": report.data(),
    }
    ProbeFile(fitted.weight, fitted.bias, recipe).write(location)
    return location


def read_label(value: Any) -> bool | str | None:
    """The label that a value of a table is; None for none."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, str):
        text = value.strip()
        # What a CSV file has of a bool.
        return {"true": True, "false": False}.get(text.lower(), text or None)
    if isinstance(value, (int, np.integer)):
        return str(value)
    if is_missing(value):
        return None
    raise DatasetError(
        f"label {value!r} is neither a name, a whole number nor a bool: a probe tells classes "
        "apart, of which each sample has one."
    )


def _report(
    rows: LabelledRows,
    row_numbers: np.ndarray,
    classes: list[str],
    numbers: np.ndarray,
    fitted: Fitted,
) -> ProbeReport:
    names = rows.row_names()
    used = set(row_numbers.tolist())
    without = [f"{shard}: {key}" for row, (shard, key) in enumerate(names) if row not in used]
    counts = np.bincount(numbers, minlength=len(classes))
    few = [name for name, count in zip(classes, counts, strict=True) if count < MAX_FOLDS]
    if few:
        logger.warning("fewer than %d labels: %s; scores say little", MAX_FOLDS, listed(few))
    if rows.not_in_dataset:
        absent = listed(rows.names, rows.not_in_dataset)
        logger.warning("%d labels are of no sample of the dataset: %s", rows.not_in_dataset, absent)
    if without:
        logger.warning("%d labelled samples have no embedding: %s", len(without), listed(without))
    return ProbeReport(
        classes=classes,
        counts={name: int(count) for name, count in zip(classes, counts, strict=True)},
        given=rows.given,
        empty=rows.empty,
        not_in_dataset=rows.not_in_dataset,
        without_embedding=len(without),
        names={"not in the dataset": rows.names, "without embedding": without[:KEPT]},
        few=few,
        C=fitted.C,
        losses={f"{penalty:g}": loss for penalty, loss in fitted.losses.items()},
        folds=fitted.folds,
        rows=len(fitted.rows),
        **scores_of(fitted, numbers, classes, [names[row] for row in row_numbers]),
    )


def _too_few(rows: LabelledRows, named: list[Any]) -> str:
    counts = Counter(map(str, named))
    there = ", ".join(f"{count:,} {name!r}" for name, count in counts.items()) or "none"
    missing = f", {rows.not_in_dataset:,} labels are of no sample of it" * bool(rows.names)
    return (
        f"a probe tells two classes or more apart; of {rows.given:,} labels those of samples with "
        f"an embedding are: {there}{missing}."
    )
