"""What deduplication found: groups side by side, the row that stays marked, and why it stays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nemo_image_curate import html
from nemo_image_curate.dataset.looking.choices import View, choose
from nemo_image_curate.dataset.looking.groups import Group, Groups, groups
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.dedup.keep import keep_columns
from nemo_image_curate.report.album import Album, Rows, plain_columns
from nemo_image_curate.report.pairs import Pairs, Row
from nemo_image_curate.report.settings import Settings

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

TITLE = "Duplicates"
_FLAG = "is_duplicate"
# Groups of each deduplication, rows of each, and pairs chosen at random.
_GROUPS, _MEMBERS, _PAIRS = 6, 6, 8
# Settings that say what was looked for, in the order of their telling.
_TOLD = ("eps", "radius", "of", "rule", "n_probe", "flips", "embedding_column")


@dataclass(frozen=True)
class Deduplication:
    """What one deduplication found.

    Attributes
    ----------
    prefix : str
        Of its columns.
    record : dict
        How they were made, as far as that is known.
    found : Groups
        The largest.
    pairs : Pairs
        Duplicates at random, each with the row that stays.
    dataset : ImageTextPairDataset
    """

    prefix: str
    record: Mapping[str, Any]
    found: Groups
    pairs: Pairs
    dataset: ImageTextPairDataset


def prefixes(dataset: ImageTextPairDataset) -> list[str]:
    """What the columns of each deduplication begin with."""
    names = list(dataset.metadata.columns)
    candidates = [name.removesuffix(_FLAG) for name in names if name.endswith(_FLAG)]
    wanted = ("duplicate_of", "duplicate_of_shard", "duplicate_similarity")
    return [prefix for prefix in candidates if all(prefix + name in names for name in wanted)]


def gather(dataset: ImageTextPairDataset, settings: Settings) -> list[Deduplication] | None:
    """The largest groups of each deduplication, and some pairs at random."""
    return [_gathered(dataset, prefix, settings) for prefix in prefixes(dataset)] or None


def _gathered(dataset: ImageTextPairDataset, prefix: str, settings: Settings) -> Deduplication:
    columns = plain_columns(dataset)
    duplicate_of = f"{prefix}duplicate_of"
    grouping = groups(
        dataset,
        duplicate_of,
        n=_GROUPS,
        members=_MEMBERS,
        columns=columns,
        progress=settings.progress,
    )
    (chosen,) = choose(
        dataset,
        [View("random")],
        _PAIRS,
        columns,
        where=f"{prefix}{_FLAG}",
        seed=settings.seed,
        progress=settings.progress,
    )
    pairs = Pairs.find(
        dataset, chosen.rows, duplicate_of, f"{duplicate_of}_shard", settings.progress
    )
    record = dataset.provenance.get(prefix + _FLAG, {})
    return Deduplication(prefix, record, grouping, pairs, dataset)


def pictures(data: list[Deduplication]) -> Iterable[Rows]:
    """Those of all groups and pairs."""
    for dedup in data:
        for group in dedup.found.groups:
            yield Rows(group.rows, dedup.dataset)
        yield from dedup.pairs.pictures()


def render(data: list[Deduplication], album: Album) -> str:
    """The section as HTML."""
    return "".join(_method(dedup, album, alone=len(data) == 1) for dedup in data)


def _method(dedup: Deduplication, album: Album, alone: bool) -> str:
    grouping = dedup.found
    stage = dedup.record.get("stage", "Columns of unknown making")
    flag = html.escape(dedup.prefix + _FLAG)
    title = "" if alone and not dedup.prefix else f"<h3>{html.escape(stage)}: {flag}</h3>"
    counted = (
        f"<b>{grouping.duplicates:,}</b> of {grouping.rows:,} rows are duplicates "
        f"({html.share(grouping.duplicates, grouping.rows)}), in {grouping.n_groups:,} groups"
    )
    if grouping.sampled < 1:
        counted += f" of the {grouping.sampled:.1%} of groups that were counted, by a hash of keys"
    details = [f"{name} {dedup.record[name]}" for name in _TOLD if dedup.record.get(name)]
    how = html.escape(": ".join([stage, "; ".join(details)]) if details else stage)
    stays = html.escape(reason_of(dedup.record))
    head = f"{title}<p>{counted}.</p><p class=note>{how}. Of a group {stays} stays.</p>"
    if not grouping.groups:
        return head
    largest = "".join(_group(group, dedup, album) for group in grouping.groups)
    return (
        f"{head}<h4>The largest groups</h4>{largest}"
        f"<h4>Duplicates at random, each with the row that stays</h4>"
        f"{dedup.pairs.show(album, lambda row, kept: _pair_lines(row, kept, dedup))}"
        f'<p class=note>Without them: <code>ds.filter("not {flag}")</code></p>'
    )


def _group(group: Group, dedup: Deduplication, album: Album) -> str:
    rows = group.rows.to_pylist()
    cells = []
    for place, row in enumerate(rows):
        stays = group.has_kept and place == 0
        key = row[dedup.dataset.id_col], row[SHARD_COLUMN]
        similarity = row[f"{dedup.prefix}duplicate_similarity"]
        lines = [
            key[0],
            f"stays: {reason_of(dedup.record)}"
            if stays
            else f"similarity {html.number(similarity)}",
            *_values(row, dedup),
            album.stored(*key),
        ]
        cell = album.cell(*key, *lines)
        cells.append(f"<div class=stays>{cell}</div>" if stays else cell)
    more = group.size - len(rows)
    note = f"{group.size:,} rows" + (f", {more:,} of them not shown" if more > 0 else "")
    if not group.has_kept:
        note += "; the one that stays is not in this dataset"
    return f"<p class=note>{html.escape(note)}</p><div class=grid>{''.join(cells)}</div>"


def _pair_lines(row: Row, kept: Row | None, dedup: Deduplication) -> list[str]:
    """What is said of a duplicate and the row that stays."""
    similarity = row[f"{dedup.prefix}duplicate_similarity"]
    lines = [f"similarity {html.number(similarity)}; the second one stays"]
    for name in keep_columns(dedup.record.get("by")):
        other = None if kept is None else kept.get(name)
        lines.append(f"{name} {html.number(row.get(name))}, {html.number(other)}")
    return lines


def _values(row: Row, dedup: Deduplication) -> list[str]:
    """What the choice of the row that stays went by."""
    names = keep_columns(dedup.record.get("by"))
    return [f"{name} {html.number(row.get(name))}" for name in names if name in row]


def reason_of(record: Mapping[str, Any]) -> str:
    """Which row of a group stays, in words, by what was recorded of the deduplication."""
    keep, by = record.get("keep"), record.get("by")
    if keep == "best" and by:
        terms = [by] if isinstance(by, str) else list(by)
        words = [
            f"lowest {term[1:]}" if term.startswith("-") else f"highest {term}" for term in terms
        ]
        return f"the one of the {', then '.join(words)}"
    return {
        "first": "the first by its key",
        "random": f"one at random (a hash of its key, seed {record.get('random_state', 0)})",
        "hard": "the one least like the centroid of its cluster",
        "easy": "the one most like the centroid of its cluster",
    }.get(str(keep), "one, by a rule that is not recorded,")
