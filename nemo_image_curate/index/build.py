"""Make an index of a dataset, add shards to it, and take over columns that were changed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_image_curate import locks, storage
from nemo_image_curate.errors import DatasetError
from nemo_image_curate.index import format, reconcile
from nemo_image_curate.index.format import Partition, SavedIndex
from nemo_image_curate.index.kinds import table
from nemo_image_curate.index.kinds.base import Files, Kind
from nemo_image_curate.index.recall import Recall
from nemo_image_curate.index.rows import RowTable
from nemo_image_curate.index.staging import StagedPartition, StagedPartitions, common_dim
from nemo_image_curate.version import __version__

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

logger = logging.getLogger(__name__)

# An index of more than so many times the vectors that it was trained on should be built again.
_MOST_GROWTH = 4


def make(
    dataset: ImageTextPairDataset,
    column: str,
    folder: str,
    options: dict[str, Any],
    progress: bool | None,
) -> None:
    """Make the index of a column, if it is not there already.

    Parameters
    ----------
    dataset : ImageTextPairDataset
    column : str
    folder : str
    options : dict
        ``kind``, ``rerank``, ``target_recall`` and ``max_memory``, as for `build_index`.
    progress : bool or None
    """
    staged = StagedPartitions(dataset, column, Path(folder, format.STAGING), progress)
    with locks.exclusive(folder):
        if saved := _finished(folder, options, staged):
            format.tidy(saved)
            return
        provenance = dataset.provenance.get(column, {})
        if "conflict" in provenance:
            raise DatasetError(
                f"column {column!r}: {provenance['conflict']}. Embed all shards with one model "
                "before they are indexed."
            )
        partitions = staged.read(range(len(staged)))
        dim = common_dim(column, partitions.values())
        count = _count(partitions)
        plan = table.choose(count, dim, options["kind"], options["rerank"], options["max_memory"])
        logger.info("index of %s is %s", column, plan)
        recipe = {
            "version": __version__,
            "column": column,
            "id_col": dataset.id_col,
            "encoder": provenance.get("encoder"),
            "provenance": provenance,
            "options": options,
            "trained_on": count,
        }
        indexed = _indexed(partitions)
        rows = staged.folder / "rows"
        staged.write_row_table(rows, indexed)
        kind, files = plan.make(staged, indexed, before={})
        saved = SavedIndex(folder, recipe, {}, list(partitions.values()))
        _commit(saved, kind, {"rows": rows, **files}, staged)


def _finished(
    folder: str, options: Mapping[str, Any], staged: StagedPartitions
) -> SavedIndex | None:
    """The index that is there, if it is whole and was made of this dataset in this way."""
    try:
        saved = format.read(folder)
        format.check(saved, whole=False)
    except (DatasetError, FileNotFoundError):
        return None
    same = reconcile.has_same_marks(saved.partitions, staged)
    return saved if same and saved.recipe["options"] == options else None


def _count(partitions: Mapping[int, Partition]) -> int:
    """How many vectors partitions have."""
    return sum(partition.indexed for partition in partitions.values())


def _indexed(partitions: Mapping[int, StagedPartition]) -> dict[int, StagedPartition]:
    """Those that have vectors."""
    return {number: partition for number, partition in partitions.items() if partition.indexed}


def add(folder: str, dataset: ImageTextPairDataset, progress: bool | None) -> None:
    """Add the shards that a dataset has and an index has not.

    Raises
    ------
    DatasetError
        When what is indexed already is not in the dataset as it was.
    """
    with locks.exclusive(folder):
        saved = format.read(folder)
        staged = _staged(saved, dataset, progress)
        match = _matched(saved, staged, add=True)
        if match.unchanged:
            format.tidy(saved)
        else:
            _update(saved, staged, match)


def refresh(folder: str, dataset: ImageTextPairDataset, progress: bool | None) -> None:
    """Check that an index belongs to a dataset; take over columns that were changed.

    Raises
    ------
    DatasetError
        Saying what differs.
    """
    saved = format.read(folder)
    staged = _staged(saved, dataset, progress)
    if reconcile.has_same_marks(saved.partitions, staged):
        return
    with locks.exclusive(folder):
        saved = format.read(folder)
        match = _matched(saved, staged, add=False)
        if match.staged:
            _update(saved, staged, match)


def _staged(
    saved: SavedIndex, dataset: ImageTextPairDataset, progress: bool | None
) -> StagedPartitions:
    """The partitions of a dataset, if its column may be the one that is indexed."""
    id_col, column = saved.recipe["id_col"], saved.recipe["column"]
    if dataset.id_col != id_col:
        raise DatasetError(
            f"the index at {saved.folder} was made with id_col={id_col!r}, but the dataset was "
            f"opened with id_col={dataset.id_col!r}."
        )
    reconcile.check_encoder(saved, dataset.provenance.get(column, {}))
    return StagedPartitions(dataset, column, Path(saved.folder, format.STAGING), progress)


def _matched(saved: SavedIndex, staged: StagedPartitions, add: bool) -> reconcile.Match:
    """Which partitions are the same; anything else is refused, but new ones when they are added."""
    match = reconcile.match(saved.partitions, staged, with_vectors=add)
    if match.missing or (match.new and not add):
        try:
            reconcile.refuse(match, saved, staged)
        finally:
            storage.remove_tree(str(staged.folder))
    return match


def _update(saved: SavedIndex, staged: StagedPartitions, match: reconcile.Match) -> None:
    """Write the files of an index with the new partitions, or with other columns."""
    new = staged.read(match.new)
    new_indexed = _indexed(new)
    kind = table.from_recipe(saved.recipe)
    rows = staged.folder / "rows"
    if match.staged:
        # All columns anew, in the order of the index.
        again = [
            match.dataset_numbers[number]
            for number, partition in enumerate(saved.partitions)
            if partition.indexed
        ]
        staged.read(again, with_vectors=False)
        staged.write_row_table(rows, [*again, *new_indexed])
    else:
        staged.write_row_table(rows, new_indexed, saved.open_rows().batches())
    files: Files = {"rows": rows}
    if new_indexed:
        common_dim(saved.recipe["column"], new.values(), {kind.dim: saved.folder})
        grown = replace(kind, count=kind.count + _count(new_indexed))
        kind, extended = grown.make(staged, new_indexed, before=saved.paths)
        files = {**files, **extended}
        if kind.count > _MOST_GROWTH * saved.recipe["trained_on"]:
            logger.warning(
                "the index at %s was made for %s vectors and has %s now: build it again",
                saved.folder,
                f"{saved.recipe['trained_on']:,}",
                f"{kind.count:,}",
            )
    # By their new marks they will be found without reading them.
    known = [
        replace(partition, **vars(staged.marks[match.dataset_numbers[number]]))
        for number, partition in enumerate(saved.partitions)
    ]
    _commit(replace(saved, partitions=[*known, *new.values()]), kind, files, staged)


def _commit(saved: SavedIndex, kind: Kind, files: Files, staged: StagedPartitions) -> None:
    """Measure, and put everything in its place; `files` may lack what stays as it is."""
    recipe = saved.recipe | {"kind": kind.name, "count": kind.count, "dim": kind.dim}
    recipe |= kind.recipe()
    recipe["left_out"] = sum(partition.rows for partition in saved.partitions) - kind.count
    recipe["bytes"] = {"memory": kind.memory_bytes, "disk": kind.disk_bytes}
    if "vectors" in files:
        engine = kind.open({role: files[role] for role in kind.roles})
        rows = RowTable(files["rows"], staged.id_col)
        recall = Recall(engine, files["vectors"], kind.dim, rows, staged)
        recipe |= recall.tune(recipe["options"]["target_recall"])
    new_files = {role: path for role, path in files.items() if role in ("rows", *kind.roles)}
    format.commit(replace(saved, recipe=recipe), new_files)
