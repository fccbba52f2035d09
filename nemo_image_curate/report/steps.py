"""What made the dataset, as a recipe that makes it again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from nemo_image_curate import html
from nemo_image_curate.errors import CurateError
from nemo_image_curate.recipe.origin import recipe_of
from nemo_image_curate.report.album import Album, Rows
from nemo_image_curate.report.settings import Settings

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

TITLE = "As a recipe"


def gather(dataset: ImageTextPairDataset, settings: Settings) -> str | CurateError | None:
    """The recipe as YAML, the report's conditions with it; or why there is none."""
    records = [record for record in dataset.provenance.values() if "stage" in record]
    if not records and not settings.conditions:
        return None
    for condition in settings.conditions:
        dataset = dataset.filter(condition)
    try:
        return recipe_of(dataset).to_yaml()
    except CurateError as error:
        return error


def pictures(data: str | CurateError) -> Iterable[Rows]:
    """None."""
    return ()


def render(data: str | CurateError, album: Album) -> str:
    """The section as HTML."""
    if isinstance(data, CurateError):
        return f"<p class=note>No recipe: {html.escape(data)}</p>"
    return (
        "<p>These steps give the columns and rows of this report, from what is recorded of each "
        "column and from the conditions. Check it, then run it on this dataset or on another: "
        "<code>nemo-image-curate run recipe.yaml --dry-run</code></p>"
        f"<pre class=recipe>{html.escape(data)}</pre>"
    )
