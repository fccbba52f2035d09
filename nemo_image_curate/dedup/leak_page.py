"""The leak page: what a decontamination found, as one HTML file that needs no other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_image_curate import html
from nemo_image_curate.dataset.looking.thumbnails import thumbnails
from nemo_image_curate.dedup.leak_summary import BINS, LeakSummary
from nemo_image_curate.version import __version__

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

# Of all pictures together; what comes after is named only.
_PICTURE_BYTES = 6_000_000
_CAPTION = 200
_STYLE = """
.pairs {
  display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr));
}
.pair { border: 1px solid var(--line); border-radius: 6px; padding: 8px; min-width: 0; }
.pair p { margin: 0 0 6px; }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: 8px; }
.series-0 { fill: var(--bad); }
.series-1 { fill: var(--muted); }
.series-1 rect { fill-opacity: 1; }
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
    pictures = _Pictures(dataset, references, [*summary.sample, *summary.nearest])
    leaks, rows = counts["leaks"], summary.rows
    place = dataset.metadata_path
    title = f"{place.rstrip('/').rpartition('/')[2] or place}: leaks"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{_count(leaks, rows)} of {rows:,} rows are in a reference, too; "
        f"{_count(counts['clean'], rows)} are clean; "
        f"{_count(counts['not_compared'], rows)} could not be compared.</p>",
        "<h2>By reference</h2>",
        _by_reference(summary, list(references)),
        "<h2>Not compared</h2>" if summary.not_compared else "",
        html.table(["why", "rows"], sorted(summary.not_compared.items()))
        if summary.not_compared
        else "",
        "<h2>Similarity to the row that is named</h2>",
        _histogram(summary, thresholds),
        f"<h2>Leaks: {len(summary.sample):,} of {leaks:,}, chosen at random</h2>",
        pictures.pairs(summary.sample) or "<p>None.</p>",
    ]
    if summary.nearest:
        parts += [
            f"<h2>The {len(summary.nearest):,} clean rows nearest to a reference</h2>",
            "<p class=note>Copies among these: the threshold is too strict for this encoder.</p>",
            pictures.pairs(summary.nearest),
        ]
    parts.append("<h2>How</h2>")
    if clean_list:
        name = html.escape(clean_list)
        parts.append(
            f'<p>Keys and shards of the {counts["clean"]:,} clean rows: <a href="{name}">{name}</a>'
            ", beside this file.</p>"
        )
    known = {**settings, "version": f"nemo_image_curate {__version__}"}
    parts.append(
        html.table(["setting", "value"], [(name, str(value)) for name, value in known.items()])
    )
    return html.page(title, f"<main>{''.join(parts)}</main>", more_style=_STYLE)


def _count(count: int, rows: int) -> str:
    return f"<b>{count:,}</b> ({html.share(count, rows)})"


def _by_reference(summary: LeakSummary, references: list[str]) -> str:
    """A row for each reference, with how many leaks each signal makes."""
    ways = sorted({how for _, how in summary.leaks})
    rows = []
    for name in references:
        counts = [summary.leaks[name, how] for how in ways]
        rows.append([name, sum(counts), *counts])
    return html.table(["reference", "leaks", *ways], rows)


def _histogram(summary: LeakSummary, thresholds: Mapping[str, float]) -> str:
    """Bars of hundredths on a logarithmic scale, leaks above clean rows."""
    leaks, clean = summary.histogram["leak"], summary.histogram["clean"]
    total = leaks + clean
    if not total.any():
        return "<p>No row has a similarity: hashes are looked for within the radius only.</p>"
    limits = {name: value for name, value in thresholds.items() if value < 1}
    lowest = [int(value * BINS) for value in limits.values()]
    first = min(int(np.flatnonzero(total)[0]), *lowest, BINS - 10)
    edges = [number / BINS for number in range(first, BINS + 1)]
    titles = [
        f"{number / BINS:.2f}: {clean[number]:,} clean, {leaks[number]:,} leaks"
        for number in range(first, BINS)
    ]
    # The clean rows are drawn over all rows: what is left to be seen of these are leaks.
    series = [
        html.Series("rows", total[first:].tolist()),
        html.Series("of them clean", clean[first:].tolist()),
    ]
    drawn = html.histogram(edges, series, limits, logarithmic=True, titles=titles)
    dashed = ", ".join(f"{name} from {value:.3f}" for name, value in limits.items())
    return (
        f"{drawn}<p class=note>Rows per hundredth, logarithmic; <b class=bad>red</b>: leaks, grey: "
        f"clean. Dashed: where a signal makes a leak ({html.escape(dashed or 'none')}).</p>"
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
        pictures = {}
        for place, thumbnail in zip(places, thumbnails(dataset, keys, shards), strict=True):
            name = ": ".join(map(str, place[::-1]))
            if thumbnail.jpeg is None:
                pictures[place] = html.reason(f"{name}: {thumbnail.reason}")
            elif self._left > 0:
                pictures[place] = html.picture(thumbnail.jpeg, name)
                self._left -= len(pictures[place])
            else:
                pictures[place] = html.reason("not shown: the page is large enough")
        return pictures

    def pairs(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """Rows beside what they are copies of."""
        cells = [self._pair(row) for row in rows]
        return f"<div class=pairs>{''.join(cells)}</div>" if cells else ""

    def _pair(self, row: Mapping[str, Any]) -> str:
        similarity, by = row["leak_similarity"], row["leak_by"]
        words = [by or "clean", "" if similarity is None else f"{similarity:.4f}"]
        caption = str(row.get("caption") or "")
        caption = caption if len(caption) <= _CAPTION else f"{caption[:_CAPTION]}…"
        picture = self._own[row["key"], row["shard"]]
        other = self._others.get(row["leak_of_dataset"], {}).get(
            (row["leak_of"], row["leak_of_shard"]), html.reason("not there")
        )
        name = f"{row['shard']}: {row['key']}"
        source = f"{row['leak_of_dataset']}: {row['leak_of_shard']}: {row['leak_of']}"
        return (
            f"<div class=pair><p><b>{html.escape(' '.join(words))}</b></p><div class=two>"
            f"{html.figure(picture, name, caption)}{html.figure(other, source)}</div></div>"
        )
