"""The pictures of a report: each is read once, stored once, and shown wherever a section wants it.

Every picture has an entry with all that is known of its row, which links to it open. Where it is
shown it is a reference to one symbol of SVG, so that a picture in three strips takes its bytes
once, without any script.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from nemo_image_curate import frames, html
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.report.settings import Settings

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

# Characters of a caption under a picture, and of a value in its entry.
_CAPTION, _VALUE = 90, 2000
# Columns of an entry; where there are more, the first and the last of them.
MOST_TOLD = 100
_SMALLEST_SIDE = 64
# Bytes of a thumbnail: those of any, and for each pixel of a square (measured on photographs of
# ImageNet at 72 and 160 pixels, quality 80). Base64 makes four of three.
_BYTES, _BYTES_PER_PIXEL, _BASE64 = 900, 0.235, 4 / 3


class Rows(NamedTuple):
    """Rows whose pictures a section shows.

    Attributes
    ----------
    table : pyarrow.Table
        With the dataset's id column, ``shard``, and whatever else is known of the rows.
    dataset : ImageTextPairDataset
    name : str
        What the dataset is called beside the one that the report is of; that one has no name.
    """

    table: pa.Table
    dataset: ImageTextPairDataset
    name: str = ""


class _Place(NamedTuple):
    name: str
    shard: str
    key: str


@dataclass
class _Entry:
    """What is known of a picture."""

    anchor: str
    values: dict[str, Any] = field(default_factory=dict)
    jpeg: bytes | None = None
    reason: str | None = None
    width: int = 0
    height: int = 0
    stored: str = ""


class Album:
    """Pictures that sections ask for, then show.

    Parameters
    ----------
    settings : Settings
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        self._entries: dict[_Place, _Entry] = {}
        self._datasets: dict[str, ImageTextPairDataset] = {}

    def add(self, rows: Rows) -> None:
        """Ask for the pictures of rows; those of rows that came before take no more room."""
        self._datasets[rows.name] = rows.dataset
        for row in rows.table.to_pylist():
            key, shard = str(row.pop(rows.dataset.id_col)), str(row.pop(SHARD_COLUMN))
            place = _Place(rows.name, shard, key)
            entry = self._entries.setdefault(place, _Entry(_anchor(place)))
            entry.values.update(row)
            # In the order of the dataset, whichever section came first.
            order = map(str, rows.dataset.metadata.columns)
            entry.values = {name: entry.values[name] for name in order if name in entry.values}

    def read(self) -> None:
        """Read all pictures that were asked for, those of a shard together."""
        from nemo_image_curate.dataset.looking.thumbnails import thumbnails

        left = self.settings.byte_budget - len(self.entries())
        side = self._side(left)
        for name, dataset in self._datasets.items():
            places = [place for place in self._entries if place.name == name]
            keys, shards = [place.key for place in places], [place.shard for place in places]
            read = thumbnails(dataset, keys, shards, side=side)
            for place, thumbnail in zip(places, read, strict=True):
                entry = self._entries[place]
                entry.jpeg, entry.reason = thumbnail.jpeg, thumbnail.reason
                entry.width, entry.height = thumbnail.width, thumbnail.height
                if thumbnail.original_width:
                    pixels = f"{thumbnail.original_width} x {thumbnail.original_height} pixels"
                    entry.stored = f"{pixels}, {thumbnail.n_bytes / 1000:,.1f} kB"
                left -= int(len(thumbnail.jpeg or b"") * _BASE64)
                if left < 0 and thumbnail.jpeg is not None:
                    entry.jpeg, entry.reason = None, "not shown: the page is large enough"

    def _side(self, n_bytes: int) -> int:
        """Pixels of thumbnails: fewer where there are many, so that all of them fit."""
        each = n_bytes / _BASE64 / max(1, len(self._entries))
        fitting = int(max(0.0, (each - _BYTES) / _BYTES_PER_PIXEL) ** 0.5)
        return min(self.settings.side, max(_SMALLEST_SIDE, fitting))

    def show(self, rows: Rows, caption: str = "caption") -> str:
        """A grid of the rows' pictures with their captions, as links to their entries."""
        return grid(
            self.cell(key, shard, key, shortened(row.get(caption), _CAPTION), name=rows.name)
            for key, shard, row in _named(rows)
        )

    def strip(self, rows: Rows, column: str) -> str:
        """The rows' pictures, each with its value of a column, smaller than those of `show`."""
        cells = [
            self.cell(key, shard, html.number(row[column]), name=rows.name)
            for key, shard, row in _named(rows)
        ]
        return f"<div class=strip>{''.join(cells)}</div>"

    def cell(self, key: str, shard: str, *lines: object, name: str = "") -> str:
        """One picture that was asked for, as a link to its entry, with lines of text below."""
        entry = self._entries[_Place(name, shard, key)]
        link = f'<a href="#{entry.anchor}" class=open>{_picture(entry, key)}</a>'
        return html.figure(link, *lines)

    def stored(self, key: str, shard: str, name: str = "") -> str:
        """Pixels and bytes of a picture as it is stored; nothing where it could not be read."""
        return self._entries[_Place(name, shard, key)].stored

    def symbols(self) -> str:
        """The pictures that `cell` refers to; they stand last, so that what is read comes first."""
        shapes = "".join(
            f'<symbol id="i{entry.anchor}" viewBox="0 0 {entry.width} {entry.height}">'
            f'<image width="{entry.width}" height="{entry.height}" href="data:image/jpeg;base64,'
            f'{base64.b64encode(entry.jpeg).decode()}"/></symbol>'
            for entry in self._entries.values()
            if entry.jpeg is not None
        )
        return f'<svg class=symbols width="0" height="0" aria-hidden=true>{shapes}</svg>'

    def entries(self) -> str:
        """All that is known of each picture, in the order of datasets, shards and keys."""
        return "".join(_article(place, self._entries[place]) for place in sorted(self._entries))

    def values(self, columns: Iterable[str]) -> dict[str, list[Any]]:
        """The values of some columns of the report's own rows, by anchor."""
        names = list(columns)
        return {
            entry.anchor: [_plain(entry.values.get(column)) for column in names]
            for place, entry in sorted(self._entries.items())
            if not place.name
        }

    def __len__(self) -> int:
        return len(self._entries)


def plain_columns(dataset: ImageTextPairDataset) -> list[str]:
    """The columns that an entry shows: all but lists and structs, such as embeddings."""
    schema = frames.schema(dataset.metadata)
    return [field.name for field in schema if not pa.types.is_nested(field.type)]


def _named(rows: Rows) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Each row with its key and shard."""
    for row in rows.table.to_pylist():
        yield str(row[rows.dataset.id_col]), str(row[SHARD_COLUMN]), row


def grid(cells: Iterable[str]) -> str:
    """Pictures side by side."""
    return f"<div class=grid>{''.join(cells)}</div>"


def shortened(value: object, most: int) -> str:
    """A text of so many characters at most; nothing for nothing."""
    text = "" if value is None else str(value)
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def _anchor(place: _Place) -> str:
    """The same in every report of the same rows, so that a link to it goes on to lead there."""
    return f"row-{hashlib.sha256(repr(tuple(place)).encode()).hexdigest()[:12]}"


def _picture(entry: _Entry, alt: str) -> str:
    if entry.jpeg is None:
        return html.reason(entry.reason or "missing")
    return (
        f'<svg class=picture viewBox="0 0 {entry.width} {entry.height}" role=img '
        f'aria-label="{html.escape(alt)}"><use href="#i{entry.anchor}"/></svg>'
    )


def _article(place: _Place, entry: _Entry) -> str:
    facts: Mapping[str, Any] = {
        **({"dataset": place.name} if place.name else {}),
        "key": place.key,
        "shard": place.shard,
        **entry.values,
    }
    rows = [(name, shortened(html.number(value), _VALUE)) for name, value in facts.items()]
    if more := max(0, len(rows) - MOST_TOLD):
        hint = f"{more:,} more columns: ds.show([{json.dumps(place.key, ensure_ascii=False)}])"
        rows[MOST_TOLD // 2 : MOST_TOLD // 2 + more] = [("…", hint)]
    return (
        f'<article id="{entry.anchor}"><h3><a href="#{entry.anchor}">{html.escape(place.key)}</a>'
        f"</h3><div class=entry>{_picture(entry, place.key)}"
        f"{html.table(['column', 'value'], rows)}</div></article>"
    )


def _plain(value: Any) -> float | int | str | None:
    """A value as JSON has it; bools as `Distribution` names them."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, int | str | None) else None
