"""The histogram of a column: SVG in notebooks, blocks of text in terminals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nemo_image_curate import html
from nemo_image_curate.dataset.looking import notebook
from nemo_image_curate.dataset.looking.distributions import Distribution

# Of counts: the lowest bar would be lower than a hundredth of the highest.
_STEEP = 100
_TEXT_WIDTH = 40
_TEXT_BARS = 20


@dataclass(frozen=True)
class Histogram:
    """How the values of a column are distributed.

    Attributes
    ----------
    distribution : Distribution
        The counts themselves.
    """

    distribution: Distribution

    @property
    def is_logarithmic(self) -> bool:
        """Whether bars are as high as log(1 + count): some would not be seen beside others."""
        counts = self.distribution.counts[self.distribution.counts > 0]
        return len(counts) > 0 and bool(counts.max() > _STEEP * np.median(counts))

    def _repr_html_(self) -> str:
        one = self.distribution
        title = f"<p><strong>{html.escape(one.column)}</strong> {html.escape(self._told())}</p>"
        if one.kind == "number" and len(one.counts):
            series = [html.Series("rows", one.counts.tolist(), one.nulls)]
            edges = one.edges.tolist()
            shown = html.histogram(edges, series, logarithmic=self.is_logarithmic)
        elif one.kind == "category":
            shown = html.bars(self._categories(), one.rows, one.column)
        else:
            shown = ""
        return notebook.fragment(title + shown, f"histogram of {one.column}")

    def __repr__(self) -> str:
        one = self.distribution
        if one.kind == "number" and len(one.counts):
            rows = self._few_bars()
        else:
            rows = self._categories()
        height = np.log1p if self.is_logarithmic and one.kind == "number" else float
        top = max((height(count) for _, count in rows), default=0) or 1
        width = max((len(name) for name, _ in rows), default=0)
        lines = [f"{one.column}: {self._told()}"]
        for name, count in rows:
            bar = "█" * max(round(_TEXT_WIDTH * height(count) / top), 1 if count else 0)
            lines.append(f"{name:>{width}} {bar:{_TEXT_WIDTH}} {count:,}".rstrip())
        return "\n".join(lines)

    def _told(self) -> str:
        one = self.distribution
        parts = [f"{one.rows:,} rows"]
        if one.nulls:
            parts.append(f"{one.nulls:,} null")
        if one.infinite:
            parts.append(f"{one.infinite:,} infinite, in no bar")
        if one.mean is not None:
            low, high, mean = (html.number(value) for value in (one.low, one.high, one.mean))
            parts.append(f"{low} to {high}, mean {mean}")
        if one.log:
            parts.append("logarithmic axis")
        if self.is_logarithmic:
            parts.append("bars of log(1 + count)")
        if one.kind == "other" and one.nulls < one.rows:
            parts.append("no numbers, and too many or nested values for bars")
        return ", ".join(parts)

    def _categories(self) -> list[tuple[str, int]]:
        one = self.distribution
        rows = list(one.categories)
        if one.others:
            rows.append((f"({one.n_others:,} other values)", one.others))
        if one.nulls:
            rows.append(("(null)", one.nulls))
        return rows

    def _few_bars(self) -> list[tuple[str, int]]:
        one = self.distribution
        step = -(-len(one.counts) // _TEXT_BARS)
        starts = range(0, len(one.counts), step)
        rows = [
            (f"{html.number(float(one.edges[start]))}", int(one.counts[start : start + step].sum()))
            for start in starts
        ]
        return [*rows, ("null", one.nulls)] if one.nulls else rows
