"""From rows to the members of their tars, by (shard, key)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nemo_image_curate import storage
from nemo_image_curate.shards.reader import TarShard


def rows_by_shard(
    keys: Sequence[str | None], shards: Sequence[str | None]
) -> Iterator[tuple[str, list[int]]]:
    """Yield each shard with its rows; rows without key or shard belong to none."""
    groups: dict[str, list[int]] = {}
    for row, (key, shard) in enumerate(zip(keys, shards, strict=True)):
        if shard is not None and key is not None:
            groups.setdefault(shard, []).append(row)
    yield from sorted(groups.items())


def open_shards(
    root: str,
    keys: Sequence[str | None],
    shards: Sequence[str | None],
    use_index_files: bool = False,
) -> Iterator[tuple[TarShard, list[int]]]:
    """Yield each shard, open until the next one is asked for, with the rows whose bytes it holds.

    Parameters
    ----------
    root : str
        What `shards` are relative to.
    keys, shards : sequence of str, length n
        Rows where either is null are left out.
    use_index_files : bool
        Take members' places from ``STEM.idx``.

    Raises
    ------
    DatasetError
        When a shard does not exist or cannot be read.
    """
    for shard, rows in rows_by_shard(keys, shards):
        with TarShard(storage.join(root, shard), use_index_files) as opened:
            yield opened, rows


def image_bytes(
    root: str,
    keys: Sequence[str | None],
    shards: Sequence[str | None],
    use_index_files: bool = False,
) -> Iterator[tuple[int, bytes | None]]:
    """Yield each row with its image's bytes, in the order of the tars.

    So what comes together does not depend on the order of the rows, and disks read forward.
    Parameters and errors are those of `open_shards`.

    Yields
    ------
    row : int
    content : bytes or None
        None where the shard has no image of that key.
    """
    for opened, rows in open_shards(root, keys, shards, use_index_files):
        members = {row: opened.index.image(keys[row] or "") for row in rows}
        in_tar_order = sorted(rows, key=lambda row: (getattr(members[row], "offset", -1), row))
        contents = opened.read(members[row] for row in in_tar_order)
        yield from zip(in_tar_order, contents, strict=True)
