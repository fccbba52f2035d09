"""How many rows each condition drops: in turn, by itself, and alone of all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_image_curate import frames, html
from nemo_image_curate.dataset import partitions
from nemo_image_curate.expressions import evaluate
from nemo_image_curate.expressions.check import check
from nemo_image_curate.report.album import Album, Rows
from nemo_image_curate.report.settings import Settings

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

TITLE = "Funnel"


@dataclass(frozen=True)
class Step:
    """What one condition does.

    Attributes
    ----------
    condition : str
    kept : int
        Rows for which this condition and all before it are true.
    drops : int
        Rows for which it is not true, whatever the others say.
    only : int
        Of these, rows for which all others are true: they would stay without it.
    null : int
        Of `drops`, rows for which it is neither true nor false.
    """

    condition: str
    kept: int
    drops: int
    only: int
    null: int


@dataclass(frozen=True)
class Funnel:
    """All conditions, in their order."""

    rows: int
    steps: list[Step]


def gather(dataset: ImageTextPairDataset, settings: Settings) -> Funnel | None:
    """Count in one pass over the columns that conditions look at; None without conditions."""
    conditions = settings.conditions
    if not conditions:
        return None
    return funnel(dataset, conditions, settings.progress)


def funnel(
    dataset: ImageTextPairDataset, conditions: Sequence[str], progress: bool | None = None
) -> Funnel:
    """Count what conditions drop of a dataset."""
    frame = dataset.metadata
    columns = list(map(str, frame.columns))
    used = {name for condition in conditions for name in check(condition, columns)}
    frame = frame[[name for name in columns if name in used] or [dataset.id_col]]
    parts = partitions.run(
        frame, _tally, [(list(conditions),)] * frame.npartitions, what="funnel", progress=progress
    )
    rows = sum(rows for rows, _ in parts)
    counts = sum((counts for _, counts in parts), np.zeros((len(conditions), 4), np.int64))
    steps = [
        Step(condition, *row) for condition, row in zip(conditions, counts.tolist(), strict=True)
    ]
    return Funnel(rows, steps)


def _tally(frame: Any, conditions: list[str]) -> tuple[int, np.ndarray]:
    """The rows of a partition and the counts of `Step` for each condition; runs on a worker."""
    table = frames.to_arrow(frame)
    known = [evaluate.condition(table, condition) for condition in conditions]
    nulls = np.array([mask.null_count for mask in known])
    true = np.array([mask.fill_null(False).to_numpy(zero_copy_only=False) for mask in known])
    so_far = np.logical_and.accumulate(true).sum(axis=1)
    drops = (~true).sum(axis=1)
    only = (~true & ((~true).sum(axis=0) == 1)).sum(axis=1)
    return len(table), np.stack([so_far, drops, only, nulls], axis=1)


def pictures(data: Funnel) -> Iterable[Rows]:
    """None."""
    return ()


def render(data: Funnel, album: Album) -> str:
    """The section as HTML."""
    kept, rows = data.rows, [_row(data, "all rows", data.rows, [None] * 4)]
    for step in data.steps:
        dropped = kept - step.kept
        rows.append(
            _row(data, step.condition, step.kept, [dropped, step.drops, step.only, step.null])
        )
        kept = step.kept
    heads = ["keeps", "rows left", "share", "", "drops here", "drops by itself", "only this drops"]
    return (
        f"<p><strong>{kept:,}</strong> of {data.rows:,} rows stay ({html.share(kept, data.rows)})."
        f"</p>{html.table([*heads, 'of these unknown'], rows)}"
        "<p class=note>In the order of the conditions. <em>Only this drops</em>: rows that would "
        "stay without this condition. <em>Unknown</em>: neither true nor false, because a value is "
        "null.</p>"
    )


def _row(data: Funnel, name: str, left: int, counts: list[int | None]) -> list[Any]:
    label = f"<code>{html.escape(name)}</code>" if counts[0] is not None else html.escape(name)
    share = f"<span class=n>{html.share(left, data.rows)}</span>"
    return [
        html.Markup(label),
        left,
        html.Markup(share),
        html.Markup(html.bar(left, data.rows)),
        *("" if count is None else count for count in counts),
    ]
