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
        dist = self.distribution
        title = f"<p><strong>{html.escape(dist.column)}</strong> {html.escape(self._facts())}</p>"
        if dist.kind == "number" and len(dist.counts):
            series = [html.Series("rows", dist.counts.tolist(), dist.nulls)]
            edges = dist.edges.tolist()
            chart = html.histogram(edges, series, logarithmic=self.is_logarithmic)
        elif dist.kind == "category":
            chart = html.bars(self._categories(), dist.rows, dist.column)
        else:
            chart = ""
        return notebook.fragment(title + chart, f"histogram of {dist.column}")

    def __repr__(self) -> str:
        dist = self.distribution
        if dist.kind == "number" and len(dist.counts):
            rows = self._few_bars()
        else:
            rows = self._categories()
        height = np.log1p if self.is_logarithmic and dist.kind == "number" else float
        top = max((height(count) for _, count in rows), default=0) or 1
        width = max((len(name) for name, _ in rows), default=0)
        lines = [f"{dist.column}: {self._facts()}"]
        for name, count in rows:
            bar = "█" * max(round(_TEXT_WIDTH * height(count) / top), 1 if count else 0)
            lines.append(f"{name:>{width}} {bar:{_TEXT_WIDTH}} {count:,}".rstrip())
        return "\n".join(lines)

    def _facts(self) -> str:
        dist = self.distribution
        parts = [f"{dist.rows:,} rows"]
        if dist.nulls:
            parts.append(f"{dist.nulls:,} null")
        if dist.infinite:
            parts.append(f"{dist.infinite:,} infinite, in no bar")
        if dist.mean is not None:
            low, high, mean = (html.number(value) for value in (dist.low, dist.high, dist.mean))
            parts.append(f"{low} to {high}, mean {mean}")
        if dist.log:
            parts.append("logarithmic axis")
        if self.is_logarithmic:
            parts.append("bars of log(1 + count)")
        if dist.kind == "other" and dist.nulls < dist.rows:
            parts.append("no numbers, and too many or nested values for bars")
        return ", ".join(parts)

    def _categories(self) -> list[tuple[str, int]]:
        dist = self.distribution
        rows = list(dist.categories)
        if dist.others:
            rows.append((f"({dist.n_others:,} other values)", dist.others))
        if dist.nulls:
            rows.append(("(null)", dist.nulls))
        return rows

    def _few_bars(self) -> list[tuple[str, int]]:
        dist = self.distribution
        step = -(-len(dist.counts) // _TEXT_BARS)
        starts = range(0, len(dist.counts), step)
        rows = [
            (
                f"{html.number(float(dist.edges[start]))}",
                int(dist.counts[start : start + step].sum()),
            )
            for start in starts
        ]
        return [*rows, ("null", dist.nulls)] if dist.nulls else rows
