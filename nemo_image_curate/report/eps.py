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
from nemo_image_curate.report.eps_view import curve
from nemo_image_curate.report.pairs import Pairs
from nemo_image_curate.report.settings import Settings
from nemo_image_curate.tables import free_name
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
# What is told of a row's nearest, in columns of these names beside its own.
_NEAREST = ("nearest", "nearest_shard", "nearest_similarity")


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
    similarity : str
        The column of these that says how alike they are.
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
    similarity: str
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
    names = [free_name(name, dataset.metadata.columns) for name in _NEAREST]
    examples = _examples(dataset, nearest, values[::each], names, settings)
    return Curve(
        column,
        nearest.sample.of,
        len(nearest.similarity),
        nearest.sample.without,
        settings.seed,
        removals,
        each,
        examples,
        names[-1],
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
    dataset: ImageTextPairDataset,
    nearest: Nearest,
    bounds: list[float],
    names: list[str],
    settings: Settings,
) -> list[Pairs]:
    """For each eps but the first the least similar pairs that go there, and not before."""
    key, shard, similarity = names
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
    rows = rows.append_column(key, others[dataset.id_col])
    rows = rows.append_column(shard, others[SHARD_COLUMN])
    rows = rows.append_column(similarity, pa.array(nearest.similarity[places]))
    ends = np.cumsum([0, *map(len, chosen)])
    return [
        Pairs(
            *(rows.slice(start, end - start), key, shard),
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
    return f"<p class=note>{html.escape(data)}</p>" if isinstance(data, str) else curve(data, album)
