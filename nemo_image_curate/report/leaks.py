"""What is in other datasets, too: counts by reference, similarities, pairs side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nemo_image_curate import html
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.dedup.leak_summary import BINS, LeakSummary, summarise
from nemo_image_curate.dedup.leaks import leak_columns
from nemo_image_curate.report.album import Album, Rows, shortened
from nemo_image_curate.report.pairs import Pairs, Row
from nemo_image_curate.report.settings import Settings

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

TITLE = "Leaks"
_FLAG = "is_leak"
# Leaks that are shown, of clean rows a quarter as many, and characters of a caption.
_PAIRS, _CAPTION = 16, 90
# Bars that a histogram has at least.
_LEAST_BARS = 10


@dataclass(frozen=True)
class Decontamination:
    """What one decontamination found.

    Attributes
    ----------
    prefix : str
        Of its columns.
    record : dict
        How they were made, as far as that is known.
    summary : LeakSummary
    leaks, nearest : list of Pairs
        By reference: leaks at random, and the clean rows that are most similar to it.
    """

    prefix: str
    record: Mapping[str, Any]
    summary: LeakSummary
    leaks: list[Pairs]
    nearest: list[Pairs]


def prefixes(dataset: ImageTextPairDataset) -> list[str]:
    """What the columns of each decontamination begin with."""
    names = list(dataset.metadata.columns)
    candidates = [name.removesuffix(_FLAG) for name in names if name.endswith(_FLAG)]
    return [prefix for prefix in candidates if set(leak_columns(prefix)) <= set(names)]


def gather(dataset: ImageTextPairDataset, settings: Settings) -> list[Decontamination] | None:
    """Count leaks, and choose pairs of them."""
    return [_gathered(dataset, prefix, settings) for prefix in prefixes(dataset)] or None


def _gathered(dataset: ImageTextPairDataset, prefix: str, settings: Settings) -> Decontamination:
    summary = summarise(dataset, prefix, _PAIRS, settings.seed, progress=settings.progress)
    return Decontamination(
        prefix,
        dataset.provenance.get(prefix + _FLAG, {}),
        summary,
        _pairs(dataset, prefix, summary.sample, settings),
        _pairs(dataset, prefix, summary.nearest, settings),
    )


def _pairs(
    dataset: ImageTextPairDataset, prefix: str, rows: Sequence[Row], settings: Settings
) -> list[Pairs]:
    """Rows beside those of the references, for each reference apart."""
    pairs = []
    key, shard = f"{prefix}leak_of", f"{prefix}leak_of_shard"
    for name in sorted({str(row["leak_of_dataset"]) for row in rows}):
        table = _table(dataset, prefix, [row for row in rows if row["leak_of_dataset"] == name])
        reference = settings.references.get(name)
        if reference is None:
            missing = f"of {name}, which is shown with --reference {name}=DATASET"
            none = table.slice(0, 0)
            pairs.append(Pairs(table, key, shard, none, dataset, dataset, name, missing))
        else:
            pairs.append(Pairs.find(dataset, table, key, shard, settings.progress, reference, name))
    return pairs


def _table(dataset: ImageTextPairDataset, prefix: str, rows: Sequence[Row]) -> pa.Table:
    """Rows of a summary under the names that they have in the dataset."""
    names = {"key": dataset.id_col, "shard": SHARD_COLUMN}
    names |= {name: prefix + name for name in leak_columns("")}
    names |= {"caption": "caption"} if "caption" in dataset.metadata.columns else {}
    return pa.Table.from_pylist(
        [{column: row[name] for name, column in names.items()} for row in rows]
    )


def pictures(data: list[Decontamination]) -> Iterable[Rows]:
    """Those of all pairs."""
    for result in data:
        for pairs in [*result.leaks, *result.nearest]:
            yield from pairs.pictures()


def render(data: list[Decontamination], album: Album) -> str:
    """The section as HTML."""
    return "".join(_section(result, album) for result in data)


def _section(result: Decontamination, album: Album) -> str:
    summary = result.summary
    leaks = summary.leaks.total()
    title = f"<h3>{html.escape(result.prefix + _FLAG)}</h3>" if result.prefix else ""
    lines = [
        f"<b>{leaks:,}</b> of {summary.rows:,} rows are leaks ({html.share(leaks, summary.rows)}), "
        f"{summary.clean:,} are clean"
    ]
    if not_compared := summary.not_compared.total():
        lines.append(f", {not_compared:,} could not be compared")
    parts = [title, f"<p>{''.join(lines)}.</p>", _by_reference(result)]
    if summary.not_compared:
        parts.append(html.table(["not compared", "rows"], sorted(summary.not_compared.items())))
    parts += ["<h4>Similarity to the row that is named</h4>", _histogram(result)]
    parts += _figures(
        "Leaks at random, each beside what it is a copy of", result.leaks, result, album
    )
    parts += _figures("The clean rows nearest to a reference", result.nearest, result, album)
    parts.append(_clean(result))
    return "".join(parts)


def _by_reference(result: Decontamination) -> str:
    """A row for each reference, with how many leaks each signal makes."""
    leaks = result.summary.leaks
    ways = sorted({how for _, how in leaks})
    known = {name for name, _ in leaks} | set(result.record.get("reference") or ())
    rows = []
    for name in sorted(known):
        counts = [leaks[name, how] for how in ways]
        rows.append([name, sum(counts), *counts])
    return html.table(["reference", "leaks", *ways], rows)


def _histogram(result: Decontamination) -> str:
    """Similarities of leaks and clean rows, with where leaks begin."""
    counts = result.summary.histogram
    used = np.flatnonzero(counts["leak"] + counts["clean"])
    if not len(used):
        return "<p class=note>No row has one: hashes are looked for within the radius only.</p>"
    marks = _thresholds(result.record)
    first = min([int(used[0]), BINS - _LEAST_BARS, *(int(BINS * mark) for mark in marks.values())])
    edges = [place / BINS for place in range(first, BINS + 1)]
    bars = [
        html.Series(name, counts[kind][first:].tolist())
        for name, kind in (("clean", "clean"), ("leaks", "leak"))
    ]
    limits = ", ".join(f"{name} from {html.number(mark)} on" for name, mark in marks.items())
    dashed = f" Dashed: leaks by {html.escape(limits)}." if limits else ""
    return (
        f"{html.histogram(edges, bars, marks, logarithmic=True)}<p class=note>Rows per hundredth, "
        f"logarithmic; clean ones, and <span class=warn>leaks</span>.{dashed}</p>"
    )


def _thresholds(record: Mapping[str, Any]) -> dict[str, float]:
    """The similarities from which on rows are leaks, by signal."""
    by = record.get("by") or ()
    thresholds = {}
    if "perceptual" in by and "radius" in record:
        thresholds["perceptual"] = 1 - record["radius"] / 64
    if "semantic" in by and "eps" in record:
        thresholds["semantic"] = 1 - record["eps"]
    return {name: value for name, value in thresholds.items() if value < 1}


def _figures(title: str, pairs: list[Pairs], result: Decontamination, album: Album) -> list[str]:
    if not pairs:
        return []

    def lines(row: Row, other: Row | None) -> list[str]:
        by, similarity = row[f"{result.prefix}leak_by"], row[f"{result.prefix}leak_similarity"]
        source = f"of {row[f'{result.prefix}leak_of_dataset']}"
        how = [by or "clean", *([] if similarity is None else [html.number(similarity)]), source]
        return [", ".join(how), shortened(row.get("caption"), _CAPTION)]

    return [f"<h4>{title}</h4>", *(each.show(album, lines) for each in pairs)]


def _clean(result: Decontamination) -> str:
    """How to go on with the clean rows."""
    flag, error = result.prefix + _FLAG, f"{result.prefix}leak_error"
    condition = f"not {flag}"
    if result.summary.not_compared:
        condition += f" and {error}.isna()"
    code = f'ds.filter("{condition}").to_selection("clean.parquet")'
    return (
        f"<p class=note>A list of the clean rows, key and shard of each: "
        f"<code>{html.escape(code)}</code></p>"
    )
