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
    plain = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in column)
    mark = "" if plain == column.replace("_", "-") else hashlib.sha256(column.encode()).hexdigest()
    return f"column-{plain}{mark[:6]}"


def summary(data: Columns) -> str:
    """A row for each column, with its shape and what is missing."""
    rows: list[list[object]] = []
    for dist in (column.distribution for column in data.columns):
        link = f'<a href="#{anchor(dist.column)}">{html.escape(dist.column)}</a>'
        rows.append([html.Markup(link), *_shape(dist), dist.nulls])
    rows += [[dist.column, *_shape(dist), dist.nulls] for dist in data.left_out]
    for dist in data.others:
        rows.append([dist.column, _values(dist) if dist.categories else "", "", dist.nulls])
    return _left_out(data) + html.table(["column", "values", "distribution", "null"], rows)


def _shape(dist: Distribution) -> list[html.Markup]:
    has_shape = dist.kind == "number" and dist.low != dist.high
    spark = html.sparkline(drawn(dist)[1]) if has_shape else ""
    values = f"<span class=values>{html.escape(_values(dist))}</span>"
    return [html.Markup(values), html.Markup(spark)]


def _left_out(data: Columns) -> str:
    """What was asked for and is not there; what there is no room for, and how to get it."""
    cut = [column for column in data.columns if column.threshold is not None]
    pictured = [column for column in cut if column.strips]
    asked = "".join(f"<p class=warn>{html.escape(text)}.</p>" for text in data.unshown)
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


def _values(dist: Distribution) -> str:
    """What a column holds, in a line."""
    if dist.kind == "number":
        if dist.low == dist.high:
            return html.number(dist.low) if dist.low is not None else "none"
        low, high, mean = map(html.number, (dist.low, dist.high, dist.mean))
        return f"{low} to {high}, mean {mean}"
    if not dist.categories:
        return "none"
    (first, count), n_values = dist.categories[0], len(dist.categories) + dist.n_others
    if n_values == 1:
        return shortened(first, _TEXT)
    if count == 1:
        return f"{n_values:,} values, each once"
    return f"{n_values:,} values, {html.share(count, dist.rows)} {shortened(first, _TEXT)}"


def drawn(dist: Distribution) -> tuple[list[float], list[int]]:
    """Edges and counts of the bars that are drawn, each of several steps of the threshold."""
    counts, edges = dist.counts.tolist(), dist.edges.tolist()
    step = -(-len(counts) // _BARS) or 1
    starts = range(0, len(counts), step)
    return [*(edges[i] for i in starts), *edges[-1:]], [sum(counts[i : i + step]) for i in starts]


def render_column(column: Column, album: Album) -> str:
    """One column."""
    dist = column.distribution
    body = _numbers(column, album) if dist.kind == "number" else _categories(column)
    name = html.escape(dist.column)
    return (
        f'<section class=column id="{anchor(dist.column)}" data-column="{name}" '
        f'aria-labelledby="{anchor(dist.column)}-title">'
        f'<h3 id="{anchor(dist.column)}-title">{name}</h3>{body}</section>'
    )


def _numbers(column: Column, album: Album) -> str:
    dist, threshold = column.distribution, column.threshold
    limits = [] if threshold is None else [threshold.limit, *threshold.others]
    histogram = ""
    if dist.low != dist.high:
        edges, counts = drawn(dist)
        marks = {str(limit.value): limit.value for limit in limits}
        histogram = html.histogram(edges, [html.Series("rows", counts, dist.nulls)], marks)
    cut = "" if threshold is None else _cut(column, threshold, album)
    return f"<p class=note>{_facts(dist)}</p>{histogram}{cut}"


def _facts(dist: Distribution) -> str:
    facts = [f"{dist.rows - dist.nulls:,} values"]
    if dist.nulls:
        facts.append(f"{dist.nulls:,} null ({html.share(dist.nulls, dist.rows)})")
    if dist.infinite:
        facts.append(f"{dist.infinite:,} infinite, which are in no bar")
    if dist.low is None:
        return f"{', '.join(facts)}."
    if dist.low == dist.high:
        return f"{', '.join(facts)}, all of them {html.number(dist.low)}."
    low, high, mean = map(html.number, (dist.low, dist.high, dist.mean))
    axis = " The axis is logarithmic." if dist.log else ""
    return f"{', '.join(facts)}; from {low} to {high}, mean {mean}.{axis}"


def _cut(column: Column, threshold: Threshold, album: Album) -> str:
    """What a threshold keeps, and pictures on both sides of it."""
    dist = column.distribution
    value = html.number(threshold.limit.value)
    strips = "".join(
        f"<h4>{title.format(value=value)}</h4>{_strip(column, how, album)}"
        for how, title in _TITLES.items()
        if how in column.strips
    )
    expression = filter_call(threshold.limit.expression(dist.column))
    return (
        f"<p class=cut><output><strong>{threshold.kept:,}</strong> of {dist.rows:,} rows stay "
        f"({html.share(threshold.kept, dist.rows)})</output> by "
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
    dist = column.distribution
    values: list[tuple[object, int]] = [
        (html.Markup(_value(column, value)), count) for value, count in dist.categories
    ]
    if dist.others:
        values.append((f"{dist.n_others:,} other values", dist.others))
    if dist.nulls:
        values.append(("null", dist.nulls))
    return html.bars(values, dist.rows, "value") + "<div class=brushed></div>"


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
        dist, threshold = column.distribution, column.threshold
        columns[dist.column] = {
            "name": quoted_name(dist.column),
            "place": place_of.get(dist.column, -1),
            "rows": dist.rows,
        }
        if threshold is not None:
            columns[dist.column] |= {
                "edges": dist.edges.tolist(),
                "counts": dist.counts.tolist(),
                "value": threshold.limit.value,
                "operator": threshold.limit.operator,
                "infinite": dist.infinite,
            }
    return html.data("columns-data", {"columns": columns, "pictures": album.values(names)})
