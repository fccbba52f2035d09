"""A dataset's summary as HTML for notebooks, and as text for terminals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from nemo_image_curate import html
from nemo_image_curate.dataset.looking.summary import GROUPS, Column, Summary

# Columns of a group that are listed; all others are counted.
MAX_COLUMNS = 50
# Groups with more columns are folded at first.
OPEN_COLUMNS = 16
# Characters of a path, and of what left something out.
MAX_TEXT = 300
_HEADS = ("column", "type", "nulls", "distribution", "range", "made by")
_BLOCKS = " ▁▂▃▄▅▆▇█"
_TEXT_BARS = 12


def as_html(summary: Summary) -> str:
    """HTML, to be put into `notebook.fragment`."""
    facts = " · ".join(html.escape(fact) for fact in _facts(summary))
    parts = [
        f"<p><strong>ImageTextPairDataset</strong> <code>{html.escape(_place(summary))}</code></p>",
        f"<p class=muted>{facts}</p>",
    ]
    parts += [f'<p class="warn">{html.escape(_cut(note))}</p>' for note in summary.notes]
    if summary.conditions:
        conditions = " and ".join(
            f"<code>{html.escape(condition)}</code>" for condition in summary.conditions
        )
        parts.append(f"<p>filtered by {conditions}</p>")
    for name, columns in _groups(summary):
        first_columns = columns[:MAX_COLUMNS]
        more = len(columns) - len(first_columns)
        names = ", ".join(column.name for column in islice(columns, 4))
        names += ", ..." if len(columns) > 4 else ""
        table = _table([_row(column) for column in first_columns])
        rest = f"<p class=muted>and {more:,} more columns</p>" if more else ""
        is_open = " open" if len(columns) <= OPEN_COLUMNS else ""
        parts.append(
            f"<details class=group{is_open}><summary>{html.escape(name)} "
            f"<span class=muted>{len(columns)}: {html.escape(_cut(names))}</span></summary>"
            f"{table}{rest}</details>"
        )
    if summary.sampled_rows:
        parts.append(f"<p class=muted>{_sample(summary)}</p>")
    return "".join(parts)


def _table(rows: list[list[object]]) -> str:
    """The rows, without columns that are empty in all of them."""
    filled = [place for place in range(len(_HEADS)) if any(row[place] != "" for row in rows)]
    return html.table(
        [_HEADS[place] for place in filled], [[row[place] for place in filled] for row in rows]
    )


def _row(column: Column) -> list[object]:
    nulls = "" if column.nulls is None else column.nulls
    made_by = column.made_by or ""
    made_by += "" if column.stored else " (not computed yet)"
    spark = html.Markup(html.sparkline(column.bars)) if column.bars else ""
    return [column.name, column.type, nulls, spark, _range(column), made_by.strip()]


def as_text(summary: Summary) -> str:
    """Some lines for a terminal."""
    lines = [f"ImageTextPairDataset {_place(summary)!r}", "  " + ", ".join(_facts(summary))]
    lines += [f"  filtered by {condition}" for condition in summary.conditions]
    lines += [f"  ! {_cut(note)}" for note in summary.notes]
    for name, columns in _groups(summary):
        lines.append(f"  {name}")
        first_columns = columns[:MAX_COLUMNS]
        width = max(len(column.name) for column in first_columns)
        kind = max(len(column.type) for column in first_columns)
        for column in first_columns:
            nulls = f"{column.nulls:,} null" if column.nulls else ""
            made_by = "" if column.stored else "not computed yet"
            cells = [_text_bars(column.bars), _range(column), nulls, made_by]
            start = f"    {column.name:{width}}  {column.type:{kind}}  "
            lines.append((start + "  ".join(filter(None, cells))).rstrip())
        if len(columns) > len(first_columns):
            lines.append(f"    and {len(columns) - len(first_columns):,} more columns")
    if summary.sampled_rows:
        lines.append(f"  {_sample(summary)}")
    return "\n".join(lines)


def _place(summary: Summary) -> str:
    beside = summary.home is None or summary.home == summary.path
    return _cut(summary.path if beside else f"{summary.path}, metadata in {summary.home}")


def _facts(summary: Summary) -> Iterator[str]:
    if summary.rows is not None:
        yield _count(summary.rows, "row")
    elif summary.of_rows is not None:
        yield f"rows not counted, of {summary.of_rows:,} before conditions (len counts)"
    else:
        yield "rows not counted (len counts them)"
    size = "" if summary.tar_bytes is None else f" ({bytes_text(summary.tar_bytes)})"
    yield f"{_count(summary.shards, 'shard')}{size}"
    if summary.sidecar_bytes is not None:
        yield f"metadata {bytes_text(summary.sidecar_bytes)}"
    if summary.partitions != summary.shards:
        yield _count(summary.partitions, "partition")
    yield _count(len(summary.columns), "column")
    yield f"backend {summary.backend}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("s" if number != 1 else "")


def bytes_text(count: int) -> str:
    """A number of bytes as people read it: 1.2 GB."""
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if size >= 100 or unit == "B" else f"{size:.2g} {unit}"


def _groups(summary: Summary) -> Iterator[tuple[str, list[Column]]]:
    for name in GROUPS:
        if columns := [column for column in summary.columns if column.group == name]:
            yield name, columns


def _range(column: Column) -> str:
    if column.low is None:
        return ""
    return f"{html.number(column.low)} to {html.number(column.high)}"


def _text_bars(bars: Sequence[int]) -> str:
    """Bars as one line of blocks; each that has a row is seen."""
    if not bars:
        return ""
    step = -(-len(bars) // _TEXT_BARS)
    few = [sum(bars[start : start + step]) for start in range(0, len(bars), step)]
    top = max(few) or 1
    return "".join(_BLOCKS[-(-count * (len(_BLOCKS) - 1) // top)] for count in few)


def _sample(summary: Summary) -> str:
    rows, files = summary.sampled_rows, summary.sampled_files
    return (
        f"Distributions and ranges are of {rows:,} rows in {_count(files, 'shard')}; "
        "ds.hist(column) counts all."
    )


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 3] + "..."
