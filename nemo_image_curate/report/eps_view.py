"""How many rows go by eps, as HTML: a curve, its slider, a table, and pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nemo_image_curate import html
from nemo_image_curate.report.album import Album
from nemo_image_curate.report.pairs import Row

if TYPE_CHECKING:
    from nemo_image_curate.report.eps import Curve

_WIDTH, _HEIGHT = 600, 200


def curve(data: Curve, album: Album) -> str:
    """The section as HTML."""
    return _method(data) + _slider(data) + _table(data) + _pairs(data, album)


def _method(data: Curve) -> str:
    lacking = f" ({data.without:,} more had no embedding)" if data.without else ""
    text = (
        f"An estimate: {data.sampled:,} rows chosen at random (seed {data.seed}){lacking} were "
        f"each compared with all {data.rows:,} rows by <code>{html.escape(data.column)}</code>, "
        "exactly. A row counts as removed when one before it, in a random order, has a cosine "
        'similarity of at least 1 - eps: SemDeDup\'s rule. <code>rule="greedy"</code>, the '
        "default, removes these or fewer. The band is the 95 % interval of the sample (Wilson)."
    )
    if data.done is not None:
        text += (
            f" Dashed: eps {html.number(data.done.eps)}, with which the deduplication in this "
            f"dataset removed {data.done.count:,}."
        )
    return f"<p>{text}</p>"


def _slider(data: Curve) -> str:
    steps = [[removal.eps, removal.count, removal.low, removal.high] for removal in data.removals]
    start = len(data.removals) // 2
    if data.done is not None:
        start = int(np.argmin([abs(removal.eps - data.done.eps) for removal in data.removals]))
    script = html.data("eps-data", {"steps": steps, "rows": data.rows, "each": data.each})
    return f'<div class=eps data-start="{start}">{_chart(data)}{script}</div>'


def _chart(data: Curve) -> str:
    """The curve with its band, as SVG."""
    last = data.removals[-1].eps
    top = max(removal.high for removal in [*data.removals, data.done or data.removals[0]]) or 1

    def at(eps: float, count: float) -> str:
        return f"{eps / last * _WIDTH:.1f},{_HEIGHT * (1 - count / top):.1f}"

    band = [at(removal.eps, removal.high) for removal in data.removals]
    band += [at(removal.eps, removal.low) for removal in reversed(data.removals)]
    line = " ".join(at(removal.eps, removal.count) for removal in data.removals)
    mark = ""
    if data.done is not None and data.done.eps <= last:
        x, y = at(data.done.eps, data.done.count).split(",")
        mark = f'<line class=mark x1="{x}" x2="{x}" y1="{y}" y2="{_HEIGHT}"/>'
    final = data.removals[-1]
    label = (
        f"Rows removed, by eps: from {data.removals[0].count:,} at 0 to {final.count:,} at "
        f"{html.number(last)}"
    )
    ticks = "".join(
        f"<span>{html.number(removal.eps)}</span>" for removal in data.removals[:: data.each]
    )
    return (
        f'<div class=hist><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio=none role=img '
        f'aria-label="{label}"><polygon class=band points="{" ".join(band)}"/>'
        f'<polyline class=curve points="{line}"/>{mark}'
        f'<line class=cursor x1="0" x2="0" y1="0" y2="{_HEIGHT}" visibility="hidden"/></svg>'
        f"<div class=axis aria-hidden=true>{ticks}</div></div>"
        f"<p class=note>Rows removed, up to {top:,}, by eps.</p>"
    )


def _table(data: Curve) -> str:
    removals = data.removals[data.each :: data.each]
    rows = [
        [
            removal.eps,
            removal.count,
            html.share(removal.count, data.rows),
            f"{removal.low:,} to {removal.high:,}",
        ]
        for removal in removals
    ]
    return html.table(["eps", "rows removed", "share", "95 % interval"], rows)


def _pairs(data: Curve, album: Album) -> str:
    def lines(row: Row, other: Row | None) -> list[str]:
        return [f"similarity {html.number(row[data.similarity])}"]

    parts = []
    before = 0.0
    for removal, pairs in zip(data.removals[data.each :: data.each], data.examples, strict=True):
        span = f"between {1 - removal.eps:.3f} and {1 - before:.3f}"
        figures = (
            pairs.show(album, lines)
            if len(pairs.rows)
            else f"<p class=note>No pair of the sample has a similarity {span}.</p>"
        )
        parts.append(
            f'<div class=at-eps data-eps="{removal.eps}"><h4>eps {html.number(removal.eps)}: the '
            f"least alike pairs that it takes for one</h4>{figures}</div>"
        )
        before = removal.eps
    return "".join(parts)
