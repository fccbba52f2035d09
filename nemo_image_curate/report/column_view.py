"""A column's histogram, its threshold and its pictures, as HTML."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from nemo_image_curate import html
from nemo_image_curate.expressions.names import can_be_quoted, quoted_name
from nemo_image_curate.report.album import Album, shortened

if TYPE_CHECKING:
    from nemo_image_curate.dataset.looking.distributions import Distribution
    from nemo_image_curate.report.columns import Column, Columns
    from nemo_image_curate.report.thresholds import Threshold

# Bars that are drawn, at most.
_BARS = 40
# Characters of a value in the summary.
_TEXT = 40
# What strips are called; the lower values stand first.
_TITLES = {
    "below": "Just below {value}",
    "above": "{value} and just above",
    "along": "Along the axis",
    "worst": "Lowest",
    "best": "Highest",
}


def anchor(column: str) -> str:
    """The id of a column's section, which any name has."""
    plain = "".join(one if one.isascii() and one.isalnum() else "-" for one in column)
    mark = "" if plain == column.replace("_", "-") else hashlib.sha256(column.encode()).hexdigest()
    return f"column-{plain}{mark[:6]}"


def summary(data: Columns) -> str:
    """A row for each column, with its shape and what is missing."""
    rows: list[list[object]] = []
    for one in (column.distribution for column in data.columns):
        link = f'<a href="#{anchor(one.column)}">{html.escape(one.column)}</a>'
        rows.append([html.Markup(link), *_shape(one), one.nulls])
    rows += [[one.column, *_shape(one), one.nulls] for one in data.left_out]
    for one in data.others:
        rows.append([one.column, _values(one) if one.categories else "", "", one.nulls])
    return _left_out(data) + html.table(["column", "values", "distribution", "null"], rows)


def _shape(one: Distribution) -> list[html.Markup]:
    has_shape = one.kind == "number" and one.low != one.high
    spark = html.sparkline(drawn(one)[1]) if has_shape else ""
    values = f"<span class=values>{html.escape(_values(one))}</span>"
    return [html.Markup(values), html.Markup(spark)]


def _left_out(data: Columns) -> str:
    """What was asked for and is not there; what there is no room for, and how to get it."""
    cut = [column for column in data.columns if column.threshold is not None]
    pictured = [column for column in cut if column.strips]
    asked = "".join(f"<p class=warn>{html.escape(one)}.</p>" for one in data.unshown)
    parts = []
    if data.left_out:
        parts.append(f"{len(data.left_out):,} of them have no section of their own")
    if len(pictured) < len(cut):
        parts.append(f"{len(cut) - len(pictured):,} more have no pictures")
    if not parts:
        return asked
    return (
        f"{asked}<p class=note>So many columns are too much for one page: {' and '.join(parts)}; "
        f"strips are of {data.pictures}. Name those that matter: <code>--column NAME</code>.</p>"
    )


def _values(one: Distribution) -> str:
    """What a column holds, in a line."""
    if one.kind == "number":
        if one.low == one.high:
            return html.number(one.low) if one.low is not None else "none"
        low, high, mean = map(html.number, (one.low, one.high, one.mean))
        return f"{low} to {high}, mean {mean}"
    if not one.categories:
        return "none"
    (first, count), n_values = one.categories[0], len(one.categories) + one.n_others
    if n_values == 1:
        return shortened(first, _TEXT)
    if count == 1:
        return f"{n_values:,} values, each once"
    return f"{n_values:,} values, {html.share(count, one.rows)} {shortened(first, _TEXT)}"


def drawn(one: Distribution) -> tuple[list[float], list[int]]:
    """Edges and counts of the bars that are drawn, each of several steps of the threshold."""
    counts, edges = one.counts.tolist(), one.edges.tolist()
    step = -(-len(counts) // _BARS) or 1
    starts = range(0, len(counts), step)
    return [*(edges[i] for i in starts), *edges[-1:]], [sum(counts[i : i + step]) for i in starts]


def render_column(column: Column, album: Album) -> str:
    """One column."""
    one = column.distribution
    body = _numbers(column, album) if one.kind == "number" else _categories(column)
    name = html.escape(one.column)
    return (
        f'<section class=column id="{anchor(one.column)}" data-column="{name}" '
        f'aria-labelledby="{anchor(one.column)}-title">'
        f'<h3 id="{anchor(one.column)}-title">{name}</h3>{body}</section>'
    )


def _numbers(column: Column, album: Album) -> str:
    one, threshold = column.distribution, column.threshold
    limits = [] if threshold is None else [threshold.limit, *threshold.others]
    shown = ""
    if one.low != one.high:
        edges, counts = drawn(one)
        marks = {str(limit.value): limit.value for limit in limits}
        shown = html.histogram(edges, [html.Series("rows", counts, one.nulls)], marks)
    cut = "" if threshold is None else _cut(column, threshold, album)
    return f"<p class=note>{_facts(one)}</p>{shown}{cut}"


def _facts(one: Distribution) -> str:
    facts = [f"{one.rows - one.nulls:,} values"]
    if one.nulls:
        facts.append(f"{one.nulls:,} null ({html.share(one.nulls, one.rows)})")
    if one.infinite:
        facts.append(f"{one.infinite:,} infinite, which are in no bar")
    if one.low is None:
        return f"{', '.join(facts)}."
    if one.low == one.high:
        return f"{', '.join(facts)}, all of them {html.number(one.low)}."
    low, high, mean = map(html.number, (one.low, one.high, one.mean))
    axis = " The axis is logarithmic." if one.log else ""
    return f"{', '.join(facts)}; from {low} to {high}, mean {mean}.{axis}"


def _cut(column: Column, threshold: Threshold, album: Album) -> str:
    """What a threshold keeps, and pictures on both sides of it."""
    one = column.distribution
    value = html.number(threshold.limit.value)
    strips = "".join(
        f"<h4>{title.format(value=value)}</h4>{_strip(column, how, album)}"
        for how, title in _TITLES.items()
        if how in column.strips
    )
    expression = filter_call(threshold.limit.expression(one.column))
    return (
        f"<p class=cut><output><strong>{threshold.kept:,}</strong> of {one.rows:,} rows stay "
        f"({html.share(threshold.kept, one.rows)})</output> by "
        f"<code>{html.escape(expression)}</code> <span class=note>({threshold.origin})</span></p>"
        f"<div class=brushed></div>{strips}"
    )


def _strip(column: Column, how: str, album: Album) -> str:
    """Pictures in the order of their values, rising but for the highest."""
    rows = column.strips[how]
    if not len(rows.table):
        return "<p class=note>None.</p>"
    if how == "below":
        rows = rows._replace(table=rows.table.take(list(range(len(rows.table)))[::-1]))
    return album.strip(rows, column.distribution.column)


def _categories(column: Column) -> str:
    one = column.distribution
    values: list[tuple[object, int]] = [
        (html.Markup(_value(column, value)), count) for value, count in one.categories
    ]
    if one.others:
        values.append((f"{one.n_others:,} other values", one.others))
    if one.nulls:
        values.append(("null", one.nulls))
    return html.bars(values, one.rows, "value") + "<div class=brushed></div>"


def _value(column: Column, value: str) -> str:
    """A value, with the condition that it is chosen by, where there is one."""
    if not can_be_quoted(column.distribution.column):
        return html.escape(value)
    literal = value.title() if pa.types.is_boolean(column.kind) else repr(value)
    condition = f"{quoted_name(column.distribution.column)} == {literal}"
    return (
        f'<span class=value data-value="{html.escape(value)}" '
        f'data-condition="{html.escape(condition)}">{html.escape(value)}</span>'
    )


def filter_call(condition: str) -> str:
    """What one pastes; JSON's texts are Python's, too."""
    return f"ds.filter({json.dumps(condition, ensure_ascii=False)})"


def for_script(data: Columns, album: Album) -> str:
    """What the page's script needs to move thresholds and to find pictures by their values."""
    columns: dict[str, Any] = {}
    # Those that have strips for pictures, and those that need none.
    names = [
        column.distribution.column
        for column in data.columns
        if column.strips or column.threshold is None
    ]
    place_of = {name: place for place, name in enumerate(names)}
    for column in data.columns:
        one, threshold = column.distribution, column.threshold
        columns[one.column] = {
            "name": quoted_name(one.column),
            "place": place_of.get(one.column, -1),
            "rows": one.rows,
        }
        if threshold is not None:
            columns[one.column] |= {
                "edges": one.edges.tolist(),
                "counts": one.counts.tolist(),
                "value": threshold.limit.value,
                "operator": threshold.limit.operator,
                "infinite": one.infinite,
            }
    return html.data("columns-data", {"columns": columns, "pictures": album.values(names)})
