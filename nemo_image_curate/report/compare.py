"""Two datasets, or two runs of one: rows, decisions, values and provenance that differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nemo_image_curate import frames
from nemo_image_curate.dataset import partitions
from nemo_image_curate.dataset.looking.distributions import distributions
from nemo_image_curate.dataset.looking.rows import rows_of
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.report import joined
from nemo_image_curate.report.album import Album, Rows, plain_columns
from nemo_image_curate.report.compare_view import comparison
from nemo_image_curate.report.joined import Comparison, Join
from nemo_image_curate.report.settings import Settings

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

TITLE = "Comparison"
# Pictures of each kind of change, columns with a histogram, and its bars.
_EXAMPLES, _HISTOGRAMS, _BARS = 6, 12, 40


@dataclass(frozen=True)
class Overlay:
    """A column's values in both datasets, counted between the same edges.

    Attributes
    ----------
    column : str
    edges : list of float
    counts, nulls : list of list of int, list of int
        For each of the two.
    """

    column: str
    edges: list[float]
    counts: list[list[int]]
    nulls: list[int]

    @property
    def is_same(self) -> bool:
        """Whether nothing of the two differs."""
        return self.counts[0] == self.counts[1] and self.nulls[0] == self.nulls[1]


@dataclass(frozen=True)
class Compared:
    """What the section shows.

    Attributes
    ----------
    names : tuple of str
        What the two are called.
    datasets : tuple of ImageTextPairDataset
    join : Join
    rows : tuple of int
    found : Comparison
    columns : tuple of list of str
        That only one of them has.
    overlays : list of Overlay
    examples : dict of str to Rows
        By what they are examples of.
    """

    names: tuple[str, str]
    datasets: tuple[ImageTextPairDataset, ImageTextPairDataset]
    join: Join
    rows: tuple[int, int]
    found: Comparison
    columns: tuple[list[str], list[str]]
    overlays: list[Overlay]
    examples: dict[str, Rows]


def gather(dataset: ImageTextPairDataset, settings: Settings) -> Compared | None:
    """Join the two, and count."""
    if settings.against is None:
        return None
    datasets = (dataset, settings.against)
    names = names_of(*datasets)
    first_columns, second_columns = (plain_columns(side) for side in datasets)
    places = {side.id_col for side in datasets} | {SHARD_COLUMN}
    common = [name for name in first_columns if name in second_columns and name not in places]
    join = Join.of(*datasets)
    counts = joined.compare(*datasets, join, common, _EXAMPLES, settings.seed, settings.progress)
    columns = [list(map(str, side.metadata.columns)) for side in datasets]
    return Compared(
        names,
        datasets,
        join,
        (len(dataset), len(settings.against)),
        counts,
        (
            [name for name in columns[0] if name not in {*columns[1], *places}],
            [name for name in columns[1] if name not in {*columns[0], *places}],
        ),
        _overlays(datasets, common, settings),
        _examples(counts, datasets, names[1], settings),
    )


def names_of(first: ImageTextPairDataset, second: ImageTextPairDataset) -> tuple[str, str]:
    """The last parts of two places, as many as tell them apart."""
    places = [dataset.metadata_path.rstrip("/").split("/") for dataset in (first, second)]
    for parts in range(1, max(map(len, places)) + 1):
        names = ["/".join(place[-parts:]) for place in places]
        if names[0] != names[1]:
            return names[0], names[1]
    return names[0], f"{names[0]} (again)"


def _examples(
    counts: Comparison,
    datasets: Sequence[ImageTextPairDataset],
    name: str,
    settings: Settings,
) -> dict[str, Rows]:
    """The rows that changes are shown by: of the second dataset what is only there."""
    sides = [
        {
            kind: places
            for kind, places in counts.examples.items()
            if (kind == "only_b") == is_second
        }
        for is_second in (False, True)
    ]
    examples = {}
    for dataset, kinds, called in zip(datasets, sides, ("", name), strict=True):
        keys = [key for places in kinds.values() for _, key, _ in places]
        table = rows_of(dataset, keys, plain_columns(dataset), settings.progress)
        row_of = {
            place: row
            for row, place in enumerate(
                zip(table[dataset.id_col].to_pylist(), table[SHARD_COLUMN].to_pylist(), strict=True)
            )
        }
        for kind, places in kinds.items():
            rows = [row_of[key, shard] for _, key, shard in places if (key, shard) in row_of]
            examples[kind] = Rows(table.take(pa.array(rows, pa.int64())), dataset, called)
    return examples


def _overlays(
    datasets: Sequence[ImageTextPairDataset], columns: Sequence[str], settings: Settings
) -> list[Overlay]:
    """Columns of numbers, counted between edges that both share; not those of names."""
    columns = [name for name in columns if not _is_name(name, datasets[0])]
    both = [distributions(dataset, columns, progress=settings.progress) for dataset in datasets]
    edges = {}
    for name in columns:
        known = [by_column[name] for by_column in both]
        lows = [dist.low for dist in known if dist.kind == "number" and dist.low is not None]
        highs = [dist.high for dist in known if dist.kind == "number" and dist.high is not None]
        if len(lows) == len(known) and min(lows) < max(highs):
            edges[name] = np.linspace(min(lows), max(highs), _BARS + 1)
    # Scores come after what was measured: of many columns the last are those that were decided by.
    edges = dict(list(edges.items())[-_HISTOGRAMS:])
    if not edges:
        return []
    counted = [
        partitions.run(
            dataset.metadata[list(edges)],
            _counts,
            [(edges,)] * dataset.metadata.npartitions,
            what="compare",
            progress=settings.progress,
        )
        for dataset in datasets
    ]
    return [
        Overlay(
            name,
            edges[name].tolist(),
            [np.sum([part[name] for part in parts], axis=0).tolist() for parts in counted],
            [by_column[name].nulls for by_column in both],
        )
        for name in edges
    ]


def _is_name(column: str, dataset: ImageTextPairDataset) -> bool:
    """Whether numbers of a column only tell things apart, as those of clusters and hashes do."""
    kind = frames.schema(dataset.metadata).field(column).type
    return "cluster" in column or bool(pa.types.is_uint64(kind))


def _counts(frame: Any, edges: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The values of a partition between edges, by column; runs on a worker."""
    counts = {}
    for name, bounds in edges.items():
        column = frames.nan_to_null(frames.column_to_arrow(frame[name])).drop_null()
        counts[name] = np.histogram(column.cast(pa.float64(), safe=False).to_numpy(), bounds)[0]
    return counts


def pictures(data: Compared) -> Iterable[Rows]:
    """Those of all examples."""
    return data.examples.values()


def render(data: Compared, album: Album) -> str:
    """The section as HTML."""
    return comparison(data, album)
