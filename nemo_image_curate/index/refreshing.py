"""Keep an index and its dataset together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_image_curate import storage
from nemo_image_curate.errors import DatasetError
from nemo_image_curate.index import build, format, reconcile
from nemo_image_curate.index.staging import Parts

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset


def parts_of(
    folder: str, saved: Mapping[str, Any], dataset: ImageTextPairDataset, progress: bool | None
) -> Parts:
    """The parts of a dataset, if its column may be the one that is indexed.

    Raises
    ------
    DatasetError
        When it is of another encoder, or keys are in another column.
    """
    recipe = saved["recipe"]
    if dataset.id_col != recipe["id_col"]:
        raise DatasetError(
            f"the index at {folder} was made with id_col={recipe['id_col']!r}, but the dataset "
            f"was opened with id_col={dataset.id_col!r}."
        )
    record = dataset.provenance.get(recipe["column"], {})
    reconcile.check_encoder(recipe, record, folder)
    return Parts(dataset, recipe["column"], Path(folder, format.PARTS), progress)


def refresh(folder: str, dataset: ImageTextPairDataset, progress: bool | None) -> None:
    """Check that an index belongs to a dataset; take over columns that were changed.

    Raises
    ------
    DatasetError
        Saying what differs.
    """
    saved = format.read(folder)
    parts = parts_of(folder, saved, dataset, progress)
    if reconcile.match_fingerprints(saved["partitions"], parts):
        return
    with storage.exclusive(folder):
        saved = format.read(folder)
        found = compared(folder, saved, parts, add=False)
        if found.records:
            build.update(folder, saved, parts, found, {})


def compared(folder: str, saved: Mapping[str, Any], parts: Parts, add: bool) -> reconcile.Match:
    """Which partitions are the same; anything else is refused, but new ones when they are added.

    Raises
    ------
    DatasetError
        Saying what differs.
    """
    found = reconcile.match(saved["partitions"], parts, with_vectors=add)
    if found.gone or (found.new and not add):
        rows = build.row_table(folder, saved)
        try:
            reconcile.refuse(found, saved["partitions"], parts, rows, folder)
        finally:
            storage.remove_tree(str(parts.folder))
    return found
