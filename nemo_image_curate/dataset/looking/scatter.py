"""A map of a sample's embeddings for notebooks, where a drawn loop becomes an expression."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pyarrow as pa

from nemo_image_curate import frames, html, storage
from nemo_image_curate.dataset.looking import notebook
from nemo_image_curate.dataset.looking.points import points
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError
from nemo_image_curate.expressions.names import quoted_name

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

Method = Literal["pca", "umap"]
EMBEDDING = "image_embedding"
# Values that get a colour of their own; all others share one.
MAX_COLOURS = 9
# Digits of coordinates: a screen has fewer pixels.
_DIGITS = 4


@dataclass(frozen=True)
class Map:
    """Points of a sample on a plane.

    Attributes
    ----------
    rows : pyarrow.Table
        Key, ``shard``, and the column of the colours, row by row as in `xy`.
    xy : numpy.ndarray, shape (m, 2), float32
    html : str
        With a script that needs nothing of any server: draw a loop around points to have an
        expression for `ImageTextPairDataset.filter` that chooses their rows.
    title : str
    """

    rows: pa.Table
    xy: np.ndarray
    html: str
    title: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return f"Map: {self.title}; shown in a notebook; save(path) writes a page"

    def save(self, path: str) -> None:
        """Write the map as an HTML file that needs no other file."""
        page = notebook.page("map", self.html)
        storage.write_bytes(storage.normalise(path), page.encode("utf-8", "replace"))


def draw(
    dataset: ImageTextPairDataset,
    column: str | None,
    color: str | None,
    n: int,
    method: Method,
    seed: int,
    progress: bool | None,
) -> Map:
    """A map of a dataset; see `ImageTextPairDataset.map`."""
    if method not in get_args(Method):
        raise ConfigError(f"method={method!r} is none of {', '.join(get_args(Method))}.")
    column = column or _embedding_column(dataset)
    columns = [] if color is None else [color]
    projected = points(dataset, column, n, columns, seed, progress)
    sample, xy = projected.sample, projected.xy
    axes = "two principal components: {:.0%} and {:.0%} of the variance".format(
        *projected.plane.explained
    )
    if method == "umap":
        xy, axes = _umap(sample.vectors, seed), "UMAP"
    without = f", {sample.without:,} without an embedding left out" if sample.without else ""
    title = f"{len(sample.rows):,} of {sample.of:,} rows (seed {seed}){without}; {column}, {axes}"
    content = {
        "keys": sample.rows[dataset.id_col].to_pylist(),
        "xy": [round(float(value), _DIGITS) for value in _unit_square(xy).reshape(-1)],
        "name": quoted_name(dataset.id_col),
        "column": dataset.id_col,
        **(_colours(sample.rows[color].combine_chunks(), color) if color else {}),
    }
    return Map(sample.rows, xy, _html(content, title), title)


def _embedding_column(dataset: ImageTextPairDataset) -> str:
    schema = frames.schema(dataset.metadata)
    lists = [
        field.name
        for field in schema
        if pa.types.is_list(field.type) and pa.types.is_floating(field.type.value_type)
    ]
    if not lists:
        raise ColumnNotFoundError(EMBEDDING, schema.names)
    return EMBEDDING if EMBEDDING in lists else lists[0]


def _unit_square(xy: np.ndarray) -> np.ndarray:
    """Points between 0 and 1, at one scale for both axes."""
    low = xy.min(axis=0)
    span = float((xy - low).max()) or 1.0
    square: np.ndarray = (xy - low) / span
    return square


def _umap(vectors: np.ndarray, seed: int) -> np.ndarray:
    """The layout of McInnes et al. ("UMAP", 2018), as umap-learn computes it."""
    try:
        import umap
    except ImportError as error:
        raise ConfigError(
            "method='umap' needs umap-learn: pip install umap-learn. Or method='pca'."
        ) from error
    layout: np.ndarray = umap.UMAP(random_state=seed).fit_transform(vectors)
    return layout


def _colours(values: pa.Array, name: str) -> dict[str, Any]:
    """What each point is coloured by: a number from 0 to 1, or that of a value; null is -1."""
    values = frames.nan_to_null(values)
    types, kind = pa.types, values.type
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        numbers = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        finite = numbers[np.isfinite(numbers)]
        low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 0.0)
        scaled = np.clip((numbers - low) / ((high - low) or 1.0), 0, 1)
        colours = [-1 if np.isnan(number) else round(float(number), 3) for number in scaled]
        labels = [html.number(number) for number in numbers.tolist()]
        labels = ["null" if label == "nan" else label for label in labels]
        ends = [html.number(float(low)), html.number(float(high))]
        return {"colours": colours, "ends": ends, "color": name, "told": labels}
    texts = [None if value is None else str(value) for value in values.to_pylist()]
    counts = Counter(text for text in texts if text is not None)
    named = sorted(counts, key=lambda text: (-counts[text], text))[:MAX_COLOURS]
    place = {text: number for number, text in enumerate(named)}
    rest = len(counts) > len(named)
    return {
        "colours": [-1 if text is None else place.get(text, len(named)) for text in texts],
        "categories": named + (["others"] if rest else []),
        "color": name,
        "told": ["null" if text is None else text[:80] for text in texts],
    }


def script(name: str) -> str:
    """The text of one of this folder's scripts."""
    return resources.files(__package__).joinpath(f"{name}.js").read_text("utf-8")


def _html(content: dict[str, Any], title: str) -> str:
    code = script("choosing") + script("scatter")
    name = f"map-{hashlib.sha256(repr(content).encode('utf-8', 'replace')).hexdigest()[:12]}"
    body = (
        f"<p>{html.escape(title)}</p>"
        f'<div class=map id="{name}"><p class=muted>The map needs a script, which this viewer does '
        f"not run: trust the notebook, or open the page that save(path) writes.</p></div>"
        f'{html.data(f"{name}-data", content)}<script>(() => {{\n"use strict";\n'
        f'{code}drawMap("{name}");\n}})();</script>'
    )
    return notebook.fragment(body, "map of embeddings")
