"""Pieces of HTML that the report, the leak page and the notebook share, and the page around them.

All functions give text. What comes from a dataset goes through `escape`; nothing has a ``style``
attribute, so that `page` can forbid every style and script but its own.
"""

from __future__ import annotations

import base64
import bisect
import functools
import hashlib
import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

# Units of a bar in the coordinates of a histogram, which is stretched to the room there is.
_BAR_WIDTH, _HEIGHT = 10, 100
# What a bar of at least one row has at least, of the height.
_LEAST = 1
_TICKS = 5


def escape(value: object) -> str:
    """A text as HTML, inside an element or a quoted attribute."""
    return html.escape(str(value))


def number(value: object) -> str:
    """A value as people read it, for `escape`: 1,234,567, 0.1234, null."""
    if value is None:
        return "null"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return str(value)
    if value and not 1e-4 <= abs(value) < 1e15:
        return f"{value:.3g}"
    # Four digits, and all of those before the point.
    digits = max(0, 3 - math.floor(math.log10(abs(value)))) if value else 0
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def share(count: int, total: int) -> str:
    """A part of a whole: 12.3 %; what is neither nothing nor all is never said to be."""
    if not total:
        return "0 %"
    percent = 100 * count / total
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.1f} %"


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> str:
    """A table; numbers stand to the right, and what is `Markup` is HTML already."""

    def cell(value: Any, tag: str) -> str:
        if isinstance(value, Markup):
            return f"<{tag}>{value}</{tag}>"
        kind = " class=n" if isinstance(value, int | float) and value is not True else ""
        return f"<{tag}{kind}>{escape(number(value))}</{tag}>"

    rows = list(rows)
    aligned = [
        " class=n" if rows and isinstance(rows[0][place], int | float) else ""
        for place in range(len(heads))
    ]
    head = "".join(
        f"<th scope=col{kind}>{escape(text)}</th>"
        for kind, text in zip(aligned, heads, strict=True)
    )
    body = "".join(f"<tr>{''.join(cell(value, 'td') for value in row)}</tr>" for row in rows)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f"<div class=wide><table>{title}<thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


class Markup(str):
    """HTML, where a text would be escaped."""

    __slots__ = ()


def picture(jpeg: bytes, alt: str) -> str:
    """A JPEG as an image that needs no file."""
    content = base64.b64encode(jpeg).decode()
    return f'<img src="data:image/jpeg;base64,{content}" alt="{escape(alt)}">'


def figure(content: str, *lines: object) -> str:
    """HTML of a picture with lines of text below, the first of them bold; empty ones are left out.

    Parameters
    ----------
    content : str
        HTML, such as of `picture` or `reason`.
    *lines : object
        Texts.
    """
    texts = [escape(line) for line in lines if line not in (None, "")]
    texts[:1] = [f"<b>{text}</b>" for text in texts[:1]]
    return f"<figure>{content}<figcaption>{'<br>'.join(texts)}</figcaption></figure>"


def reason(text: object) -> str:
    """What stands in the place of a picture that is not there."""
    return f"<em class=reason>{escape(text)}</em>"


@dataclass(frozen=True)
class Series:
    """Bars of a histogram.

    Attributes
    ----------
    name : str
    counts : sequence of int, one less than there are edges
    nulls : int
        Rows without a value, a bar of their own.
    """

    name: str
    counts: Sequence[int]
    nulls: int = 0


def histogram(
    edges: Sequence[float],
    series: Sequence[Series],
    marks: Mapping[str, float] | None = None,
    logarithmic: bool = False,
    titles: Sequence[str] | None = None,
) -> str:
    """A histogram as SVG with its axis, as wide as there is room.

    Parameters
    ----------
    edges : sequence of float, rising
        Of the bars, which are drawn equally wide whatever their edges.
    series : sequence of Series
        The first is drawn behind all others; from the second on they have other colours.
    marks : mapping of str to float, optional
        Values that get a dashed line, by name.
    logarithmic : bool, default False
        Bars are as high as log(1 + count).
    titles : sequence of str, optional
        What is told of each bar. Default: its edges and counts.
    """
    height = math.log1p if logarithmic else float
    highest = max((count for layer in series for count in layer.counts), default=0)
    top = height(highest) or 1
    titles = titles or [_title(edges, series, bar) for bar in range(len(edges) - 1)]
    width = _BAR_WIDTH * (len(edges) - 1)
    shapes = []
    for place, layer in enumerate(series):
        bars = [
            _bar(_BAR_WIDTH * bar, height(count) / top, titles[bar])
            for bar, count in enumerate(layer.counts)
            if count
        ]
        shapes.append(f"<g class=series-{place}>{''.join(bars)}</g>")
    for value in (marks or {}).values():
        if edges[0] <= value <= edges[-1]:
            x = f"{_BAR_WIDTH * _place(edges, value):.2f}"
            shapes.append(f'<line class=mark x1="{x}" x2="{x}" y1="0" y2="{_HEIGHT}"/>')
    label = "; ".join([*map(_totals, series), f"from {number(edges[0])} to {number(edges[-1])}"])
    span = edges[-1] - edges[0]
    ticks = [_value(edges, (len(edges) - 1) * tick / (_TICKS - 1)) for tick in range(_TICKS)]
    axis = "".join(f"<span>{escape(number(_rounded(tick, span)))}</span>" for tick in ticks)
    return (
        f'<div class=hist><svg viewBox="0 0 {width} {_HEIGHT}" preserveAspectRatio=none role=img '
        f'aria-label="Histogram: {escape(label)}">{"".join(shapes)}</svg>'
        f"<span class=peak aria-hidden=true>highest bar {highest:,}</span>"
        f"{_null_bars(series, top, height)}<div class=axis aria-hidden=true>{axis}</div></div>"
    )


def _place(edges: Sequence[float], value: float) -> float:
    """Where a value is among the bars: 2.5 is the middle of the third."""
    bar = min(bisect.bisect_right(edges, value), len(edges) - 1) - 1
    return bar + (value - edges[bar]) / ((edges[bar + 1] - edges[bar]) or 1)


def _value(edges: Sequence[float], place: float) -> float:
    bar = min(int(place), len(edges) - 2)
    return edges[bar] + (place - bar) * (edges[bar + 1] - edges[bar])


def _title(edges: Sequence[float], series: Sequence[Series], bar: int) -> str:
    counts = ", ".join(f"{layer.counts[bar]:,} {layer.name}".strip() for layer in series)
    span = edges[-1] - edges[0]
    low, high = (number(_rounded(edge, span)) for edge in edges[bar : bar + 2])
    return f"{low} to {high}: {counts}"


def _totals(layer: Series) -> str:
    return f"{sum(layer.counts):,} {layer.name}, {layer.nulls:,} null".strip()


def _rounded(value: float, span: float) -> float:
    """As many digits as tell the thousandth part of a span."""
    return round(value, max(0, 3 - math.floor(math.log10(span)))) if span else value


def _bar(x: float, part: float, title: str) -> str:
    tall = max(_LEAST, part * _HEIGHT)
    return (
        f'<rect x="{x + 0.5}" y="{_HEIGHT - tall:.2f}" width="{_BAR_WIDTH - 1}" '
        f'height="{tall:.2f}"><title>{escape(title)}</title></rect>'
    )


def _null_bars(series: Sequence[Series], top: float, height: Any) -> str:
    """A bar of the rows without a value, beside the others; one that is too high is cut."""
    if not any(layer.nulls for layer in series):
        return ""
    bars = [
        f"<g class=series-{place}>"
        f"{_bar(0, min(1, height(layer.nulls) / top), f'{layer.nulls:,} null')}</g>"
        for place, layer in enumerate(series)
        if layer.nulls
    ]
    counts = " / ".join(f"{layer.nulls:,}" for layer in series)
    return (
        f'<svg class=nulls viewBox="0 0 {_BAR_WIDTH} {_HEIGHT}" preserveAspectRatio=none '
        f'aria-hidden=true>{"".join(bars)}</svg><span class="axis nulls">null<br>{counts}</span>'
    )


def sparkline(counts: Sequence[int]) -> str:
    """A histogram as small as a word."""
    top = max(counts, default=0) or 1
    bars = "".join(
        f'<rect x="{bar * 4}" y="{20 - max(1, 20 * count / top):.1f}" width="3" '
        f'height="{max(1, 20 * count / top):.1f}"/>'
        for bar, count in enumerate(counts)
        if count
    )
    return (
        f'<svg class=spark viewBox="0 0 {4 * len(counts)} 20" preserveAspectRatio=none '
        f"aria-hidden=true>{bars}</svg>"
    )


def bars(counts: Iterable[tuple[object, int]], total: int, head: str, unit: str = "rows") -> str:
    """Values and how many rows have each, as a table with a bar in each row."""
    counts = list(counts)
    top = max((count for _, count in counts), default=0) or 1
    rows = [
        (
            value if isinstance(value, Markup) else str(number(value)),
            count,
            Markup(f"<span class=n>{share(count, total)}</span>"),
            Markup(bar(count, top)),
        )
        for value, count in counts
    ]
    return table([head, unit, "share", ""], rows)


def bar(count: int, top: int) -> str:
    """A bar that is as long as a count is of the highest."""
    return (
        '<svg class=bar viewBox="0 0 100 8" preserveAspectRatio=none aria-hidden=true>'
        f'<rect width="{100 * count / (top or 1):.1f}" height="8"/></svg>'
    )


def data(name: str, value: Any) -> str:
    """Values for a script of the page: JSON in an element of this id."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # Neither "</script>" nor "<!--" ends or hides what follows.
    text = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return f'<script type="application/json" id="{escape(name)}">{text}</script>'


@functools.cache
def style() -> str:
    """The style that all pages share."""
    return resources.files(__package__).joinpath("style.css").read_text("utf-8")


def page(title: str, body: str, script: str = "", more_style: str = "") -> str:
    """A whole page that asks nothing of any server, and runs no script but its own.

    Parameters
    ----------
    title : str
        A text.
    body : str
        HTML.
    script, more_style : str
        JavaScript and CSS of this page.
    """
    whole = style() + more_style
    policy = (
        f"default-src 'none'; img-src data:; style-src {_source(whole)}; "
        f"script-src {_source(script)}; base-uri 'none'; form-action 'none'"
    )
    code = f"<script>{script}</script>" if script else ""
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f"<title>{escape(title)}</title><style>{whole}</style></head>"
        f"<body>{body}{code}</body></html>\n"
    )
    # Half a pair of UTF-16 that a caption holds is no text that can be stored.
    return text.encode("utf-8", "replace").decode()


def _source(text: str) -> str:
    """What a Content-Security-Policy calls a text by, as W3C's CSP level 3 defines it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
