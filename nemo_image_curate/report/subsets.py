"""Which of some subsets is better to train on, as `compare_subsets` found it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from nemo_image_curate.report.album import Album, Rows
from nemo_image_curate.report.settings import Settings

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset
    from nemo_image_curate.selection.subsets.result import SubsetComparison

TITLE = "Which subset is better"


def gather(dataset: ImageTextPairDataset, settings: Settings) -> SubsetComparison | None:
    """The comparison that was made before."""
    return settings.comparison


def pictures(data: SubsetComparison) -> Iterable[Rows]:
    """None."""
    return ()


def render(data: SubsetComparison, album: Album) -> str:
    """The section as HTML."""
    return data.to_html()
