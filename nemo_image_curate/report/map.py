"""A map of embeddings: a sample on its principal plane, coloured by columns, with a lasso."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from nemo_image_curate import html
from nemo_image_curate.dataset.looking.points import Points, points
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.errors import DatasetError
from nemo_image_curate.expressions.names import quoted_name
from nemo_image_curate.report.album import Album, Rows, plain_columns
from nemo_image_curate.report.colours import Colouring, colourings
from nemo_image_curate.report.embeddings import embedding_column
from nemo_image_curate.report.settings import Settings

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

TITLE = "Map"
# Points, and those of them that have a picture for the lasso.
_POINTS, _PICTURES = 3000, 240
# Of the drawing; its height follows from the points, within bounds.
_WIDTH, _LEAST_HEIGHT, _MARGIN = 1000, 350, 20


@dataclass(frozen=True)
class Map:
    """What the section shows.

    Attributes
    ----------
    points : Points
    column : str
        Of embeddings.
    colourings : list of Colouring
        The one that is shown first comes first.
    """

    dataset: ImageTextPairDataset
    points: Points
    column: str
    colourings: list[Colouring]
    seed: int

    @property
    def pictured(self) -> pa.Table:
        """The rows that have a picture: the first of the sample, which are as random as all."""
        return self.points.sample.rows.slice(0, _PICTURES)


def gather(dataset: ImageTextPairDataset, settings: Settings) -> Map | str | None:
    """Choose the sample, and how to colour it; or why there is none."""
    column = embedding_column(dataset)
    if column is None:
        return None
    try:
        cloud = points(
            dataset, column, _POINTS, plain_columns(dataset), settings.seed, settings.progress
        )
    except DatasetError as error:
        return str(error)
    rows = cloud.sample.rows.drop_columns([dataset.id_col, SHARD_COLUMN])
    return Map(dataset, cloud, column, colourings(rows), settings.seed)


def pictures(data: Map | str) -> Iterable[Rows]:
    """Those of the first points."""
    if not isinstance(data, str):
        yield Rows(data.pictured, data.dataset)


def render(data: Map | str, album: Album) -> str:
    """The section as HTML."""
    if isinstance(data, str):
        return f"<p class=note>{html.escape(data)}</p>"
    places, height = _places(data.points.xy)
    sample, plane = data.points.sample, data.points.plane
    first, second = (f"{100 * part:.1f} %" for part in plane.explained)
    lacking = f"; {sample.without:,} more have no embedding" if sample.without else ""
    text = (
        f"{len(places):,} of {sample.of:,} rows, chosen at random (seed {data.seed}){lacking}. "
        f"Of <code>{html.escape(data.column)}</code> the two principal components, which hold "
        f"{first} and {second} of the variance: what lies apart here is apart, what lies together "
        "may not be alike."
    )
    facts = {
        "column": data.dataset.id_col,
        "name": quoted_name(data.dataset.id_col),
        "keys": sample.rows[data.dataset.id_col].to_pylist(),
        "places": places.tolist(),
        "colourings": [choice.plain() for choice in data.colourings],
    }
    cells = "".join(
        album.cell(row[data.dataset.id_col], row[SHARD_COLUMN], "")
        for row in data.pictured.to_pylist()
    )
    colouring = data.colourings[0] if data.colourings else None
    return (
        f"<p>{text}</p><div class=map>{_drawing(places, height, colouring)}"
        f"{colouring.legend() if colouring else ''}{html.data('map-data', facts)}"
        f'<div class="strip pictured" hidden>{cells}</div></div>'
    )


def _places(xy: np.ndarray) -> tuple[np.ndarray, int]:
    """Points in units of the drawing, of one scale in both directions, and its height."""
    low, span = xy.min(axis=0), np.ptp(xy, axis=0)
    scale = (_WIDTH - 2 * _MARGIN) / max(float(span.max()), 1e-9)
    height = max(_LEAST_HEIGHT, round(float(span[1]) * scale) + 2 * _MARGIN)
    margins = (np.array([_WIDTH, height]) - span * scale) / 2
    places = np.rint((xy - low) * scale + margins).astype(int)
    # Up is more, unlike in SVG.
    places[:, 1] = height - places[:, 1]
    return places, height


def _drawing(places: np.ndarray, height: int, colouring: Colouring | None) -> str:
    """All points as SVG: those of one colour are one path of dots."""
    classes = np.zeros(len(places), int) if colouring is None else colouring.classes
    paths = []
    for number in np.unique(classes):
        dots = "".join(f"M{x} {y}h0" for x, y in places[classes == number])
        paths.append(f'<path class="dots colour-{number}" d="{dots}"/>')
    by = "" if colouring is None else f", coloured by {colouring.column}"
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role=img aria-label="Map of {len(places):,} rows'
        f'{html.escape(by)}">{"".join(paths)}</svg>'
    )
