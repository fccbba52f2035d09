"""The leak page: what a decontamination found, as one HTML file that needs no other."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_image_curate.dataset.looking.gallery import picture, reason
from nemo_image_curate.dedup.leak_summary import BINS, LeakSummary
from nemo_image_curate.version import __version__

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

# Of all pictures together; what comes after is named only.
_PICTURE_BYTES = 6_000_000
_CAPTION = 200
_STYLE = """
:root{color-scheme:light dark;--line:#8886;--leak:#c62828;--clean:#607d8b}
body{font:15px/1.45 system-ui,sans-serif;margin:0 auto;padding:16px;max-width:1100px}
h1{font-size:1.5em;margin:.2em 0}h2{font-size:1.15em;margin:1.6em 0 .5em}
table{border-collapse:collapse}th,td{padding:3px 12px 3px 0;text-align:left;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}tr{border-bottom:1px solid var(--line)}
.wide{overflow-x:auto}.note{opacity:.75;font-size:.9em}
.pairs{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,420px),1fr));gap:14px}
.pair{border:1px solid var(--line);border-radius:6px;padding:8px;min-width:0}
.two{display:grid;grid-template-columns:1fr 1fr;gap:8px}figure{margin:0;min-width:0}
.two img{max-width:100%;height:auto;display:block;min-height:48px;image-rendering:auto}
figcaption{font-size:.8em;overflow-wrap:anywhere}b.s{color:var(--leak)}
svg{width:100%;height:auto;max-width:1000px}
"""


def leak_page(
    dataset: ImageTextPairDataset,
    references: Mapping[str, ImageTextPairDataset],
    summary: LeakSummary,
    thresholds: Mapping[str, float],
    settings: Mapping[str, Any],
    clean_list: str | None,
) -> str:
    """The page as HTML.

    Parameters
    ----------
    dataset : ImageTextPairDataset
    references : dict of str to ImageTextPairDataset
    summary : LeakSummary
    thresholds : dict of str to float
        Signals, and the similarity from which on they make a row a leak.
    settings : dict of str to object
        How it was found, to be printed.
    clean_list : str or None
        The name of the file with the clean rows.
    """
    counts = summary.counts()
    shown = _Pictures(dataset, references, [*summary.sample, *summary.nearest])
    leaks, rows = counts["leaks"], summary.rows
    parts = [
        "<h1>Leaks</h1>",
        f"<p>{_share(leaks, rows)} of {rows:,} rows are in a reference, too; "
        f"{_share(counts['clean'], rows)} are clean; "
        f"{_share(counts['not_compared'], rows)} could not be compared.</p>",
        "<h2>By reference</h2>",
        _by_reference(summary, list(references)),
        "<h2>Not compared</h2>" if summary.not_compared else "",
        _table(["why", "rows"], sorted(summary.not_compared.items()))
        if summary.not_compared
        else "",
        "<h2>Similarity to the row that is named</h2>",
        _histogram(summary, thresholds),
        f"<h2>Leaks: {len(summary.sample):,} of {leaks:,}, chosen at random</h2>",
        shown.pairs(summary.sample) or "<p>None.</p>",
    ]
    if summary.nearest:
        parts += [
            f"<h2>The {len(summary.nearest):,} clean rows nearest to a reference</h2>",
            "<p class=note>Copies among these: the threshold is too strict for this encoder.</p>",
            shown.pairs(summary.nearest),
        ]
    parts.append("<h2>How</h2>")
    if clean_list:
        name = html.escape(clean_list)
        parts.append(
            f'<p>Keys and shards of the {counts["clean"]:,} clean rows: <a href="{name}">{name}</a>'
            ", beside this file.</p>"
        )
    known = {**settings, "version": f"nemo_image_curate {__version__}"}
    parts.append(_table(["setting", "value"], [(name, str(one)) for name, one in known.items()]))
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f"<title>Leaks</title><style>{_STYLE}</style><body>{''.join(parts)}</body></html>"
    )


def _share(count: int, rows: int) -> str:
    return f"<b>{count:,}</b> ({count / max(rows, 1):.2%})"


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    def cell(value: Any, tag: str = "td") -> str:
        if isinstance(value, int):
            return f"<{tag} class=n>{value:,}</{tag}>"
        return f"<{tag}>{html.escape(str(value))}</{tag}>"

    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    head = "".join(cell(one, "th") for one in heads)
    return f"<div class=wide><table><tr>{head}</tr>{body}</table></div>"


def _by_reference(summary: LeakSummary, references: list[str]) -> str:
    """A row for each reference, with how many leaks each signal makes."""
    ways = sorted({how for _, how in summary.leaks})
    rows = []
    for name in references:
        counts = [summary.leaks[name, how] for how in ways]
        rows.append([name, sum(counts), *counts])
    return _table(["reference", "leaks", *ways], rows)


def _histogram(summary: LeakSummary, thresholds: Mapping[str, float]) -> str:
    """Bars of hundredths on a logarithmic scale, leaks above clean rows, as SVG."""
    width, height, top, base = 700, 230, 46, 200
    total = summary.histogram["leak"] + summary.histogram["clean"]
    if not total.any():
        return "<p>No row has a similarity: hashes are looked for within the radius only.</p>"
    used = np.flatnonzero(total)
    limits = [value for value in thresholds.values() if value < 1]
    first = min(int(used[0]), *(int(value * BINS) for value in limits), BINS - 10)
    step = width / (BINS - first)
    scale = (base - top) / np.log1p(total.max())
    shapes = []
    for number in range(first, BINS):
        left = (number - first) * step
        clean, leak = (int(summary.histogram[kind][number]) for kind in ("clean", "leak"))
        title = f"<title>{number / BINS:.2f}: {clean:,} clean, {leak:,} leaks</title>"
        for count, colour in ((clean + leak, "leak"), (clean, "clean")):
            tall = float(np.log1p(count) * scale)
            if count:
                shapes.append(
                    f'<rect x="{left:.1f}" y="{base - tall:.1f}" width="{step * 0.9:.1f}" '
                    f'height="{tall:.1f}" fill="var(--{colour})">{title}</rect>'
                )
    for number in range(first, BINS + 1):
        if number % 10 == 0:
            x = (number - first) * step
            anchor = {first: "start", BINS: "end"}.get(number, "middle")
            shapes.append(
                f'<text x="{x:.1f}" y="{height - 8}" text-anchor="{anchor}" font-size="16" '
                f'fill="currentColor">{number / BINS:.1f}</text>'
            )
    for row, (name, value) in enumerate(thresholds.items()):
        if value < 1:
            x = (value * BINS - first) * step
            shapes.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="6" y2="{base}" '
                'stroke="currentColor" stroke-dasharray="5 4"/>'
                f'<text x="{x - 5:.1f}" y="{16 + 18 * row}" text-anchor="end" font-size="16" '
                f'fill="currentColor">{html.escape(name)} {value:.3f}</text>'
            )
    return (
        f'<svg viewBox="0 0 {width} {height}" role=img aria-label="Histogram of similarities">'
        f"{''.join(shapes)}</svg><p class=note>Rows per hundredth, logarithmic; "
        "<b class=s>red</b>: leaks, grey: clean. Dashed: from where on a signal makes a leak.</p>"
    )


class _Pictures:
    """Pictures of rows and of what they are copies of, until there are enough bytes of them."""

    def __init__(
        self,
        dataset: ImageTextPairDataset,
        references: Mapping[str, ImageTextPairDataset],
        rows: Sequence[Mapping[str, Any]],
    ):
        self._left = _PICTURE_BYTES
        self._own = self._read(dataset, [(row["key"], row["shard"]) for row in rows])
        self._others = {}
        for name, reference in references.items():
            places = {
                (row["leak_of"], row["leak_of_shard"])
                for row in rows
                if row["leak_of_dataset"] == name
            }
            self._others[name] = self._read(reference, sorted(places))

    def _read(
        self, dataset: ImageTextPairDataset, places: Sequence[tuple[str, str]]
    ) -> dict[tuple[str, str], str]:
        keys, shards = [key for key, _ in places], [shard for _, shard in places]
        shown = dict.fromkeys(places, reason("not there"))
        for row, content, problem in dataset.tars.image_bytes(keys, shards, use_index_files=True):
            place = ": ".join(map(str, places[row][::-1]))
            if content is None:
                shown[places[row]] = reason(f"{place}: {problem}")
            elif self._left > 0:
                shown[places[row]] = picture(content, place)
                self._left -= len(shown[places[row]])
            else:
                shown[places[row]] = reason("not shown: the page is large enough")
        return shown

    def pairs(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """Rows beside what they are copies of."""
        cells = [self._pair(row) for row in rows]
        return f"<div class=pairs>{''.join(cells)}</div>" if cells else ""

    def _pair(self, row: Mapping[str, Any]) -> str:
        similarity, by = row["leak_similarity"], row["leak_by"]
        told = [by or "clean", "" if similarity is None else f"{similarity:.4f}"]
        caption = str(row.get("caption") or "")
        caption = caption if len(caption) <= _CAPTION else f"{caption[:_CAPTION]}…"
        own = self._own[row["key"], row["shard"]]
        other = self._others.get(row["leak_of_dataset"], {}).get(
            (row["leak_of"], row["leak_of_shard"]), reason("not there")
        )
        name = f"{row['shard']}: {row['key']}"
        source = f"{row['leak_of_dataset']}: {row['leak_of_shard']}: {row['leak_of']}"
        return (
            f"<div class=pair><p style='margin:0 0 6px'><b>{html.escape(' '.join(told))}</b></p>"
            f"<div class=two>{_figure(own, name, caption)}"
            f"{_figure(other, source, '')}</div></div>"
        )


def _figure(shown: str, name: str, caption: str) -> str:
    text = f"<b>{html.escape(name)}</b>" + (f"<br>{html.escape(caption)}" if caption else "")
    return f"<figure>{shown}<figcaption>{text}</figcaption></figure>"
