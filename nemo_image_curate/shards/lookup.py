"""From rows to the members of their tars, by (shard, key)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from nemo_image_curate import storage
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.shards.index import Member
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


class RowImage(NamedTuple):
    """The encoded image of a row.

    Attributes
    ----------
    row : int
    content : bytes or None
    reason : str or None
        Why there is none, as ``image_error`` says it.
    """

    row: int
    content: bytes | None
    reason: str | None


@dataclass(frozen=True)
class Tars:
    """The tars of a dataset, and which member of a sample is its image.

    Parameters
    ----------
    root : str
        What shards are relative to.
    image_member : str, optional
        The extension of the image member, or a pattern of it: see `TarIndex.image`.

    Raises
    ------
    ConfigError
        For an `image_member` that can be no extension.
    """

    root: str
    image_member: str | None = None

    def __post_init__(self) -> None:
        name = self.image_member
        if name is not None and (not name.strip() or "/" in name):
            raise ConfigError(
                f"image_member={name!r} should be the extension of a member, such as 'jpg' or "
                "'input.jpg', or a pattern of it, such as '*.png' or 'input.*'."
            )

    def content_token(self) -> list[Any]:
        """What decides which bytes a row has: not where the tars are, which may be moved."""
        return [] if self.image_member is None else ["image_member", self.image_member]

    def open_shards(
        self,
        keys: Sequence[str | None],
        shards: Sequence[str | None],
        use_index_files: bool = False,
    ) -> Iterator[tuple[TarShard, list[int]]]:
        """Yield each shard, open until the next one is asked for, with the rows that it holds.

        Parameters
        ----------
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
            with TarShard(storage.join(self.root, shard), use_index_files) as opened:
                yield opened, rows

    def image_of(self, opened: TarShard, key: str) -> Member | None:
        """The image member of a sample of an open shard."""
        return opened.index.image(key, self.image_member)

    def tar_order(
        self,
        keys: Sequence[str | None],
        shards: Sequence[str | None],
        use_index_files: bool = False,
    ) -> list[int]:
        """The rows in the order in which `image_bytes` yields them; no content is read."""
        return [
            row
            for opened, rows in self.open_shards(keys, shards, use_index_files)
            for row in self._in_tar_order(opened, keys, rows)
        ]

    def _in_tar_order(
        self, opened: TarShard, keys: Sequence[str | None], rows: Sequence[int]
    ) -> dict[int, Member | None]:
        members = {row: self.image_of(opened, keys[row] or "") for row in rows}
        in_order = sorted(rows, key=lambda row: (getattr(members[row], "offset", -1), row))
        return {row: members[row] for row in in_order}

    def image_bytes(
        self,
        keys: Sequence[str | None],
        shards: Sequence[str | None],
        use_index_files: bool = False,
    ) -> Iterator[RowImage]:
        """Yield each row with its image's bytes, in the order of the tars.

        So what comes together does not depend on the order of the rows, and disks read forward.
        Parameters and errors are those of `open_shards`.
        """
        for opened, rows in self.open_shards(keys, shards, use_index_files):
            members = self._in_tar_order(opened, keys, rows)
            for row, content in zip(members, opened.read(members.values()), strict=True):
                reason = None
                if content is None:
                    reason = opened.index.why_no_image(keys[row] or "", self.image_member)
                yield RowImage(row, content, reason)
