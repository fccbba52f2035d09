"""The sections of a report in their order; each is a module."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from nemo_image_curate.report import (
    clusters,
    columns,
    compare,
    duplicates,
    eps,
    failures,
    funnel,
    leaks,
    map,
    overview,
    sample,
    steps,
    subsets,
)
from nemo_image_curate.report.album import Album, Rows
from nemo_image_curate.report.settings import Settings

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset


class Section(Protocol):
    """What a module has that is a section.

    Attributes
    ----------
    TITLE : str
    """

    TITLE: str

    def gather(self, dataset: ImageTextPairDataset, settings: Settings) -> Any:
        """All that is shown, bounded in size; None where the dataset has nothing of the kind.

        `dataset` is the one before `settings.conditions`.
        """

    def pictures(self, data: Any) -> Iterable[Rows]:
        """The rows whose pictures are shown; all sections' pictures are read together then."""

    def render(self, data: Any, album: Album) -> str:
        """The section as HTML, below its heading; `h3` are the highest headings in it."""


SECTIONS: tuple[Section, ...] = (
    overview,
    compare,
    funnel,
    columns,
    sample,
    duplicates,
    eps,
    leaks,
    clusters,
    subsets,
    map,
    failures,
    steps,
)
