"""Open a tar shard and read members by key, wherever the shard lies."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from types import TracebackType

from nemo_image_curate import storage
from nemo_image_curate.errors import DatasetError
from nemo_image_curate.shards.index import BLOCK, Member, TarIndex, is_header_of, parse_idx, scan
from nemo_image_curate.shards.names import ShardFiles

# Ranges of a remote shard that one request round asks for together.
_RANGES_AT_ONCE = 64


class TarShard:
    """One tar shard, open for reading.

    A local tar is memory-mapped. A remote one is copied to an unnamed local file, unless its
    ``.idx`` file says where the members are: then only the wanted ranges are read.

    Parameters
    ----------
    location : str
        Path or URL of the tar.
    use_index_file : bool
        Take the index from ``STEM.idx`` beside the tar when there is one that fits it.

    Attributes
    ----------
    index : TarIndex

    Raises
    ------
    DatasetError
        On entering, when the tar does not exist or cannot be read.
    """

    def __init__(self, location: str, use_index_file: bool = False):
        self.location = location
        self.use_index_file = use_index_file
        self.index: TarIndex
        self._stack = ExitStack()
        self._data: mmap.mmap | bytes | None = None

    def __enter__(self) -> TarShard:
        index = self._read_idx() if self.use_index_file else None
        try:
            if index is not None and not storage.is_local(self.location):
                self.index = index
                return self
            file = self._stack.enter_context(storage.fetched(self.location))
            self.index = scan(file) if index is None else index
            self._data = b""
            if os.fstat(file.fileno()).st_size:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                self._data = self._stack.enter_context(mapped)
        except FileNotFoundError as error:
            raise DatasetError(
                f"shard {self.location} does not exist. If the tars were moved, open the dataset "
                "with from_webdataset(TAR_FOLDER, metadata=METADATA_FOLDER)."
            ) from error
        except OSError as error:
            raise DatasetError(f"cannot read shard {self.location}: {error}") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _read_idx(self) -> TarIndex | None:
        location = ShardFiles.beside(self.location).index
        tar, idx = storage.stat(self.location), storage.stat(location)
        # An index older than its tar may describe other bytes.
        if tar is None or idx is None or idx.mtime < tar.mtime:
            return None
        index = parse_idx(storage.read_bytes(location).decode("utf-8", "surrogateescape"))
        return index if index is not None and self._describes(index, tar.size) else None

    def _describes(self, index: TarIndex, size: int) -> bool:
        """Whether an index is of this very tar: its first and last member, and nothing after."""
        members = [(key, one) for key, sample in index.samples.items() for one in sample]
        if not members:
            return False
        first, last = members[0], max(members, key=lambda member: member[1].offset)
        end = last[1].offset + -(-last[1].size // BLOCK) * BLOCK
        if end + BLOCK > size or first[1].offset < BLOCK:
            return False
        starts = (first[1].offset - BLOCK, last[1].offset - BLOCK, end)
        blocks = storage.read_ranges(self.location, [(start, BLOCK) for start in starts])
        fits = is_header_of(blocks[0], *first) and is_header_of(blocks[1], *last)
        return fits and not any(blocks[2])

    def read(self, members: Iterable[Member | None]) -> Iterator[bytes | None]:
        """Yield the bytes of members in the given order; None stays None."""
        if self._data is not None:
            data = self._data
            for member in members:
                yield None if member is None else data[member.offset : member.offset + member.size]
            return
        pending: list[Member | None] = []
        for member in members:
            pending.append(member)
            if len(pending) == _RANGES_AT_ONCE:
                yield from self._fetch(pending)
                pending = []
        yield from self._fetch(pending)

    def _fetch(self, members: list[Member | None]) -> Iterator[bytes | None]:
        ranges = [(member.offset, member.size) for member in members if member is not None]
        contents = iter(storage.read_ranges(self.location, ranges) if ranges else ())
        for member in members:
            yield None if member is None else next(contents)
