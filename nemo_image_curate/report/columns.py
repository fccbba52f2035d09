"""Each column of numbers or few values: how it is distributed, and pictures along it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from nemo_image_curate import frames
from nemo_image_curate.dataset.looking.choices import Choice, View, choose
from nemo_image_curate.dataset.looking.distributions import Distribution, distributions
from nemo_image_curate.dataset.sources import ERROR_COLUMN, SHARD_COLUMN
from nemo_image_curate.report.album import Album, Rows, plain_columns
from nemo_image_curate.report.column_view import for_script, render_column, summary
from nemo_image_curate.report.funnel import funnel
from nemo_image_curate.report.limits import Limit, limits
from nemo_image_curate.report.settings import Settings

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

TITLE = "Columns"
# Steps of a threshold that a reader drags; drawn are bars of several.
_STEPS = 320
# Columns that say where a row's bytes are, or name other rows: sections of their own show them.
_OF_OTHER_ROWS = (SHARD_COLUMN, "duplicate_of", "duplicate_of_shard", "leak_of", "leak_of_shard")
_MEDIAN = "about the median"
# Pictures along the axis of a column, at most: evenly spaced, one at each place. There are fewer of
# them where many columns have strips, which come first.
_ALONG = 24
_MOST_PICTURES = 1200


@dataclass(frozen=True)
class Threshold:
    """Where a column is cut.

    Attributes
    ----------
    limit : Limit
    kept : int
        Rows on its side.
    origin : str
        Why it is there.
    others : list of Limit
        Further ones that conditions draw.
    """

    limit: Limit
    kept: int
    origin: str
    others: list[Limit]


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
    """The columns that are shown, and those of which there is only the number of nulls."""

    columns: list[Column]
    others: list[Distribution]


def gather(dataset: ImageTextPairDataset, settings: Settings) -> Columns:
    """Distributions in one pass over the rows, pictures in another."""
    found = distributions(dataset, bins=_STEPS, progress=settings.progress)
    schema = frames.schema(dataset.metadata)
    shown = [
        one
        for one in found.values()
        if one.kind != "other"
        and one.column not in (dataset.id_col, ERROR_COLUMN, *_OF_OTHER_ROWS)
        and (not settings.columns or one.column in settings.columns)
    ]
    thresholds = _thresholds(dataset, settings, shown)
    # What one decides by comes first.
    shown.sort(key=lambda one: not _is_decided(thresholds.get(one.column)))
    views = [
        view
        for column, threshold in thresholds.items()
        for view in (
            View("below", column, threshold.limit.value),
            View("above", column, threshold.limit.value),
            View("worst", column),
            View("best", column),
        )
    ]
    strips = _strips(dataset, settings, views)
    room = _MOST_PICTURES // max(1, len(thresholds)) - 4 * settings.pictures
    n_along = min(_ALONG, max(0, room))
    along = [view for one in shown if one.column in thresholds for view in _along(one, n_along)]
    for column, rows in _one_each(dataset, settings, along).items():
        strips[column]["along"] = rows
    return Columns(
        [
            Column(
                one,
                schema.field(one.column).type,
                thresholds.get(one.column),
                strips.get(one.column, {}),
            )
            for one in shown
        ],
        [one for one in found.values() if one.kind == "other" and one.column != dataset.id_col],
    )


def _strips(
    dataset: ImageTextPairDataset, settings: Settings, views: list[View]
) -> dict[str, dict[str, Rows]]:
    """The rows of views, by column and what they are."""
    strips: dict[str, dict[str, Rows]] = {}
    for choice in _chosen(dataset, settings, views, settings.pictures):
        strips.setdefault(str(choice.view.by), {})[choice.view.how] = Rows(choice.rows, dataset)
    return strips


def _along(one: Distribution, n: int) -> list[View]:
    """A view at each of some places along a column's axis."""
    edges = one.edges[:-1]
    places = np.linspace(0, len(edges) - 1, min(len(edges), n)).round().astype(int)
    return [View("above", one.column, float(edges[place])) for place in places]


def _one_each(
    dataset: ImageTextPairDataset, settings: Settings, views: list[View]
) -> dict[str, Rows]:
    """A row for each view, by column; where there is none between two places, one for both."""
    parts: dict[str, list[pa.Table]] = {}
    for choice in _chosen(dataset, settings, views, 1):
        rows = parts.setdefault(str(choice.view.by), [])
        if not rows or choice.rows != rows[-1]:
            rows.append(choice.rows)
    return {column: Rows(pa.concat_tables(tables), dataset) for column, tables in parts.items()}


def _chosen(
    dataset: ImageTextPairDataset, settings: Settings, views: list[View], n: int
) -> list[Choice]:
    if not views:
        return []
    return choose(dataset, views, n, plain_columns(dataset), progress=settings.progress)


def _thresholds(
    dataset: ImageTextPairDataset, settings: Settings, shown: list[Distribution]
) -> dict[str, Threshold]:
    """The threshold of each column of numbers, with the rows on its side.

    Bars tell how many are on either side of an edge, such as the median; other values take a pass.
    """
    drawn = limits(settings.conditions)
    cuts = {
        one.column: _cut(one, settings.thresholds.get(one.column), drawn.get(one.column, []))
        for one in shown
        if one.kind == "number" and one.low != one.high
    }
    asked = [column for column, (origin, _) in cuts.items() if origin != _MEDIAN]
    steps = {}
    if asked:
        conditions = [cuts[column][1][0].expression(column) for column in asked]
        counted = funnel(dataset, conditions, settings.progress)
        steps = dict(zip(asked, counted.steps, strict=True))
    return {
        one.column: Threshold(
            first,
            one.rows - steps[one.column].drops if one.column in steps else _from(one, first),
            origin,
            others,
        )
        for one in shown
        if one.column in cuts
        for origin, (first, *others) in [cuts[one.column]]
    }


def _from(one: Distribution, limit: Limit) -> int:
    """The values from an edge on; those that are infinite are in no bar."""
    return int(one.counts[np.searchsorted(one.edges, limit.value) :].sum())


def _is_decided(threshold: Threshold | None) -> bool:
    return threshold is not None and threshold.origin != _MEDIAN


def _cut(one: Distribution, given: float | None, drawn: list[Limit]) -> tuple[str, list[Limit]]:
    """Why a column is cut where, and the limits, that which is looked at first."""
    if given is not None:
        operator = drawn[0].operator if drawn else ">="
        return "as asked for", [Limit(operator, _plain(given)), *drawn]
    if drawn:
        return "from the conditions", drawn
    return _MEDIAN, [Limit(">=", _median(one))]


def _median(one: Distribution) -> float:
    """The edge next to where half of the values are on either side."""
    up_to = np.concatenate([[0], np.cumsum(one.counts)])
    return _plain(float(one.edges[int(np.abs(up_to - up_to[-1] / 2).argmin())]))


def _plain(value: float) -> float:
    return int(value) if float(value).is_integer() else value


def pictures(data: Columns) -> Iterable[Rows]:
    """Those of all strips."""
    for column in data.columns:
        yield from column.strips.values()


def render(data: Columns, album: Album) -> str:
    """The section as HTML."""
    shown = "".join(render_column(one, album) for one in data.columns)
    return summary(data) + shown + for_script(data, album)
