"""Open a tar shard and read members by key, wherever the shard lies."""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from nemo_image_curate import storage
from nemo_image_curate.errors import DatasetError
from nemo_image_curate.shards.compression import plain_tar
from nemo_image_curate.shards.headers import BLOCK, is_header_of
from nemo_image_curate.shards.index import Member, TarIndex, note_unlabelled, parse_idx, scan
from nemo_image_curate.shards.names import ShardFiles, member_name
from nemo_image_curate.shards.signatures import SIGNATURE_BYTES

# Ranges of a remote shard that one request round asks for together.
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


def _identity(location: str) -> tuple[Any, ...]:
    """What changes with a tar's content.

    Raises
    ------
    FileNotFoundError
    """
    if storage.is_local(location):
        status = os.stat(location)
        times = status.st_mtime_ns, status.st_ctime_ns
        return (location, status.st_dev, status.st_ino, status.st_size, *times)
    info = storage.stat(location)
    if info is None:
        raise FileNotFoundError(location)
    return (location, info.size, info.mtime)


class TarShard:
    """One tar shard, open for reading.

    A local tar is memory-mapped. A remote one is copied to an unnamed local file, unless its
    ``.idx`` file says where the members are: then only the wanted ranges are read. A packed one is
    unpacked to an unnamed local file. Its index is remembered: as long as the tar stays as it is,
    it is not scanned again, and nothing is fetched before the first read.

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
        self._opening = threading.Lock()
        self._data: mmap.mmap | bytes | None = None
        self._by_ranges = False

    def __enter__(self) -> TarShard:
        try:
            identity = _identity(self.location)
            index = self._read_idx(identity) if self.use_index_file else None
            self._by_ranges = index is not None and not storage.is_local(self.location)
            index = index or _memory.get(identity)
            if index is None:
                index = self._scan()
                # One that grew meanwhile has another identity now.
                if _identity(self.location) == identity:
                    _memory.put(identity, index)
            self.index = index
        except FileNotFoundError as error:
            self._stack.close()
            raise DatasetError(
                f"shard {self.location} does not exist. If the tars were moved, open the dataset "
                "with from_webdataset(TAR_FOLDER, metadata=METADATA_FOLDER)."
            ) from error
        except OSError as error:
            self._stack.close()
            raise self._unreadable(error) from error
        except BaseException:
            self._stack.close()
            raise
        return self

    def _unreadable(self, error: OSError) -> DatasetError:
        remedy = ""
        if error.errno == errno.ENOSPC:
            remedy = f" Set TMPDIR to a folder with more space than {tempfile.gettempdir()}."
        return DatasetError(f"cannot read shard {self.location}: {error}.{remedy}")

    def _scan(self) -> TarIndex:
        plain = self._stack.enter_context(plain_tar(self.location))
        index = scan(plain.file)
        if plain.fault is not None:
            # That the tar ends too early, too, says nothing more.
            index.faults = [one for one in index.faults if one.kind != "truncated" or one.key]
            index.faults.insert(0, plain.fault)
        self._data = self._mapped(plain.file)
        return index

    def _mapped(self, file: Any) -> mmap.mmap | bytes:
        if not os.fstat(file.fileno()).st_size:
            return b""
        return self._stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def _content(self) -> mmap.mmap | bytes:
        """The tar's plain bytes, fetched or unpacked when they are first needed."""
        with self._opening:
            if self._data is None:
                try:
                    plain = self._stack.enter_context(plain_tar(self.location))
                except OSError as error:
                    raise self._unreadable(error) from error
                self._data = self._mapped(plain.file)
            return self._data

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._data = None
        self._stack.close()

    def _read_idx(self, identity: tuple[Any, ...]) -> TarIndex | None:
        location = ShardFiles.beside(self.location).index
        tar, idx = storage.stat(self.location), storage.stat(location)
        # An index older than its tar may describe other bytes.
        if tar is None or idx is None or idx.mtime < tar.mtime:
            return None
        identity = (*identity, idx)
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
            some = members[start : start + _RANGES_AT_ONCE]
            ranges = [(one.offset, min(one.size, SIGNATURE_BYTES)) for one in some]
            yield from storage.read_ranges(self.location, ranges)

    def _describes(self, index: TarIndex, size: int) -> bool:
        """Whether an index is of this very tar.

        Its first and last member are there, nothing comes after, and between members there is
        room for the header of the next.
        """
        members = [(key, one) for key, sample in index.samples.items() for one in sample]
        if not members:
            return False
        in_order = sorted(members, key=lambda member: member[1].offset)
        first, last = members[0], in_order[-1]
        if any(
            one.offset + one.size + BLOCK > other.offset
            for (_, one), (_, other) in itertools.pairwise(in_order)
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
        """Yield the bytes of members in the given order; None stays None."""
        if not self._by_ranges:
            for member in members:
                yield None if member is None else self._bytes(member)
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

    def _bytes(self, member: Member) -> bytes:
        data = self._data if self._data is not None else self._content()
        end = member.offset + member.size
        if end > len(data):
            raise DatasetError(f"{self.location} became shorter while it was read.")
        return data[member.offset : end]
