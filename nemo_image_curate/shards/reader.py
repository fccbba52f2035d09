"""Open a tar shard and read members by key, wherever the shard lies."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any

from nemo_image_curate import storage
from nemo_image_curate.shards.headers import BLOCK, is_header_of
from nemo_image_curate.shards.index import Member, TarIndex, note_unlabelled, parse_idx, scan
from nemo_image_curate.shards.names import ShardFiles, member_name
from nemo_image_curate.shards.opened_tar import OpenedTar
from nemo_image_curate.shards.signatures import SIGNATURE_BYTES

# Beginnings of members that one request round asks a store for together.
_RANGES_AT_ONCE = 64
# Members of the indexes that a process remembers: about 50 MB.
_REMEMBERED_MEMBERS = 2**18


class _Memory:
    """The indexes of the last tars that this process has looked into."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._indexes: OrderedDict[Any, tuple[TarIndex, int]] = OrderedDict()

    def get(self, identity: Any) -> TarIndex | None:
        with self._lock:
            if identity not in self._indexes:
                return None
            self._indexes.move_to_end(identity)
            return self._indexes[identity][0]

    def put(self, identity: Any, index: TarIndex) -> None:
        size = sum(map(len, index.samples.values())) + len(index.faults)
        with self._lock:
            self._indexes[identity] = index, size
            self._indexes.move_to_end(identity)
            total = sum(size for _, size in self._indexes.values())
            # The last one always stays.
            while total > _REMEMBERED_MEMBERS and len(self._indexes) > 1:
                total -= self._indexes.popitem(last=False)[1][1]


_memory = _Memory()


class TarShard:
    """One tar shard, open for reading.

    Its index is remembered: as long as the tar stays as it is, it is not scanned again, and
    nothing is fetched before the first read; see `OpenedTar`.

    Parameters
    ----------
    location : str
        Path or URL of the tar.
    use_index_file : bool
        Take the index from ``STEM.idx`` beside the tar when there is one that fits it.
    reads_all : bool
        Most of it is read after its headers, or will be soon: so all of a remote one is fetched
        at once. Else headers and members alone are, each by a request.

    Attributes
    ----------
    index : TarIndex

    Raises
    ------
    NotFoundError, DatasetError
        On entering, when the tar does not exist or cannot be read.
    ChangedError
        On leaving, when it is not what it was on entering.
    """

    def __init__(self, location: str, use_index_file: bool = False, reads_all: bool = True):
        self.location = location
        self._reads_all = reads_all
        self.use_index_file = use_index_file
        self.index: TarIndex
        self._scanned = False
        self._tar = OpenedTar(location)

    @property
    def info(self) -> storage.FileInfo:
        """What the tar was when it was opened."""
        return self._tar.info

    def __enter__(self) -> TarShard:
        self._tar.__enter__()
        try:
            index = self._read_idx() if self.use_index_file else None
            self.index = index or _memory.get(self._identity()) or self._scan()
        except BaseException:
            self._tar.close()
            raise
        return self

    def _scan(self) -> TarIndex:
        self._tar.reads_all = self._reads_all
        with storage.reaching(self.location):
            index = scan(self._tar.content)
        if (fault := self._tar.fault) is not None:
            # That the tar ends too early, too, says nothing more.
            index.faults = [
                other for other in index.faults if other.kind != "truncated" or other.key
            ]
            index.faults.insert(0, fault)
        self._scanned = True
        return index

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._tar.__exit__(kind, error, traceback)
        # What the index of one that changed meanwhile describes is not known.
        if kind is None and self._scanned:
            _memory.put(self._identity(), self.index)

    def _identity(self) -> tuple[str, str]:
        return self.location, self.info.token

    def _read_idx(self) -> TarIndex | None:
        location = ShardFiles.beside(self.location).index
        tar, idx = self.info, storage.stat(location)
        # An index older than its tar may describe other bytes.
        if idx is None or idx.mtime < tar.mtime:
            return None
        identity = (self.location, tar.token, idx.token)
        known = _memory.get(identity)
        if known is not None:
            return known
        index = parse_idx(storage.read_bytes(location).decode("utf-8", "surrogateescape"))
        if index is None or not self._describes(index, tar.size):
            return None
        note_unlabelled(index, self._heads)
        _memory.put(identity, index)
        return index

    def _heads(self, members: Sequence[Member]) -> Iterator[bytes]:
        for start in range(0, len(members), _RANGES_AT_ONCE):
            batch = members[start : start + _RANGES_AT_ONCE]
            ranges = [(member.offset, min(member.size, SIGNATURE_BYTES)) for member in batch]
            yield from storage.read_ranges(self.location, ranges)

    def _describes(self, index: TarIndex, size: int) -> bool:
        """Whether an index is of this very tar.

        Its first and last member are there, nothing comes after, and between members there is
        room for the header of the next.
        """
        members = [(key, member) for key, sample in index.samples.items() for member in sample]
        if not members:
            return False
        in_order = sorted(members, key=lambda member: member[1].offset)
        first, last = members[0], in_order[-1]
        if any(
            member.offset + member.size + BLOCK > other.offset
            for (_, member), (_, other) in itertools.pairwise(in_order)
        ):
            return False
        end = last[1].offset + -(-last[1].size // BLOCK) * BLOCK
        if end + BLOCK > size or first[1].offset < BLOCK:
            return False
        starts = (first[1].offset - BLOCK, last[1].offset - BLOCK, end)
        blocks = storage.read_ranges(self.location, [(start, BLOCK) for start in starts])
        fits = all(
            is_header_of(block, member_name(key, member.extension), member.size)
            for block, (key, member) in zip(blocks, (first, last), strict=False)
        )
        return fits and not any(blocks[2])

    def read(self, members: Iterable[Member | None]) -> Iterator[bytes | None]:
        """Yield the bytes of members in the given order; None stays None.

        Raises
        ------
        ChangedError
            When the tar became shorter.
        """
        asked, followed = itertools.tee(members)
        contents = self._tar.read(
            (member.offset, member.size) for member in asked if member is not None
        )
        for member in followed:
            yield None if member is None else bytes(next(contents))
