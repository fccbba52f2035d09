"""`compare_with_random`: what a choice has that a random one of the same size has not."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from nemo_image_curate import frames
from nemo_image_curate.dataset import partitions
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.dataset.threshold import Share, find_threshold
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.selection.balanced import cluster_levels
from nemo_image_curate.selection.totals import (
    SAMPLES,
    SCORE,
    Hash,
    Sample,
    Totals,
    count_chosen,
    look,
)

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

# Columns that are looked at when none are named, where they are there.
_CLUSTER = "cluster"
_CONCEPTS = "concepts"
# Partitions whose results the client holds at once.
_WAVE = 256
# Ayed and Hayou, "Data pruning and neural scaling laws: fundamental limitations of score-based
# algorithms", 2023: arXiv 2302.06960.
_STRONG_SHARE = 0.3
_WARNING = (
    "Below about 30 % kept, a random choice is a strong baseline, and choices by a score have "
    "failed to beat it (arXiv 2302.06960): train on both."
)


@dataclass(frozen=True)
class Comparison:
    """A choice beside a random one of the same size, and all rows; prints itself as a table.

    Attributes
    ----------
    selected, random, all : Sample
    seed : int
        Of the random choice.
    clusters, concepts : str or None
        The columns that were looked at.
    """

    selected: Sample
    random: Sample
    all: Sample
    seed: int
    clusters: str | None
    concepts: str | None

    @property
    def kept(self) -> float:
        """The size of the choice as a share of all rows."""
        return self.selected.samples / self.all.samples if self.all.samples else 0.0

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {**dataclasses.asdict(self), "kept": self.kept}

    def __str__(self) -> str:
        samples = (self.selected, self.random, self.all)
        lines: list[tuple[str, Sequence[str]]] = [
            ("", SAMPLES),
            ("samples", [f"{sample.samples:,}" for sample in samples]),
        ]
        lines += [
            (f"mean {name}", [_number(sample.means[name]) for sample in samples])
            for name in self.selected.means
        ]
        if self.clusters:
            lines += [
                (f"evenness of {self.clusters}", [_number(sample.evenness) for sample in samples]),
                (f"clusters in {self.clusters}", [f"{sample.clusters:,}" for sample in samples]),
            ]
        if self.concepts:
            lines.append((self.concepts, [f"{sample.concepts:,}" for sample in samples]))
        width = max(len(name) for name, _ in lines)
        table = [name.ljust(width) + "".join(f"{cell:>12}" for cell in row) for name, row in lines]
        note = f"{self.kept:.1%} kept; random: by a hash of shard and key, seed {self.seed}."
        return "\n".join([*table, note, _WARNING])


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def compare_with_random(
    dataset: ImageTextPairDataset,
    selected: str = "selected",
    columns: Sequence[str] | None = None,
    clusters: str | None = None,
    concepts: str | None = None,
    seed: int = 0,
    multiplicity: str | None = None,
    progress: bool | None = None,
) -> Comparison:
    """What a choice of rows has, what a random one of the same size has, and what all rows have.

    Parameters
    ----------
    dataset : ImageTextPairDataset
        With all rows, chosen or not. What is not computed yet is computed for this alone: save it
        before.
    selected : str, default "selected"
        A bool column; null is not selected.
    columns : sequence of str, optional
        Of numbers, whose means are compared. Default: all columns of floats.
    clusters : str, optional
        A column of the cluster that each row is in. Default: the last of ``cluster_1``,
        ``cluster_2``, ..., or ``cluster``, where there is one.
    concepts : str, optional
        A column of lists. Default: ``concepts``, where there is one.
    seed : int, default 0
        Of the random choice: the rows whose shard and key have the lowest hashes.
    multiplicity : str, optional
        A column that says how often each row is taken, in place of `selected`. The random choice
        takes each row as often as another one, and some of them once more.
    progress : bool, optional
        Default: on a terminal.

    Returns
    -------
    Comparison

    Raises
    ------
    ColumnNotFoundError
    ConfigError
        When a column is not of its kind.

    Notes
    -----
    The rows are read three times: how many are chosen, the threshold of the hashes, and the
    columns. Memory: what 256 partitions have of clusters and concepts.

    Examples
    --------
    >>> compared = compare_with_random(TopFraction("clip_score", 0.3)(ds))
    """
    how_often = multiplicity or selected
    schema = frames.schema(dataset.metadata)
    names = list(dataset.metadata.columns)
    frames.require_columns(dataset.metadata, how_often, *(columns or ()))
    frames.require_columns(dataset.metadata, *filter(None, (clusters, concepts)))
    clusters = clusters or _coarsest(dataset)
    concepts = concepts or (_CONCEPTS if _CONCEPTS in names else None)
    if columns is None:
        columns = [field.name for field in schema if pa.types.is_floating(field.type)]
        columns = [name for name in columns if name not in (how_often, clusters)]
    _check(schema, how_often, multiplicity is not None, columns, concepts)

    wanted = [dataset.id_col, SHARD_COLUMN, how_often, clusters, concepts, *columns]
    frame = dataset.metadata[[*dict.fromkeys(name for name in wanted if name)]]
    counts = partitions.run(
        frame[[how_often]], count_chosen, [(how_often,)] * frame.npartitions, what="count"
    )
    rows, chosen = (sum(column) for column in zip(*counts, strict=True))
    turns, once_more = divmod(chosen, rows) if rows else (0, 0)
    bound = -1.0
    if once_more:
        scored = dataset.replace(frame[[dataset.id_col, SHARD_COLUMN]]).with_columns(
            Hash(dataset.id_col, seed), {SCORE: pa.float64()}
        )
        share = Share(count=once_more)
        threshold = find_threshold(scored.metadata, SCORE, share, largest=False, progress=progress)
        bound = float(threshold.value or 0.0)

    asked = (dataset.id_col, how_often, seed, turns, bound, tuple(columns), clusters, concepts)
    totals = Totals.none(len(columns))
    for start in range(0, frame.npartitions, _WAVE):
        numbers = range(start, min(start + _WAVE, frame.npartitions))
        parts = partitions.run(
            frame, look, [asked] * len(numbers), what="compare", numbers=numbers, progress=progress
        )
        totals = Totals.sum([totals, *parts])
    samples = {name: totals.sample(name, columns, clusters, concepts) for name in SAMPLES}
    return Comparison(**samples, seed=seed, clusters=clusters, concepts=concepts)


def _coarsest(dataset: ImageTextPairDataset) -> str | None:
    """The column of the largest clusters, if there is one; they are balanced first."""
    if levels := cluster_levels(dataset):
        return levels[-1]
    return _CLUSTER if _CLUSTER in dataset.metadata.columns else None


def _check(
    schema: pa.Schema,
    how_often: str,
    is_multiplicity: bool,
    columns: Sequence[str],
    concepts: str | None,
) -> None:
    def refuse(name: str, expected: str) -> None:
        raise ConfigError(f"column {name!r} is {schema.field(name).type}, not {expected}.")

    kind = schema.field(how_often).type
    if is_multiplicity and not _is_number(kind):
        refuse(how_often, "numbers: how often a row is taken")
    if not is_multiplicity and not pa.types.is_boolean(kind):
        refuse(how_often, "bool; give multiplicity= for a column of how often a row is taken")
    for name in columns:
        if not _is_number(schema.field(name).type):
            refuse(name, "numbers")
    if concepts and not pa.types.is_list(schema.field(concepts).type):
        refuse(concepts, "lists")


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
