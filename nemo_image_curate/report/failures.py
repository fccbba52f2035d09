"""Images that gave no values, by reason, and what of tars and sidecars does not go together."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nemo_image_curate import frames, html
from nemo_image_curate.dataset import partitions
from nemo_image_curate.dataset.accounting import Account
from nemo_image_curate.dataset.sources import ERROR_COLUMN, SHARD_COLUMN
from nemo_image_curate.decode.reasons import count_by_kind
from nemo_image_curate.report.album import Album, Rows
from nemo_image_curate.report.settings import Settings

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

TITLE = "What is missing or broken"
# Rows that are named of each kind of reason.
_NAMED = 8
_Example = tuple[str, str, str]


@dataclass(frozen=True)
class Failures:
    """What could not be read.

    Attributes
    ----------
    counts : dict of str to int, or None
        Rows by the kind of their ``image_error``; None where no image was read yet.
    examples : dict of str to list of (shard, key, reason)
    account : Account
    """

    counts: dict[str, int] | None
    examples: dict[str, list[_Example]]
    account: Account


def gather(dataset: ImageTextPairDataset, settings: Settings) -> Failures:
    """Count reasons in a pass over their column, and take the dataset's account."""
    account = dataset.account()
    if ERROR_COLUMN not in dataset.metadata.columns:
        return Failures(None, {}, account)
    frame = dataset.metadata[[dataset.id_col, SHARD_COLUMN, ERROR_COLUMN]]
    parts = partitions.run(
        frame,
        _failures,
        [(dataset.id_col,)] * frame.npartitions,
        what="failures",
        progress=settings.progress,
    )
    counts: Counter[str] = Counter()
    examples: dict[str, list[_Example]] = {}
    for part_counts, part_examples in parts:
        counts.update(part_counts)
        for kind, rows in part_examples.items():
            examples[kind] = heapq.nsmallest(_NAMED, [*examples.get(kind, []), *rows])
    by_count = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return Failures(dict(by_count), examples, account)


def _failures(frame: Any, id_col: str) -> tuple[dict[str, int], dict[str, list[_Example]]]:
    """The failed rows of a partition, counted by kind, and some of each; runs on a worker."""
    rows = frames.to_arrow(frame[frame[ERROR_COLUMN].notna()])
    columns = (rows[name].to_pylist() for name in (SHARD_COLUMN, id_col, ERROR_COLUMN))
    by_kind: dict[str, list[_Example]] = {}
    for shard, key, reason in zip(*columns, strict=True):
        kind = str(reason).partition(":")[0]
        by_kind.setdefault(kind, []).append((str(shard), str(key), str(reason)))
    examples = {kind: heapq.nsmallest(_NAMED, named) for kind, named in by_kind.items()}
    return count_by_kind(rows[ERROR_COLUMN].to_pylist()), examples


def pictures(data: Failures) -> Iterable[Rows]:
    """None: there are none to be seen."""
    return ()


def render(data: Failures, album: Album) -> str:
    """The section as HTML."""
    return _images(data) + _account(data.account)


def _images(data: Failures) -> str:
    if data.counts is None:
        return "<p>No image was read yet: the dataset has no column <code>image_error</code>.</p>"
    if not data.counts:
        return "<p>Every image could be read.</p>"
    total = sum(data.counts.values())
    named = [row for kind in data.counts for row in data.examples[kind]]
    return (
        f"<p><strong class=bad>{total:,}</strong> images could not be read.</p>"
        + html.bars(data.counts.items(), total, "image_error")
        + html.table(["shard", "key", "reason"], named, f"The first {_NAMED} of each kind")
    )


def _account(account: Account) -> str:
    def counted(value: int | None) -> str:
        return "not counted" if value is None else f"{value:,}"

    rows = [
        ["rows in sidecars", counted(account.rows_in_sidecars)],
        ["of these without an image in the tars", counted(account.without_image)],
        *(
            [["of these not downloaded, as their status says", counted(account.not_downloaded)]]
            if account.not_downloaded
            else []
        ),
        ["samples in tars", counted(account.samples_in_tars)],
        ["of these without a row", counted(account.without_row)],
    ]
    body = "<h3>Tars and sidecars</h3>" + html.table(["", "count"], rows)
    if account.faults:
        named = [
            [fault["kind"], fault["shard"], fault["key"], fault["detail"]]
            for fault in account.named
        ]
        body += html.bars(account.faults.items(), sum(account.faults.values()), "fault", "times")
        body += html.table(["fault", "shard", "key", "detail"], named, "The first of each kind")
    return body
