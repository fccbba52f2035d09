"""How many rows a semantic deduplication would remove, by its eps, with pairs at some of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from nemo_image_curate import html
from nemo_image_curate.dataset.looking.distributions import distributions
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.errors import DatasetError
from nemo_image_curate.report.album import Album, Rows, plain_columns
from nemo_image_curate.report.duplicates import prefixes
from nemo_image_curate.report.embeddings import (
    Nearest,
    embedding_column,
    nearest_earlier,
    rows_at,
)
from nemo_image_curate.report.pairs import Pairs, Row
from nemo_image_curate.report.settings import Settings
from nemo_image_curate.vectors.nearest import GRAIN

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

TITLE = "Duplicates by eps"
# Values of eps that have examples, and how many pairs each.
_SHOWN, _PAIRS = 6, 3
# The curve ends where half of the rows are gone, and no sooner than here: at so many hundredths
# that those with examples are hundredths, too.
_HALF, _FEWEST, _MOST = 0.5, 12, 102
# Steps of the slider to a hundredth: fine ones on a short curve.
_FINE, _COARSE = 5, 2
# Two-sided, of a normal distribution: 95 %.
_Z = 1.96
_NEAREST, _NEAREST_SHARD, _SIMILARITY = "nearest", "nearest_shard", "nearest_similarity"
_WIDTH, _HEIGHT = 600, 200


@dataclass(frozen=True)
class Removal:
    """How many rows go at an eps.

    Attributes
    ----------
    eps : float
    count : int
        Estimated of all rows.
    low, high : int
        A 95 % interval of it.
    """

    eps: float
    count: int
    low: int
    high: int


@dataclass(frozen=True)
class Curve:
    """What the section shows.

    Attributes
    ----------
    column : str
        Of embeddings.
    rows : int
        Of the dataset.
    sampled, without : int
        Rows that were compared with all, and those of the sample without an embedding.
    seed : int
    removals : list of Removal
        By eps, rising from 0.
    each : int
        Every so many of them have examples, 0 has none.
    examples : list of Pairs
        At each of these: the pairs least similar that go there, and not at the one before.
    done : Removal or None
        What a deduplication that was made removed.
    """

    column: str
    rows: int
    sampled: int
    without: int
    seed: int
    removals: list[Removal]
    each: int
    examples: list[Pairs]
    done: Removal | None


def gather(dataset: ImageTextPairDataset, settings: Settings) -> Curve | str | None:
    """Compare a sample with all rows, and choose pairs; or why that cannot be done."""
    column = embedding_column(dataset)
    if column is None:
        return None
    try:
        nearest = nearest_earlier(
            dataset, column, plain_columns(dataset), settings.seed, settings.progress
        )
    except DatasetError as error:
        return str(error)
    values, each = _values(nearest.similarity)
    removals = [_removal(nearest, eps) for eps in values]
    examples = _examples(dataset, nearest, values[::each], settings)
    return Curve(
        column,
        nearest.sample.of,
        len(nearest.similarity),
        nearest.sample.without,
        settings.seed,
        removals,
        each,
        examples,
        _done(dataset, column, settings),
    )


def _values(similarity: np.ndarray) -> tuple[list[float], int]:
    """The values of eps that are looked at, 0 the first, and every which of them has examples."""
    middle = float(np.quantile(similarity, 1 - _HALF, method="higher"))
    hundredths = _SHOWN * math.ceil(min(100 * (1 - middle), _MOST) / _SHOWN)
    hundredths = max(_FEWEST, hundredths)
    steps = _FINE if hundredths < 4 * _SHOWN else _COARSE
    values = [step / (100 * steps) for step in range(hundredths * steps + 1)]
    return values, hundredths * steps // _SHOWN


def _removal(nearest: Nearest, eps: float) -> Removal:
    """What an eps removes of all rows, told by the sample."""
    sampled = len(nearest.similarity)
    hits = int((nearest.similarity >= 1 - eps - GRAIN).sum())
    total = nearest.sample.of * sampled / (sampled + nearest.sample.without)
    low, high = wilson(hits, sampled)
    return Removal(eps, round(total * hits / sampled), round(total * low), round(total * high))


def wilson(hits: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a proportion.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    share, z2 = hits / total, _Z * _Z
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2)) / (1 + z2 / total)
    return max(0.0, middle - half), min(1.0, middle + half)


def _examples(
    dataset: ImageTextPairDataset, nearest: Nearest, bounds: list[float], settings: Settings
) -> list[Pairs]:
    """For each eps but the first the least similar pairs that go there, and not before."""
    # Ties by the order of the sample, which is one of hashes.
    order = np.argsort(nearest.similarity, kind="stable")
    sorted_similarity = nearest.similarity[order]
    chosen = []
    for before, eps in itertools.pairwise(bounds):
        first = np.searchsorted(sorted_similarity, 1 - eps - GRAIN)
        # Copies belong to the smallest.
        end = np.searchsorted(sorted_similarity, 1 - before - GRAIN if before else np.inf)
        chosen.append(order[first:end][:_PAIRS])
    places = np.concatenate(chosen)
    others = rows_at(
        dataset,
        nearest.partition[places],
        nearest.row[places],
        plain_columns(dataset),
        settings.progress,
    )
    rows = nearest.sample.rows.take(places)
    rows = rows.append_column(_NEAREST, others[dataset.id_col])
    rows = rows.append_column(_NEAREST_SHARD, others[SHARD_COLUMN])
    rows = rows.append_column(_SIMILARITY, pa.array(nearest.similarity[places]))
    ends = np.cumsum([0, *map(len, chosen)])
    return [
        Pairs(
            *(rows.slice(start, end - start), _NEAREST, _NEAREST_SHARD),
            *(others.slice(start, end - start), dataset, dataset),
        )
        for start, end in itertools.pairwise(ends)
    ]


def _done(dataset: ImageTextPairDataset, column: str, settings: Settings) -> Removal | None:
    """What the deduplication of these embeddings removed, where there was one."""
    for prefix in prefixes(dataset):
        flag = f"{prefix}is_duplicate"
        record = dataset.provenance.get(flag, {})
        if record.get("stage") == "SemanticDedup" and record.get("embedding_column") == column:
            counts = distributions(dataset, [flag], progress=settings.progress)[flag].categories
            count = dict(counts).get("true", 0)
            return Removal(float(record["eps"]), count, count, count)
    return None


def pictures(data: Curve | str) -> Iterable[Rows]:
    """Those of the pairs."""
    for pairs in () if isinstance(data, str) else data.examples:
        yield from pairs.pictures()


def render(data: Curve | str, album: Album) -> str:
    """The section as HTML."""
    if isinstance(data, str):
        return f"<p class=note>{html.escape(data)}</p>"
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
    steps = [[one.eps, one.count, one.low, one.high] for one in data.removals]
    start = len(data.removals) // 2
    if data.done is not None:
        start = int(np.argmin([abs(one.eps - data.done.eps) for one in data.removals]))
    told = html.data("eps-data", {"steps": steps, "rows": data.rows, "each": data.each})
    return f'<div class=eps data-start="{start}">{_chart(data)}{told}</div>'


def _chart(data: Curve) -> str:
    """The curve with its band, as SVG."""
    last = data.removals[-1].eps
    top = max(one.high for one in [*data.removals, data.done or data.removals[0]]) or 1

    def at(eps: float, count: float) -> str:
        return f"{eps / last * _WIDTH:.1f},{_HEIGHT * (1 - count / top):.1f}"

    band = [at(one.eps, one.high) for one in data.removals]
    band += [at(one.eps, one.low) for one in reversed(data.removals)]
    line = " ".join(at(one.eps, one.count) for one in data.removals)
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
        f"<span>{html.number(last * part / _SHOWN)}</span>" for part in range(_SHOWN + 1)
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
    shown = data.removals[data.each :: data.each]
    rows = [
        [one.eps, one.count, html.share(one.count, data.rows), f"{one.low:,} to {one.high:,}"]
        for one in shown
    ]
    return html.table(["eps", "rows removed", "share", "95 % interval"], rows)


def _pairs(data: Curve, album: Album) -> str:
    parts = []
    before = 0.0
    for one, pairs in zip(data.removals[data.each :: data.each], data.examples, strict=True):
        span = f"between {1 - one.eps:.3f} and {1 - before:.3f}"
        shown = (
            pairs.show(album, _told)
            if len(pairs.rows)
            else f"<p class=note>No pair of the sample has a similarity {span}.</p>"
        )
        parts.append(
            f'<div class=at-eps data-eps="{one.eps}"><h4>eps {html.number(one.eps)}: the least '
            f"alike pairs that it takes for one</h4>{shown}</div>"
        )
        before = one.eps
    return "".join(parts)


def _told(row: Row, other: Row | None) -> list[str]:
    return [f"similarity {html.number(row[_SIMILARITY])}"]
