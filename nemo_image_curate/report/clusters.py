"""Clusters by size: what lies in their middle, what at their edge, and the words of captions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from nemo_image_curate import frames, html
from nemo_image_curate.dataset import partitions
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.expressions.check import check
from nemo_image_curate.report.album import Album, Rows, plain_columns
from nemo_image_curate.report.cluster_facts import (
    Columns,
    Sizes,
    add_up,
    centroids,
    count_sizes,
    extremes,
    nearest_of,
    top_words,
)
from nemo_image_curate.report.duplicates import prefixes
from nemo_image_curate.report.embeddings import embedding_column
from nemo_image_curate.report.settings import Settings

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

TITLE = "Clusters"
# Clusters that are shown, pictures of the middle and of the edge of each, and words.
_SHOWN, _PICTURES, _WORDS = 8, 4, 6
# Captions that words are counted in, of all clusters together, chosen by a hash.
_CAPTIONS = 50_000
_CAPTION = "caption"


@dataclass(frozen=True)
class Cluster:
    """One cluster.

    Attributes
    ----------
    number, rows, kept : int
    distance : float or None
        The mean cosine distance from the centroid; None where no row has an embedding.
    medoids, farthest : pyarrow.Table
        Rows with their distances; of the edge the farthest first.
    words : list of str
        What captions say here more often than elsewhere.
    """

    number: int
    rows: int
    kept: int
    distance: float | None
    medoids: pa.Table
    farthest: pa.Table
    words: list[str]


@dataclass(frozen=True)
class Clusters:
    """What the section shows.

    Attributes
    ----------
    columns : Columns
    kept : str or None
        The condition by which rows are kept; None where there is none.
    sizes : Sizes
        Of all clusters.
    shown : list of Cluster
        The largest.
    captions : int
        That words were counted in.
    """

    dataset: ImageTextPairDataset
    columns: Columns
    kept: str | None
    sizes: Sizes
    shown: list[Cluster]
    captions: int


def cluster_column(dataset: ImageTextPairDataset) -> str | None:
    """The column that says which cluster a row is in; of several levels the coarsest."""
    schema = frames.schema(dataset.metadata)
    names = [field.name for field in schema if pa.types.is_integer(field.type)]
    plain = [name for name in names if re.fullmatch(r"(.*_)?cluster", name)]
    levels = [name for name in names if re.fullmatch(r".*cluster_\d+", name)]
    levels.sort(key=lambda name: -int(name.rpartition("_")[2]))
    return next(iter([*plain, *levels]), None)


def kept_condition(dataset: ImageTextPairDataset, settings: Settings) -> str | None:
    """What rows are kept by: conditions, else a selection, else being no duplicate."""
    if settings.conditions:
        return " and ".join(f"({condition})" for condition in settings.conditions)
    columns = dataset.metadata.columns
    if "selected" in columns:
        return "selected"
    return next((f"not {prefix}is_duplicate" for prefix in prefixes(dataset)), None)


def gather(dataset: ImageTextPairDataset, settings: Settings) -> Clusters | None:
    """Count clusters, and look closer at the largest."""
    cluster, embeddings = cluster_column(dataset), embedding_column(dataset)
    if cluster is None or embeddings is None:
        return None
    caption = _CAPTION if _CAPTION in dataset.metadata.columns else None
    columns = Columns(dataset.id_col, cluster, embeddings, caption, plain_columns(dataset))
    condition = kept_condition(dataset, settings)
    sizes = _sizes(dataset, cluster, condition, settings)
    largest = sizes.clusters[:_SHOWN]
    if not len(largest):
        return None
    needed = [dataset.id_col, SHARD_COLUMN, cluster, embeddings, *([caption] if caption else [])]
    frame = dataset.metadata[needed]
    share = min(1.0, _CAPTIONS / max(1, int(sizes.rows.sum()) + sizes.nulls))
    added = partitions.run(
        frame,
        add_up,
        [(columns, largest, share, settings.seed)] * frame.npartitions,
        what="clusters",
        progress=settings.progress,
    )
    frame = dataset.metadata[list(dict.fromkeys([*columns.plain, cluster, embeddings]))]
    extreme_parts = partitions.run(
        frame,
        extremes,
        [(columns, largest, _PICTURES)] * frame.npartitions,
        what="clusters",
        shared=(centroids(added),),
        progress=settings.progress,
    )
    words = top_words(added, _WORDS)
    clusters = []
    for place, number in enumerate(largest):
        parts = [by_cluster[place] for by_cluster in extreme_parts]
        count = sum(part.count for part in parts)
        near = nearest_of([part.near for part in parts], columns, _PICTURES)
        far = nearest_of([part.far for part in parts], columns, _PICTURES, farthest=True)
        clusters.append(
            Cluster(
                *(int(number), int(sizes.rows[place]), int(sizes.kept[place])),
                sum(part.total for part in parts) * 2.0**-32 / count if count else None,
                *(near, far, words[place]),
            )
        )
    captions = int(np.sum([part.captions[-1] for part in added]))
    return Clusters(dataset, columns, condition, sizes, clusters, captions)


def _sizes(
    dataset: ImageTextPairDataset, cluster: str, condition: str | None, settings: Settings
) -> Sizes:
    used = check(condition, list(dataset.metadata.columns)) if condition else []
    frame = dataset.metadata[list(dict.fromkeys([cluster, *used]))]
    parts = partitions.run(
        frame,
        count_sizes,
        [(cluster, condition)] * frame.npartitions,
        what="clusters",
        progress=settings.progress,
    )
    return Sizes.merged(parts)


def pictures(data: Clusters) -> Iterable[Rows]:
    """Medoids, and what is farthest."""
    for cluster in data.shown:
        yield Rows(cluster.medoids, data.dataset)
        yield Rows(cluster.farthest, data.dataset)


def render(data: Clusters, album: Album) -> str:
    """The section as HTML."""
    sizes = data.sizes
    total = int(sizes.rows.sum())
    nulls = f"; {sizes.nulls:,} rows are in none" if sizes.nulls else ""
    many = len(sizes.clusters) > 1
    fewest = f"{int(sizes.rows[-1]):,} to " if many else ""
    how = (
        f"<p><b>{len(sizes.clusters):,}</b> cluster{'s' if many else ''} of "
        f"<code>{html.escape(data.columns.cluster)}</code> with {fewest}{int(sizes.rows[0]):,} rows"
        f"{nulls}.{f' The {len(data.shown)} largest:' if many else ''}</p>"
        f"<p class=note>Distances are 1 - cosine, of <code>{html.escape(data.columns.embeddings)}"
        "</code> from the mean direction of the cluster."
    )
    if data.captions:
        how += (
            " Words that are more frequent than elsewhere, by p ln(p / q): p is the share of the "
            f"cluster's captions with the word, q that of all; of {data.captions:,} captions"
            f"{' chosen by a hash' if data.captions >= _CAPTIONS else ''}."
        )
    if data.kept is not None:
        how += f" Kept: <code>{html.escape(data.kept)}</code>."
    return f"{how}</p>{''.join(_cluster(cluster, data, total, album) for cluster in data.shown)}"


def _cluster(cluster: Cluster, data: Clusters, total: int, album: Album) -> str:
    facts = [f"{cluster.rows:,} rows ({html.share(cluster.rows, total)})"]
    if cluster.distance is not None:
        facts.append(f"mean distance {html.number(cluster.distance)}")
    if data.kept is not None:
        facts.append(f"{html.share(cluster.kept, cluster.rows)} kept")
    words = f"<p>{html.escape(', '.join(cluster.words))}</p>" if cluster.words else ""
    return (
        f"<div class=cluster><h3>Cluster {cluster.number}</h3>"
        f"<p class=note>{html.escape(', '.join(facts))}</p>{words}"
        f"<div class=sides>{_side('In the middle', cluster.medoids, data, album)}"
        f"{_side('Farthest', cluster.farthest, data, album)}</div></div>"
    )


def _side(title: str, table: pa.Table, data: Clusters, album: Album) -> str:
    strip = album.strip(Rows(table, data.dataset), data.columns.distance)
    return f"<div><h4>{title}</h4>{strip}</div>"
