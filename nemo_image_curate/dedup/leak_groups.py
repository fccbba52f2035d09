"""Groups of duplicates of which one row is a leak: all their rows are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate.compute import jobs
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.dedup.exchange import Exchange
from nemo_image_curate.dedup.leaks import BY_GROUP
from nemo_image_curate.dedup.staged import Block, RowArrays, StagedRows, owners

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

# Between shard and key in the name of a group; neither holds it.
_BETWEEN = pa.scalar("\0", pa.large_string())


def shard_columns(dataset: ImageTextPairDataset, groups: list[str]) -> list[str]:
    """The columns with the shards of the rows that stand for groups, as far as there are any."""
    names = [f"{name}_shard" for name in groups]
    return [name for name in names if name in dataset.metadata.columns]


def spread(
    near: RowArrays,
    staged: StagedRows,
    groups: list[str],
    folder: Path,
    progress: bool | None,
) -> RowArrays:
    """Make leaks of all rows that are in a group with one.

    Parameters
    ----------
    near : RowArrays
        `leaks.NEAR` of all rows.
    staged : StagedRows
    groups : list of str
        Columns that name the group of each row. Where there is a column of the same name with
        ``_shard`` after it, as those of deduplication, both name the row that stands for it, and
        null means the row itself; else null means no group.
    folder : Path
    progress : bool or None

    Returns
    -------
    RowArrays
        The same for all rows. A row that is one by its group alone has the row of the references
        that comes first of those its group leaks from, and no similarity.
    """
    unchanged, step = 0, 0
    # Groups by one column may join those by another.
    while unchanged < len(groups):
        name = groups[step % len(groups)]
        near, changed = _step(near, staged, name, folder / f"group-{step}", progress)
        unchanged = 1 if changed else unchanged + 1
        step += 1
        if len(groups) == 1:
            break
    return near


def _step(
    near: RowArrays, staged: StagedRows, name: str, folder: Path, progress: bool | None
) -> tuple[RowArrays, bool]:
    folder.mkdir(exist_ok=True)
    count = len(staged.blocks)
    members = Exchange(folder, "members", count, count)
    members.fill(
        _send_members,
        [(block, near, name, staged.id_col) for block in staged.blocks],
        "group",
        progress,
    )
    touched = Exchange(folder, "touched", count, count)
    touched.fill(_touch, [(members, staged.starts)] * count, "group", progress)
    after = RowArrays(folder, "near", staged.starts)
    call = dask.delayed(_mark, pure=False)
    changed = jobs.compute_all(
        [call(after, block, near, touched) for block in staged.blocks],
        [f"block {block.number}" for block in staged.blocks],
        "group",
        progress,
    )
    return after, any(changed)


def _group_names(block: Block, name: str, id_col: str) -> pa.Array:
    """The name of each row's group; null for none."""
    table, shard = block.table(), f"{name}_shard"
    if shard not in table.column_names:
        named: pa.Array = table[name].combine_chunks().cast(pa.large_string())
        return named
    own_names = pc.binary_join_element_wise(table[SHARD_COLUMN], table[id_col], _BETWEEN)
    other = pc.binary_join_element_wise(table[shard], table[name], _BETWEEN)
    return pc.coalesce(other, own_names).combine_chunks()


def _send_members(
    members: Exchange, sender: int, block: Block, near: RowArrays, name: str, id_col: str
) -> None:
    """Tell the bucket of each group its rows, and from where they leak; runs on a worker."""
    groups = _group_names(block, name, id_col)
    known = near.read(sender)
    leak = np.where(known["signals"] > 0, known["row"], -1)
    has_group = np.flatnonzero(groups.is_valid().to_numpy(zero_copy_only=False))
    groups = groups.take(has_group)
    table = pa.table({"group": groups, "row": block.start + has_group, "leak": leak[has_group]})
    hashed = pd.util.hash_array(groups.to_numpy(zero_copy_only=False).astype(object))
    members.write(sender, table, (hashed % members.receivers).astype(np.int64))


def _touch(touched: Exchange, sender: int, members: Exchange, starts: np.ndarray) -> None:
    """Tell rows that are no leaks, of groups with one, from where these leak; runs on a worker."""
    table = members.read(sender)
    rows, leaks = table["row"].to_numpy(), table["leak"].to_numpy()
    group = table["group"].combine_chunks().dictionary_encode().indices.to_numpy()
    first = np.full(int(group.max(initial=-1)) + 1, np.iinfo(np.int64).max)
    is_leak = leaks >= 0
    np.minimum.at(first, group[is_leak], leaks[is_leak])
    is_touched = ~is_leak & (first[group] < np.iinfo(np.int64).max)
    result = pa.table({"row": rows[is_touched], "leak": first[group[is_touched]]})
    touched.write(sender, result, owners(starts, rows[is_touched]))


def _mark(after: RowArrays, block: Block, near: RowArrays, touched: Exchange) -> bool:
    """Write what is known of a block's rows now, and whether it is new; runs on a worker."""
    known: Any = near.read(block.number)
    table = touched.read(block.number)
    places = table["row"].to_numpy() - block.start
    known["row"][places] = table["leak"].to_numpy()
    known["similarity"][places] = np.nan
    known["signals"][places] = BY_GROUP
    after.write(block.number, known)
    return len(places) > 0
