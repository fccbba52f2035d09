"""Pictures of rows with their captions and columns, as HTML for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from nemo_image_curate import frames, html, storage
from nemo_image_curate.dataset.looking import notebook
from nemo_image_curate.dataset.looking.choices import View, choose
from nemo_image_curate.dataset.looking.groups import Group, Names, groups
from nemo_image_curate.dataset.looking.origin import origin_of, projection
from nemo_image_curate.dataset.looking.rows import rows_of
from nemo_image_curate.dataset.looking.summary_view import bytes_text
from nemo_image_curate.dataset.looking.thumbnails import Thumbnail, thumbnail, thumbnails
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

_SIDE, _QUALITY = 192, 85
# Characters of a caption below a picture, and of a value in its table.
_CAPTION, _VALUE = 120, 1000
# The column of a deduplication that says what a row is a duplicate of.
_DUPLICATE_OF = "duplicate_of"


@dataclass(frozen=True)
class Gallery:
    """Pictures as one HTML fragment.

    Attributes
    ----------
    html : str
    keys : list of str
        Of the rows that are shown, in their order.
    titles : list of str
        Of the strips.
    """

    html: str
    keys: list[str]
    titles: list[str] = field(default_factory=list)

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return (
            f"Gallery of {len(self.keys)} pictures ({', '.join(filter(None, self.titles))}): shown "
            "in a notebook; save(path) writes a page"
        ).replace(" ()", "")

    def save(self, path: str) -> None:
        """Write the pictures as an HTML file that needs no other file."""
        page = notebook.page("samples", self.html)
        storage.write_bytes(storage.normalise(path), page.encode("utf-8", "replace"))


@dataclass(frozen=True)
class Strip:
    """Rows that are shown side by side.

    Attributes
    ----------
    title : str
    rows : pyarrow.Table
    by : list of str
        Columns whose values stand below each picture.
    is_group : bool
        The rows are one group of duplicates.
    has_kept : bool
        The first of these is the row that stays.
    """

    title: str
    rows: pa.Table
    by: list[str] = field(default_factory=list)
    is_group: bool = False
    has_kept: bool = False


def first_or_named(
    dataset: ImageTextPairDataset, samples: int | Sequence[str], captions: str
) -> Gallery:
    """The first rows, or those with some keys."""
    columns = _columns(dataset, captions)
    note = ""
    if isinstance(samples, int):
        names = dict.fromkeys([dataset.id_col, SHARD_COLUMN, *columns])
        few = dataset.replace(projection(dataset.metadata, names))
        rows = frames.to_arrow(few.head(samples))
    else:
        rows = rows_of(dataset, samples, columns)
        if absent := sorted(set(samples) - set(rows[dataset.id_col].to_pylist())):
            note = f"not in the dataset: {_cut(', '.join(absent), _VALUE)}"
    return _gallery(dataset, [Strip("", rows)], captions, note)


def along(
    dataset: ImageTextPairDataset,
    by: str,
    around: float | str | None,
    n: int,
    captions: str,
    seed: int,
) -> Gallery:
    """Rows along a column: next to a value, at both ends, and at random."""
    views = [View("best", by), View("worst", by), View("random")]
    if around is not None:
        views = [View("below", by, around), View("above", by, around), *views]
    chosen = choose(dataset, views, n, _columns(dataset, captions), seed=seed)
    return _gallery(
        dataset, [Strip(choice.title, choice.rows, [by]) for choice in chosen], captions
    )


def duplicates(dataset: ImageTextPairDataset, column: str | bool, n: int, captions: str) -> Gallery:
    """The largest groups of duplicates, the row that stays first in each."""
    column = _duplicate_column(dataset, column)
    grouped = groups(dataset, column, n, columns=_columns(dataset, captions))
    similarity = Names.of(dataset, column).similarity
    by = [similarity] if similarity else []
    strips = [
        Strip(_group_title(group), group.rows, by, is_group=True, has_kept=group.has_kept)
        for group in grouped.groups
    ]
    note = (
        f"{grouped.duplicates:,} of {grouped.rows:,} rows are duplicates, "
        f"in {grouped.n_groups:,} groups"
    )
    if grouped.sampled < 1:
        note += f" of a sample of {html.share(int(grouped.sampled * 10**6), 10**6)} of all groups"
    return _gallery(dataset, strips, captions, note + ".")


def _group_title(group: Group) -> str:
    more = group.size - len(group.rows) - (not group.has_kept)
    title = f"{group.size:,} of the same"
    if not group.has_kept:
        title += ", of which the one that stays is not in this dataset"
    return title + (f"; {more:,} more are not shown" if more > 0 else "")


def _duplicate_column(dataset: ImageTextPairDataset, column: str | bool) -> str:
    if isinstance(column, str):
        frames.require_columns(dataset.metadata, column)
        return column
    there = [name for name in dataset.metadata.columns if name.endswith(_DUPLICATE_OF)]
    if not there:
        raise ColumnNotFoundError(_DUPLICATE_OF, dataset.metadata.columns)
    if len(there) > 1 and _DUPLICATE_OF not in there:
        raise ConfigError(f"which duplicates? Name the column: groups={there[0]!r} ({there}).")
    return _DUPLICATE_OF if _DUPLICATE_OF in there else str(there[0])


def _columns(dataset: ImageTextPairDataset, captions: str) -> list[str]:
    """What is told of each row: the caption, and all that is stored and no list."""
    schema = frames.schema(dataset.metadata)
    origin = origin_of(dataset.metadata)
    stored = set(origin.stored) if origin is not None else set()
    return [
        column.name
        for column in schema
        if column.name == captions
        or (column.name in stored and not pa.types.is_nested(column.type))
    ]


def _gallery(
    dataset: ImageTextPairDataset, strips: Sequence[Strip], captions: str, note: str = ""
) -> Gallery:
    keys = [key for strip in strips for key in strip.rows[dataset.id_col].to_pylist()]
    shards = [shard for strip in strips for shard in strip.rows[SHARD_COLUMN].to_pylist()]
    # A row of several strips is read once.
    places = list(dict.fromkeys(zip(keys, shards, strict=True)))
    images = thumbnails(dataset, *_columns_of(places), side=_SIDE, quality=_QUALITY)
    pictures = dict(zip(places, images, strict=True))
    parts = [f"<p>{html.escape(note)}</p>"] if note else []
    for strip in strips:
        parts.append(f"<h3>{html.escape(strip.title)}</h3>" if strip.title else "")
        cells = [
            _cell(dataset, strip, row, values, pictures, captions)
            for row, values in enumerate(strip.rows.to_pylist())
        ]
        none = "<p class=muted>none</p>"
        parts.append(f"<div class=pictures>{''.join(cells)}</div>" if cells else none)
    whole = notebook.fragment("".join(parts), f"{len(keys)} pictures")
    return Gallery(whole, keys, [strip.title for strip in strips])


def _columns_of(places: Sequence[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    return [key for key, _ in places], [shard for _, shard in places]


def _cell(
    dataset: ImageTextPairDataset,
    strip: Strip,
    row: int,
    values: dict[str, Any],
    pictures: dict[tuple[Any, Any], Thumbnail],
    captions: str,
) -> str:
    """A picture that opens to all that is known of its row."""
    key, shard = values[dataset.id_col], values[SHARD_COLUMN]
    thumb = pictures[key, shard]
    place = f"{shard}: {key}"
    lines = [f"{name} {_digits(values[name])}" for name in strip.by if values[name] is not None]
    is_kept = strip.has_kept and row == 0
    if strip.is_group:
        lines = ["this one stays"] if is_kept else lines
        if thumb.jpeg is not None:
            lines.append(
                f"{thumb.original_width} x {thumb.original_height}, {bytes_text(thumb.n_bytes)}"
            )
    caption = values.get(captions)
    lines.append(_cut("" if caption is None else str(caption), _CAPTION))
    figure = html.figure(_image(thumb, place), key, *lines)
    facts = [
        (name, html.Markup(html.escape(_cut(html.number(value), _VALUE))))
        for name, value in values.items()
    ]
    css_class = " class=kept" if is_kept else ""
    return (
        f'<details{css_class} title="{html.escape(place)}"><summary>{figure}</summary>'
        f"{html.table(['column', 'value'], facts)}</details>"
    )


def _digits(value: object) -> str:
    """A value with more digits than elsewhere: values next to a threshold should differ."""
    return f"{value:.7g}" if isinstance(value, float) else html.number(value)


def _image(thumb: Thumbnail, place: str) -> str:
    if thumb.jpeg is None:
        return html.reason(f"{place}: {thumb.reason}")
    return html.picture(thumb.jpeg, place)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def reason(text: str) -> str:
    """HTML that stands in the place of a picture."""
    return html.reason(text)


def picture(content: bytes, place: str) -> str:
    """An image as HTML that needs no file, at most 192 pixels wide and high.

    Parameters
    ----------
    content : bytes
        Encoded.
    place : str
        Where it is from, for what stands in its place when it cannot be decoded.
    """
    return _image(thumbnail(content, _SIDE, _QUALITY), place)
