"""The pictures of columns: next to thresholds, at both ends, along the axis; no more than fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from nemo_image_curate.dataset.looking.choices import NEXT_TO, How, View, choose
from nemo_image_curate.dataset.looking.distributions import Distribution
from nemo_image_curate.report.album import MOST_TOLD, Rows, plain_columns
from nemo_image_curate.report.along import along
from nemo_image_curate.report.settings import Settings
from nemo_image_curate.report.thresholds import Threshold, parts_two_values

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

# Pictures along the axis of a column, at most: evenly spaced, one at each place. There are fewer of
# them where many columns have strips, which come first.
_ALONG = 24
_MOST_PICTURES = 1200
# Strips with a threshold: so many, and of no fewer pictures where there are too many for the page.
_STRIPS: tuple[How, ...] = ("below", "above", "worst", "best")
_FEWEST = 4
# The part of the page that strips take at most, and the bytes of a picture in it: of itself, and of
# each value that is told of it (measured on reports of 30 and of 300 columns).
_PART, _BYTES, _BYTES_PER_VALUE = 0.75, 2000, 64


def strips_of(
    dataset: ImageTextPairDataset,
    settings: Settings,
    cut: list[Distribution],
    thresholds: Mapping[str, Threshold],
) -> tuple[dict[str, dict[str, Rows]], int]:
    """The strips of columns, by column and what they are, and how many pictures each has.

    Parameters
    ----------
    dataset : ImageTextPairDataset
    settings : Settings
    cut : list of Distribution
        Of columns with a threshold; those that come first get pictures first.
    thresholds : mapping of str to Threshold
    """
    pictured, n = _room(dataset, settings, cut)
    strips = _strips(
        dataset, settings, {dist.column: thresholds[dist.column] for dist in pictured}, n
    )
    for column, rows in _along(dataset, settings, pictured).items():
        strips[column]["along"] = rows
    return strips, n


def _room(
    dataset: ImageTextPairDataset, settings: Settings, cut: list[Distribution]
) -> tuple[list[Distribution], int]:
    """The columns that there is room for strips of, the first of those given, and their pictures.

    All are to have strips; where that is too much, first strips are shorter, then they are fewer.
    """
    n_columns = min(len(plain_columns(dataset)), MOST_TOLD)
    room = int(_PART * settings.byte_budget / (_BYTES + _BYTES_PER_VALUE * n_columns))
    each = room // (len(_STRIPS) * max(1, len(cut)))
    n = min(settings.pictures, max(each, _FEWEST))
    return cut[: max(1, room // (len(_STRIPS) * n))], n


def _strips(
    dataset: ImageTextPairDataset,
    settings: Settings,
    thresholds: dict[str, Threshold],
    n: int,
) -> dict[str, dict[str, Rows]]:
    """Rows next to thresholds and at both ends, by column and what they are."""
    views = [
        View(how, column, threshold.limit.value if how in NEXT_TO else None)
        for column, threshold in thresholds.items()
        for how in _STRIPS
        if how in NEXT_TO or not parts_two_values(threshold)
    ]
    if not views:
        return {}
    strips: dict[str, dict[str, Rows]] = {}
    columns = plain_columns(dataset)
    for choice in choose(dataset, views, n, columns, progress=settings.progress):
        strips.setdefault(str(choice.view.by), {})[choice.view.how] = Rows(choice.rows, dataset)
    return strips


def _along(
    dataset: ImageTextPairDataset, settings: Settings, pictured: list[Distribution]
) -> dict[str, Rows]:
    """A row for each of some parts of a column's axis, where there is room for them."""
    room = _MOST_PICTURES // max(1, len(pictured)) - len(_STRIPS) * settings.pictures
    n = min(_ALONG, room)
    if n < 1 or not pictured:
        return {}
    edges = {dist.column: _parts(dist, n) for dist in pictured}
    tables = along(dataset, edges, plain_columns(dataset), settings.seed, settings.progress)
    return {column: Rows(rows, dataset) for column, rows in tables.items()}


def _parts(dist: Distribution, n: int) -> np.ndarray:
    """Edges of so many parts of a column's axis, or of fewer."""
    places = np.linspace(0, len(dist.edges) - 1, min(len(dist.edges), n + 1)).round().astype(int)
    edges: np.ndarray = dist.edges[places]
    return edges
