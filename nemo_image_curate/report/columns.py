"""Each column of numbers or few values: how it is distributed, and pictures along it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from nemo_image_curate import frames
from nemo_image_curate.dataset.looking.distributions import Distribution, distributions
from nemo_image_curate.dataset.sources import ERROR_COLUMN, SHARD_COLUMN
from nemo_image_curate.report.album import Album, Rows
from nemo_image_curate.report.column_view import for_script, render_column, summary
from nemo_image_curate.report.settings import Settings
from nemo_image_curate.report.strips import strips_of
from nemo_image_curate.report.thresholds import Threshold, is_decided, thresholds_of

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

TITLE = "Columns"
# Steps of a threshold that a reader drags; drawn are bars of several.
_STEPS = 320
# Columns that say where a row's bytes are, or name other rows: sections of their own show them.
_OF_OTHER_ROWS = (SHARD_COLUMN, "duplicate_of", "duplicate_of_shard", "leak_of", "leak_of_shard")
# Columns with a section of their own; of more there is a line in the summary.
_MOST_SECTIONS = 120


@dataclass(frozen=True)
class Column:
    """What is shown of a column.

    Attributes
    ----------
    distribution : Distribution
    kind : pyarrow.DataType
    threshold : Threshold or None
        Of numbers.
    strips : dict of str to Rows
        Pictures by what they are: below, above, worst, best.
    """

    distribution: Distribution
    kind: pa.DataType
    threshold: Threshold | None
    strips: dict[str, Rows]


@dataclass(frozen=True)
class Columns:
    """The columns that are shown, and those of which there is only a line in the summary.

    Attributes
    ----------
    columns : list of Column
    left_out : list of Distribution
        Of these there would be a section, if there were not so many.
    unshown : list of str
        What was asked for and is not there, and why.
    others : list of Distribution
        Of these there is no section.
    pictures : int
        Of each strip.
    """

    columns: list[Column]
    left_out: list[Distribution]
    unshown: list[str]
    others: list[Distribution]
    pictures: int


def gather(dataset: ImageTextPairDataset, settings: Settings) -> Columns:
    """Distributions in one pass over the rows, pictures in another."""
    by_column = distributions(dataset, bins=_STEPS, progress=settings.progress)
    schema = frames.schema(dataset.metadata)
    # Hashes, of 64 bits without a sign, are numbers that mean nothing.
    hashes = {field.name for field in schema if pa.types.is_uint64(field.type)}
    asked = {*settings.columns, *settings.thresholds}
    without = {
        name
        for name, dist in by_column.items()
        if dist.kind == "other" or (_is_one_by_one(dist) and name not in asked)
    } | hashes
    chosen = [
        dist
        for dist in by_column.values()
        if dist.column not in without
        and dist.column not in (dataset.id_col, ERROR_COLUMN, *_OF_OTHER_ROWS)
        and (not settings.columns or dist.column in asked)
    ]
    thresholds = thresholds_of(dataset, settings, chosen)
    # What one decides by comes first, then what has a histogram.
    chosen.sort(
        key=lambda dist: (not is_decided(thresholds.get(dist.column)), dist.kind != "number")
    )
    chosen, left_out = chosen[:_MOST_SECTIONS], chosen[_MOST_SECTIONS:]
    cut = [dist for dist in chosen if dist.column in thresholds]
    strips, n = strips_of(dataset, settings, cut, thresholds)
    return Columns(
        [
            Column(
                dist,
                schema.field(dist.column).type,
                thresholds.get(dist.column),
                strips.get(dist.column, {}),
            )
            for dist in chosen
        ],
        left_out,
        _unshown(settings, chosen + left_out, thresholds),
        [by_column[name] for name in by_column if name in without and name != dataset.id_col],
        n,
    )


def _unshown(
    settings: Settings, chosen: list[Distribution], thresholds: Mapping[str, Threshold]
) -> list[str]:
    """What was asked for and is not there, and why."""
    names = {dist.column for dist in chosen}
    reasons = [
        f"{name} has no section: it holds neither numbers nor few different values"
        for name in settings.columns
        if name not in names
    ]
    return reasons + [
        f"{name} has no threshold: all its values are the same, or no expression can name it"
        for name in settings.thresholds
        if name not in thresholds
    ]


def _is_one_by_one(dist: Distribution) -> bool:
    """Whether a column has many values, and each once, such as names of files."""
    return dist.kind == "category" and dist.others > 0 and dist.categories[0][1] == 1


def pictures(data: Columns) -> Iterable[Rows]:
    """Those of all strips."""
    for column in data.columns:
        yield from column.strips.values()


def render(data: Columns, album: Album) -> str:
    """The section as HTML."""
    sections = "".join(render_column(column, album) for column in data.columns)
    return summary(data) + sections + for_script(data, album)
