"""Rows chosen at random, so that extremes do not mislead, with their captions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nemo_image_curate import html
from nemo_image_curate.dataset.looking.choices import View, choose
from nemo_image_curate.report.album import Album, Rows, plain_columns
from nemo_image_curate.report.settings import Settings

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

TITLE = "Random sample"


@dataclass(frozen=True)
class Sample:
    """Random rows, and the seed that chooses them."""

    rows: Rows
    seed: int


def gather(dataset: ImageTextPairDataset, settings: Settings) -> Sample:
    """Choose by a hash of shard and key, of all rows, whatever conditions say."""
    (choice,) = choose(
        dataset,
        [View("random")],
        settings.sample,
        plain_columns(dataset),
        seed=settings.seed,
        progress=settings.progress,
    )
    return Sample(Rows(choice.rows, dataset), settings.seed)


def pictures(data: Sample) -> Iterable[Rows]:
    """All of them."""
    return (data.rows,)


def render(data: Sample, album: Album) -> str:
    """The section as HTML."""
    count = len(data.rows.table)
    if not count:
        return "<p>The dataset has no rows.</p>"
    note = f"{count:,} rows by a hash of shard, key and the seed {data.seed}."
    return f"<p class=note>{html.escape(note)}</p>{album.show(data.rows)}"
