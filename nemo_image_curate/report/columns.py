"""Each column of numbers or few values: how it is distributed, and pictures along it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from nemo_image_curate.dataset.looking.choices import View, choose
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
    threshold : Threshold or None
        Of numbers.
    strips : dict of str to Rows
        Pictures by what they are: below, above, worst, best.
    """

    distribution: Distribution
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
    shown = [
        one
        for one in found.values()
        if one.kind != "other"
        and one.column not in (dataset.id_col, SHARD_COLUMN, ERROR_COLUMN)
        and (not settings.columns or one.column in settings.columns)
    ]
    thresholds = _thresholds(dataset, settings, shown)
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
    strips: dict[str, dict[str, Rows]] = {}
    chosen = (
        choose(dataset, views, settings.pictures, plain_columns(dataset), progress=settings.progress)
        if views
        else []
    )
    for choice in chosen:
        of_column = strips.setdefault(str(choice.view.by), {})
        of_column[choice.view.how] = Rows(choice.rows, dataset)
    return Columns(
        [Column(one, thresholds.get(one.column), strips.get(one.column, {})) for one in shown],
        [one for one in found.values() if one.kind == "other" and one.column != dataset.id_col],
    )


def _thresholds(
    dataset: ImageTextPairDataset, settings: Settings, shown: list[Distribution]
) -> dict[str, Threshold]:
    """The threshold of each column of numbers: given, a condition's, or the median."""
    drawn = limits(settings.conditions)
    chosen: dict[str, tuple[Limit, str, list[Limit]]] = {}
    for one in shown:
        if one.kind != "number" or not len(one.counts):
            continue
        own, (first, *others) = one.column in settings.thresholds, drawn.get(one.column) or [None]
        if own:
            value = settings.thresholds[one.column]
            operator = first.operator if first else ">="
            chosen[one.column] = Limit(operator, value), "as asked for", others
        elif first is not None:
            chosen[one.column] = first, "from the conditions", others
        else:
            chosen[one.column] = Limit(">=", _median(one)), "about the median", []
    conditions = [limit.expression(column) for column, (limit, _, _) in chosen.items()]
    steps = funnel(dataset, conditions, settings.progress).steps if conditions else []
    n_rows = shown[0].rows if shown else 0
    return {
        column: Threshold(limit, n_rows - step.drops, origin, others)
        for (column, (limit, origin, others)), step in zip(chosen.items(), steps, strict=True)
    }


def _median(one: Distribution) -> float:
    """The edge next to where half of the values are on either side."""
    up_to = np.concatenate([[0], np.cumsum(one.counts)])
    return float(one.edges[int(np.abs(up_to - up_to[-1] / 2).argmin())])


def pictures(data: Columns) -> Iterable[Rows]:
    """Those of all strips."""
    for column in data.columns:
        yield from column.strips.values()


def render(data: Columns, album: Album) -> str:
    """The section as HTML."""
    shown = "".join(render_column(one, album) for one in data.columns)
    return summary(data) + shown + for_script(data, album)
