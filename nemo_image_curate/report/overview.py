"""What the dataset is, where its columns are from, and how the report was made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nemo_image_curate import html
from nemo_image_curate.report.album import Album, Rows
from nemo_image_curate.report.settings import Settings

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

TITLE = "Dataset"


@dataclass(frozen=True)
class Overview:
    """What the section shows."""

    shards: int


def gather(dataset: ImageTextPairDataset, settings: Settings) -> Overview:
    """Count shards and bytes, and read what made the columns."""
    return Overview(len(dataset.tar_files))


def pictures(data: Overview) -> Iterable[Rows]:
    """None."""
    return ()


def render(data: Overview, album: Album) -> str:
    """The section as HTML."""
    return html.table(["shards"], [[data.shards]])
