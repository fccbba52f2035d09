"""How points are coloured by columns: classes with a name, a condition, and a colour each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate import frames, html

# Classes that have a colour of their own; 7 is for all others, and 8 for nulls.
_COLOURS, _OTHERS, _NULL = 7, 7, 8
# Parts of equally many rows that numbers are divided into.
_PARTS = 5
_MOST = 16
# Columns of so many values at most are categories.
_CATEGORIES = 1024
_FIRST = ("selected", "is_leak", "is_duplicate", "aesthetic_score", "clip_score", "label")


@dataclass(frozen=True)
class Class:
    """Points of one colour.

    Attributes
    ----------
    colour : int
    name : str
    condition : str or None
        An expression that holds for its rows.
    """

    colour: int
    name: str
    condition: str | None


@dataclass(frozen=True)
class Colouring:
    """The points by a column.

    Attributes
    ----------
    column : str
    ordered : bool
        Whether colours go from low to high.
    members : list of Class
    classes : numpy.ndarray of int64, shape (n,)
        The colour of each point.
    """

    column: str
    ordered: bool
    members: list[Class]
    classes: np.ndarray

    def plain(self) -> dict[str, Any]:
        """All of it for a script."""
        return {
            "column": self.column,
            "ordered": self.ordered,
            "members": [[member.colour, member.name, member.condition] for member in self.members],
            "classes": "".join(map(str, self.classes)),
        }

    def legend(self) -> str:
        """Which colour is what."""
        members = "".join(
            f'<li><svg class="key" viewBox="0 0 10 10" aria-hidden=true>'
            f'<path class="dots colour-{member.colour}" d="M5 5h0"/></svg>'
            f"{html.escape(member.name)}</li>"
            for member in self.members
        )
        return f"<ul class=legend><li>{html.escape(self.column)}:</li>{members}</ul>"


def colourings(rows: pa.Table) -> list[Colouring]:
    """Those of all columns that tell points apart, the most telling first."""
    choices = [
        colouring
        for name in rows.column_names
        if (colouring := _colouring(name, rows[name])) is not None
    ]
    choices.sort(
        key=lambda choice: _FIRST.index(choice.column) if choice.column in _FIRST else len(_FIRST)
    )
    # A cluster is where its points are: it shows most.
    choices.sort(key=lambda choice: "cluster" not in choice.column)
    return choices[:_MOST]


def _colouring(column: str, values: pa.ChunkedArray) -> Colouring | None:
    values = frames.nan_to_null(values.combine_chunks())
    kind, types = values.type, pa.types
    if types.is_dictionary(kind):
        values, kind = values.cast(kind.value_type), kind.value_type
    if (
        types.is_boolean(kind)
        or types.is_string(kind)
        or types.is_large_string(kind)
        or "cluster" in column
    ):
        colouring = _by_value(column, values)
    elif types.is_integer(kind) or types.is_floating(kind):
        few = len(pc.unique(values.drop_null())) <= _PARTS
        colouring = _by_value(column, values) if few else _by_part(column, values)
    else:
        return None
    return colouring if colouring and len(colouring.members) > 1 else None


def _by_value(column: str, values: pa.Array) -> Colouring | None:
    """Of the most frequent values each has a colour."""
    counts = sorted(
        (
            (entry["counts"], entry["values"])
            for entry in values.drop_null().value_counts().to_pylist()
        ),
        key=lambda pair: (-pair[0], str(pair[1])),
    )
    # Texts such as captions and keys are no categories: hardly one is there twice.
    if len(counts) > _CATEGORIES or len(counts) * 4 > len(values):
        return None
    named = [value for _, value in counts[:_COLOURS]]
    named.sort(key=str if values.type == pa.string() else None)
    place = {value: number for number, value in enumerate(named)}
    classes = np.array(
        [_NULL if value is None else place.get(value, _OTHERS) for value in values.to_pylist()]
    )
    members = [Class(place[value], _name(value), _equals(column, value)) for value in named]
    if (others := len(counts) - len(named)) > 0:
        members.append(Class(_OTHERS, f"{others:,} others", None))
    return Colouring(column, False, _with_null(members, values), classes)


def _by_part(column: str, values: pa.Array) -> Colouring | None:
    """Parts of as many points each."""
    numbers = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    finite = numbers[np.isfinite(numbers)]
    if not len(finite):
        return None
    inner = np.quantile(finite, np.arange(1, _PARTS) / _PARTS)
    cuts = sorted({float(f"{cut:.4g}") for cut in inner})
    places = np.searchsorted(cuts, np.nan_to_num(numbers), side="right")
    classes = np.where(np.isnan(numbers), _NULL, places)
    ends = list(zip([None, *cuts], [*cuts, None], strict=True))
    members = [
        Class(place, _span(low, high), _between(column, low, high))
        for place, (low, high) in enumerate(ends)
    ]
    return Colouring(column, True, _with_null(members, values), classes)


def _with_null(members: list[Class], values: pa.Array) -> list[Class]:
    return [*members, *([Class(_NULL, "null", None)] if values.null_count else [])]


def _name(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _equals(column: str, value: Any) -> str:
    if isinstance(value, bool):
        return column if value else f"not {column}"
    return f"{column} == {value!r}"


def _span(low: float | None, high: float | None) -> str:
    if low is None:
        return f"below {html.number(high)}"
    return (
        f"{html.number(low)} and more"
        if high is None
        else f"{html.number(low)} to {html.number(high)}"
    )


def _between(column: str, low: float | None, high: float | None) -> str:
    if low is None:
        return f"{column} < {high!r}"
    return f"{column} >= {low!r}" if high is None else f"{low!r} <= {column} < {high!r}"
