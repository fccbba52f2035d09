"""A comparison of two datasets as HTML."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nemo_image_curate import html
from nemo_image_curate.report.album import Album, shortened

if TYPE_CHECKING:
    from nemo_image_curate.report.compare import Compared

# Histograms are of counts where the two have as many rows, within a fifth; else of shares.
_ALIKE, _PER = 0.2, 10_000
# Characters of a setting.
_VALUE = 100


def comparison(data: Compared, album: Album) -> str:
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
    counts = data.found
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
    if counts.both + counts.only[0] != data.rows[0] or counts.both + counts.only[1] != data.rows[1]:
        warning += "<p class=warn>Keys repeat: each pair of rows with one key is counted.</p>"
    table = html.table(
        ["rows", "", f"of {data.names[0]}", f"of {data.names[1]}"],
        [
            ["in both", counts.both, *(html.share(counts.both, rows) for rows in data.rows)],
            [
                f"only in {data.names[0]}",
                counts.only[0],
                html.share(counts.only[0], data.rows[0]),
                "",
            ],
            [
                f"only in {data.names[1]}",
                counts.only[1],
                "",
                html.share(counts.only[1], data.rows[1]),
            ],
        ],
    )
    pictures = "".join(
        f"<h4>Only in {name}, at random</h4>{album.show(data.examples[kind])}"
        for kind, name in (("only_a", first), ("only_b", second))
        if len(data.examples[kind].table)
    )
    return (
        f"<p><b>{first}</b> with {data.rows[0]:,} rows against <b>{second}</b> with "
        f"{data.rows[1]:,}.</p><p class=note>Joined by {by}, since {why}.</p>"
        f"{warning}{table}{pictures}"
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
    counts = data.found
    rows = [
        [
            column,
            count,
            html.share(count, counts.both),
            html.number(counts.largest[column]) if column in counts.largest else "",
        ]
        for column, count in counts.changed.most_common()
        if column not in counts.decisions
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
    same = [overlay.column for overlay in data.overlays if overlay.is_same]
    few, many = sorted(data.rows)
    as_shares = many - few > _ALIKE * many
    unit = f"Per {_PER:,} rows of each" if as_shares else "Rows"
    parts = [
        f"<h3>Distributions</h3><p class=note>{unit}: {html.escape(data.names[0])}, and over it "
        f"<span class=warn>{html.escape(data.names[1])}</span>.</p><div class=overlays>"
    ]
    for overlay in data.overlays:
        if overlay.is_same:
            continue
        factors = [_PER / max(1, rows) if as_shares else 1 for rows in data.rows]
        series = [
            html.Series(name, [round(count * factor) for count in counts], round(nulls * factor))
            for name, counts, nulls, factor in zip(
                data.names, overlay.counts, overlay.nulls, factors, strict=True
            )
        ]
        histogram = html.histogram(overlay.edges, series)
        parts.append(f"<div><h4>{html.escape(overlay.column)}</h4>{histogram}</div>")
    parts.append("</div>")
    if same:
        parts.append(f"<p class=note>The same in both: {html.escape(', '.join(same))}.</p>")
    return "".join(parts)


def _provenance(data: Compared) -> str:
    """How columns of both were made otherwise."""
    first, second = (dataset.provenance for dataset in data.datasets)
    groups: dict[tuple[str, str, str], list[str]] = {}
    for column in first:
        if column in second:
            before, after = _flat(first[column]), _flat(second[column])
            for setting in [*before, *(name for name in after if name not in before)]:
                old, new = before.get(setting, "not recorded"), after.get(setting, "not recorded")
                if old != new:
                    groups.setdefault((setting, old, new), []).append(column)
    if not groups:
        return "<h3>Provenance</h3><p class=note>The columns that both have were made alike.</p>"
    rows = [[", ".join(columns), *values] for values, columns in groups.items()]
    return "<h3>Provenance</h3>" + html.table(["columns", "setting", *data.names], rows)


def _flat(record: Any, name: str = "") -> dict[str, str]:
    """The settings of a record as texts; those inside others by names with dots."""
    if isinstance(record, Mapping):
        settings: dict[str, str] = {}
        for key, value in record.items():
            settings |= _flat(value, f"{name}.{key}" if name else str(key))
        return settings
    text = record if isinstance(record, str) else json.dumps(record, default=str)
    return {name: shortened(text, _VALUE)}
