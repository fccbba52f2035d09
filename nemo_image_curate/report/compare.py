"""Two datasets, or two runs of one: rows, decisions, values and provenance that differ."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nemo_image_curate import frames, html
from nemo_image_curate.dataset import partitions
from nemo_image_curate.dataset.looking.choices import rows_of
from nemo_image_curate.dataset.looking.distributions import distributions
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.report import joined
from nemo_image_curate.report.album import Album, Rows, plain_columns, shortened
from nemo_image_curate.report.joined import Comparison, Join
from nemo_image_curate.report.settings import Settings

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

TITLE = "Comparison"
# Pictures of each kind of change, columns with a histogram, its bars, and characters of a setting.
_EXAMPLES, _HISTOGRAMS, _BARS, _VALUE = 6, 12, 40, 100
# Histograms are of counts where the two have as many rows, within a fifth; else of shares.
_ALIKE, _PER = 0.2, 10_000


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
    names = _names(*datasets)
    own, other = (plain_columns(one) for one in datasets)
    places = {one.id_col for one in datasets} | {SHARD_COLUMN}
    common = [name for name in own if name in other and name not in places]
    join = Join.of(*datasets)
    found = joined.compare(*datasets, join, common, _EXAMPLES, settings.seed, settings.progress)
    columns = [list(map(str, one.metadata.columns)) for one in datasets]
    return Compared(
        names,
        datasets,
        join,
        (len(dataset), len(settings.against)),
        found,
        (
            [name for name in columns[0] if name not in {*columns[1], *places}],
            [name for name in columns[1] if name not in {*columns[0], *places}],
        ),
        _overlays(datasets, common, settings),
        _examples(found, datasets, names[1], settings),
    )


def _names(first: ImageTextPairDataset, second: ImageTextPairDataset) -> tuple[str, str]:
    """The last parts of two places, as many as tell them apart."""
    places = [one.metadata_path.rstrip("/").split("/") for one in (first, second)]
    for parts in range(1, max(map(len, places)) + 1):
        names = ["/".join(place[-parts:]) for place in places]
        if names[0] != names[1]:
            return names[0], names[1]
    return names[0], f"{names[0]} (again)"


def _examples(
    found: Comparison,
    datasets: Sequence[ImageTextPairDataset],
    name: str,
    settings: Settings,
) -> dict[str, Rows]:
    """The rows that changes are shown by: of the second dataset what is only there."""
    sides = [
        {kind: places for kind, places in found.examples.items() if (kind == "only_b") == is_second}
        for is_second in (False, True)
    ]
    shown = {}
    for one, kinds, called in zip(datasets, sides, ("", name), strict=True):
        keys = [key for places in kinds.values() for _, key, _ in places]
        table = rows_of(one, keys, plain_columns(one), settings.progress)
        row_of = {
            place: row
            for row, place in enumerate(
                zip(table[one.id_col].to_pylist(), table[SHARD_COLUMN].to_pylist(), strict=True)
            )
        }
        for kind, places in kinds.items():
            rows = [row_of[key, shard] for _, key, shard in places if (key, shard) in row_of]
            shown[kind] = Rows(table.take(pa.array(rows, pa.int64())), one, called)
    return shown


def _overlays(
    datasets: Sequence[ImageTextPairDataset], columns: Sequence[str], settings: Settings
) -> list[Overlay]:
    """Columns of numbers, counted between edges that both share; not those of names."""
    columns = [name for name in columns if not _is_name(name, datasets[0])]
    both = [distributions(one, columns, progress=settings.progress) for one in datasets]
    edges = {}
    for name in columns:
        known = [one[name] for one in both]
        lows = [one.low for one in known if one.kind == "number" and one.low is not None]
        highs = [one.high for one in known if one.kind == "number" and one.high is not None]
        if len(lows) == len(known) and min(lows) < max(highs):
            edges[name] = np.linspace(min(lows), max(highs), _BARS + 1)
    # Scores come after what was measured: of many columns the last are those that were decided by.
    edges = dict(list(edges.items())[-_HISTOGRAMS:])
    if not edges:
        return []
    counted = [
        partitions.run(
            one.metadata[list(edges)],
            _counts,
            [(edges,)] * one.metadata.npartitions,
            what="compare",
            progress=settings.progress,
        )
        for one in datasets
    ]
    return [
        Overlay(
            name,
            edges[name].tolist(),
            [np.sum([part[name] for part in parts], axis=0).tolist() for parts in counted],
            [one[name].nulls for one in both],
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
    for name, own in edges.items():
        column = frames.nan_to_null(frames.column_to_arrow(frame[name])).drop_null()
        counts[name] = np.histogram(column.cast(pa.float64(), safe=False).to_numpy(), own)[0]
    return counts


def pictures(data: Compared) -> Iterable[Rows]:
    """Those of all examples."""
    return data.examples.values()


def render(data: Compared, album: Album) -> str:
    """The section as HTML."""
    return (
        _rows(data, album)
        + _decisions(data, album)
        + _changes(data)
        + _histograms(data)
        + _provenance(data)
    )


def _rows(data: Compared, album: Album) -> str:
    first, second = (html.escape(name) for name in data.names)
    found = data.found
    by = "shard and key" if data.join.by_shard else "key"
    why = (
        f"they share {data.join.shared:,} shards by name"
        if data.join.by_shard
        else "they have no shard of one name and size"
    )
    warning = ""
    if data.join.by_shard and data.join.unequal:
        warning = (
            f"<p class=warn>{data.join.unequal:,} of {data.join.shared:,} shards of one name "
            "differ in size: rows of one name there may be other pictures.</p>"
        )
    if not data.join.by_shard:
        warning = "<p class=note>Whether rows with one key are one picture was not looked at.</p>"
    if found.both + found.only[0] != data.rows[0] or found.both + found.only[1] != data.rows[1]:
        warning += "<p class=warn>Keys repeat: each pair of rows with one key is counted.</p>"
    table = html.table(
        ["rows", "", f"of {data.names[0]}", f"of {data.names[1]}"],
        [
            ["in both", found.both, *(html.share(found.both, rows) for rows in data.rows)],
            [
                f"only in {data.names[0]}",
                found.only[0],
                html.share(found.only[0], data.rows[0]),
                "",
            ],
            [
                f"only in {data.names[1]}",
                found.only[1],
                "",
                html.share(found.only[1], data.rows[1]),
            ],
        ],
    )
    shown = "".join(
        f"<h4>Only in {name}, at random</h4>{album.show(data.examples[kind])}"
        for kind, name in (("only_a", first), ("only_b", second))
        if len(data.examples[kind].table)
    )
    return (
        f"<p><b>{first}</b> with {data.rows[0]:,} rows against <b>{second}</b> with "
        f"{data.rows[1]:,}.</p><p class=note>Joined by {by}, since {why}.</p>"
        f"{warning}{table}{shown}"
    )


def _decisions(data: Compared, album: Album) -> str:
    """What is decided otherwise, with examples."""
    parts, same = [], []
    for column, counts in data.found.decisions.items():
        if column not in data.found.changed:
            same.append(column)
            continue
        rows = [
            [f"{html.number(before).lower()} → {html.number(after).lower()}", count]
            for (before, after), count in sorted(counts.items(), key=lambda pair: -pair[1])
        ]
        parts.append(f"<h4>{html.escape(column)}</h4>{html.table(['', 'rows'], rows)}")
        for way in (True, False):
            rows_shown = data.examples[f"{column}={way}"]
            if len(rows_shown.table):
                parts.append(
                    f"<p class=note>Now {str(way).lower()}, and not before:</p>"
                    f"{album.show(rows_shown)}"
                )
    if same:
        parts.append(f"<p class=note>Without a change: {html.escape(', '.join(same))}.</p>")
    first, second = (html.escape(name) for name in data.names)
    title = f"<h3>Decisions: {first} → {second}</h3>"
    return title + "".join(parts) if parts else ""


def _changes(data: Compared) -> str:
    """Values that differ, by column."""
    found = data.found
    rows = [
        [
            column,
            count,
            html.share(count, found.both),
            html.number(found.largest[column]) if column in found.largest else "",
        ]
        for column, count in found.changed.most_common()
        if column not in found.decisions
    ]
    parts = []
    if rows:
        parts.append(html.table(["column", "rows changed", "share", "largest difference"], rows))
    for name, columns in zip(data.names, data.columns, strict=True):
        if columns:
            parts.append(
                f"<p>Columns only in {html.escape(name)}: "
                f"<code>{html.escape(', '.join(columns))}</code></p>"
            )
    if not parts:
        parts.append("<p class=note>All columns that both have hold the same values.</p>")
    return "<h3>Values</h3>" + "".join(parts)


def _histograms(data: Compared) -> str:
    """Columns of both, one over the other."""
    if not data.overlays:
        return ""
    same = [one.column for one in data.overlays if one.is_same]
    few, many = sorted(data.rows)
    as_shares = many - few > _ALIKE * many
    unit = f"Per {_PER:,} rows of each" if as_shares else "Rows"
    parts = [
        f"<h3>Distributions</h3><p class=note>{unit}: {html.escape(data.names[0])}, and over it "
        f"<span class=warn>{html.escape(data.names[1])}</span>.</p><div class=overlays>"
    ]
    for one in data.overlays:
        if one.is_same:
            continue
        factors = [_PER / max(1, rows) if as_shares else 1 for rows in data.rows]
        series = [
            html.Series(name, [round(count * factor) for count in counts], round(nulls * factor))
            for name, counts, nulls, factor in zip(
                data.names, one.counts, one.nulls, factors, strict=True
            )
        ]
        shown = html.histogram(one.edges, series)
        parts.append(f"<div><h4>{html.escape(one.column)}</h4>{shown}</div>")
    parts.append("</div>")
    if same:
        parts.append(f"<p class=note>The same in both: {html.escape(', '.join(same))}.</p>")
    return "".join(parts)


def _provenance(data: Compared) -> str:
    """How columns of both were made otherwise."""
    first, second = (one.provenance for one in data.datasets)
    groups: dict[tuple[str, str, str], list[str]] = {}
    for column in first:
        if column in second:
            before, after = _flat(first[column]), _flat(second[column])
            for setting in [*before, *(name for name in after if name not in before)]:
                one, other = before.get(setting, "not recorded"), after.get(setting, "not recorded")
                if one != other:
                    groups.setdefault((setting, one, other), []).append(column)
    if not groups:
        return "<h3>Provenance</h3><p class=note>The columns that both have were made alike.</p>"
    rows = [[", ".join(columns), *values] for values, columns in groups.items()]
    return "<h3>Provenance</h3>" + html.table(["columns", "setting", *data.names], rows)


def _flat(record: Any, name: str = "") -> dict[str, str]:
    """The settings of a record as texts; those inside others by names with dots."""
    if isinstance(record, Mapping):
        found: dict[str, str] = {}
        for key, value in record.items():
            found |= _flat(value, f"{name}.{key}" if name else str(key))
        return found
    text = record if isinstance(record, str) else json.dumps(record, default=str)
    return {name: shortened(text, _VALUE)}
