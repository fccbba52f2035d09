"""The bytes of a tar in an object store: fetched by large requests, once, and kept for a while."""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import os
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from nemo_image_curate import storage
from nemo_image_curate.compute.worker_cache import scratch_folder
from nemo_image_curate.errors import ChangedError
from nemo_image_curate.shards.content import Content, Range, merged, read_at

# Bytes of tars that a process keeps on its disk; less where a quarter of what is free is less.
KEPT_BYTES = 2**31
# What one request asks for, and how much is asked for and held in memory at once.
_REQUEST, _AT_ONCE = 2**23, 2**25
# Bytes between two members that cost less than another request.
_GAP = 2**20


class RemoteContent(Content):
    """The bytes of a file in an object store, of which those that were read are on the disk.

    Parameters
    ----------
    info : FileInfo
    """

    chunk = _AT_ONCE

    def __init__(self, info: storage.FileInfo):
        self.info = info
        self.size = info.size
        self._lock = threading.Lock()
        # What is on the disk: where each piece begins and ends, in order, none touching another.
        self._begins: list[int] = []
        self._ends: list[int] = []
        self._path: Path | None = None
        self._file = self._open()

    def _open(self) -> IO[bytes]:
        folder = scratch_folder()
        if folder is None:
            # An unnamed temporary file: even kill -9 leaves nothing behind.
            return tempfile.TemporaryFile()
        if (whole := _of_another_process(folder, self.info)) is not None:
            self._note(0, self.size)
            return whole
        # Goes with the folder, which Dask removes, also that of a worker that was killed.
        self._path = Path(folder, f"{_name(self.info)}.part")
        return self._path.open("w+b")

    @property
    def held(self) -> int:
        """Bytes on the disk."""
        return sum(self._ends) - sum(self._begins)

    def file(self) -> IO[bytes]:
        """A file with all of it."""
        self.fetch_all()
        return os.fdopen(os.dup(self._file.fileno()), "rb")

    def peek(self, start: int, size: int) -> bytes:
        """Bytes from a place, fewer where the file ends."""
        end = min(start + size, self.size)
        with self._lock:
            self._fetch([(start, end - start)], 0)
        return read_at(self._file, start, end - start)

    def read(self, ranges: Sequence[Range]) -> Iterator[bytes | memoryview]:
        """Yield the bytes of some ranges; what is not on the disk is fetched together."""
        with self._lock:
            self._fetch(ranges, _GAP)
        for offset, size in ranges:
            yield read_at(self._file, offset, size)

    def fetch_all(self) -> None:
        """Fetch what is not on the disk yet; then other processes of this machine may read it.

        Raises
        ------
        NotFoundError, ChangedError
            When it is another file meanwhile.
        """
        with self._lock:
            if self.held == self.size:
                return
            for start in range(0, self.size, _AT_ONCE):
                self._fetch([(start, min(_AT_ONCE, self.size - start))], 0)
            self.info.require_same(storage.stat(self.info.location))
            if self._path is not None and self.info.content:
                self._path = self._path.rename(self._path.with_suffix(""))

    def _fetch(self, ranges: Sequence[Range], gap: int) -> None:
        missing = [piece for place in ranges for piece in self._missing(*place)]
        requests = [
            (place, min(_REQUEST, end - place))
            for begin, end, _ in merged(missing, gap)
            for place in range(begin, end, _REQUEST)
        ]
        step = _AT_ONCE // _REQUEST
        for start in range(0, len(requests), step):
            asked = requests[start : start + step]
            contents = storage.read_ranges(self.info.location, asked)
            for (offset, size), data in zip(asked, contents, strict=True):
                if len(data) != size:
                    raise ChangedError(
                        f"{self.info.location} became shorter while it was read. Wait until it is "
                        "complete, then run the same job again."
                    )
                os.pwrite(self._file.fileno(), data, offset)
                self._note(offset, offset + size)

    def _missing(self, offset: int, size: int) -> Iterator[Range]:
        """The parts of a range that are not on the disk."""
        end = offset + size
        number = bisect.bisect_right(self._begins, offset) - 1
        if number >= 0:
            offset = max(offset, self._ends[number])
        while offset < end:
            number += 1
            next_begin = self._begins[number] if number < len(self._begins) else end
            if offset < next_begin:
                yield offset, min(end, next_begin) - offset
            offset = self._ends[number] if number < len(self._begins) else end

    def _note(self, begin: int, end: int) -> None:
        first = bisect.bisect_left(self._ends, begin)
        last = bisect.bisect_right(self._begins, end)
        if first < last:
            begin, end = min(begin, self._begins[first]), max(end, self._ends[last - 1])
        self._begins[first:last] = [begin]
        self._ends[first:last] = [end]

    def forget(self) -> None:
        """Have no other process find it; it can be read for as long as anyone here does."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


class _Kept:
    """The tars that this process has read last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._contents: OrderedDict[str, RemoteContent] = OrderedDict()

    def get(self, info: storage.FileInfo) -> RemoteContent:
        name = _name(info)
        with self._lock:
            content = self._contents.pop(name, None) or RemoteContent(info)
            self._contents[name] = content
            folder = scratch_folder() or tempfile.gettempdir()
            allowed = min(KEPT_BYTES, shutil.disk_usage(folder).free // 4)
            total = content.size + sum(stored.held for stored in self._contents.values())
            while total > allowed and len(self._contents) > 1:
                dropped = self._contents.popitem(last=False)[1]
                total -= dropped.held
                dropped.forget()
            return content

    def drop(self, info: storage.FileInfo) -> None:
        with self._lock:
            if (content := self._contents.pop(_name(info), None)) is not None:
                content.forget()


_kept = _Kept()


def content_of(info: storage.FileInfo) -> RemoteContent:
    """The content of a file in an object store, as far as this process has it."""
    return _kept.get(info)


def drop(info: storage.FileInfo) -> None:
    """Forget what was fetched of a file, which has other content now."""
    _kept.drop(info)


def _name(info: storage.FileInfo) -> str:
    return hashlib.sha256(f"{info.location} {info.token}".encode()).hexdigest()[:32] + ".tar"


def _of_another_process(folder: str, info: storage.FileInfo) -> IO[bytes] | None:
    """A whole tar that another worker on this machine has fetched."""
    for path in Path(folder).parent.glob(f"*/{_name(info)}"):
        with contextlib.suppress(OSError):
            status = path.stat()
            if (status.st_uid, status.st_size) == (os.getuid(), info.size):
                return path.open("rb")
    return None
