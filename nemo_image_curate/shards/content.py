"""The bytes of a tar by their place, read and not mapped.

Of a file that becomes shorter while it is mapped, reading the map kills the process (SIGBUS).
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import IO

from nemo_image_curate import storage
from nemo_image_curate.errors import ChangedError

# What one look at a header takes along: those of the texts that stand beside it.
_LEAST_AHEAD, _MOST_AHEAD = 2**12, 2**18
# Members that one read takes together, with no more than so much between them.
_CHUNK, _GAP = 2**21, 2**15
# The same of an object store, and how much of it one request asks for.
_REMOTE_CHUNK, _REMOTE_GAP, _REQUEST = 2**25, 2**20, 2**23


class Content(ABC):
    """The plain bytes of a tar.

    Attributes
    ----------
    size : int
    chunk, gap : int
        How many bytes are best read together, and how many between two members are read with them
        rather than apart.
    """

    size: int
    chunk = _CHUNK
    gap = _GAP

    @abstractmethod
    def peek(self, start: int, size: int) -> bytes:
        """Bytes from a place, fewer where the tar ends."""


class LocalContent(Content):
    """The bytes of an open local file.

    Parameters
    ----------
    file : file
    """

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.size = os.fstat(file.fileno()).st_size

    def peek(self, start: int, size: int) -> bytes:
        """Bytes from a place, fewer where the file ends."""
        data = os.pread(self._file.fileno(), size, start)
        # A call reads no more than 2 GiB.
        while len(data) < size and (more := os.pread(self._file.fileno(), size, start + len(data))):
            data += more[: size - len(data)]
        return data


class RemoteContent(Content):
    """The bytes of a file in an object store, by ranges.

    Parameters
    ----------
    location : str
    size : int
    """

    chunk, gap = _REMOTE_CHUNK, _REMOTE_GAP

    def __init__(self, location: str, size: int):
        self.location = location
        self.size = size

    def peek(self, start: int, size: int) -> bytes:
        """Bytes from a place, fewer where the file ends; much at once by several requests."""
        end = min(start + size, self.size)
        places = range(start, end, _REQUEST)
        ranges = [(place, min(_REQUEST, end - place)) for place in places]
        pieces = storage.read_ranges(self.location, ranges)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class HeaderView:
    """A tar as what hops over it from header to header sees it: ``view[start:stop]``.

    More is read than is asked for, most where headers stand close together. Where the file ends
    meanwhile, so does what is seen of it.
    """

    def __init__(self, content: Content):
        self._content = content
        self._size = content.size
        self._start, self._held = 0, b""
        self._ahead = _LEAST_AHEAD

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, place: slice) -> bytes:
        start, stop = place.start, place.stop
        first = start - self._start
        if first >= 0 and stop - self._start <= len(self._held):
            return self._held[first : stop - self._start]
        return self._read(start, min(stop, self._size) - start)

    def _read(self, start: int, size: int) -> bytes:
        if size <= 0:
            return b""
        is_near = 0 <= start - self._start <= len(self._held) + _LEAST_AHEAD
        self._ahead = min(2 * self._ahead, _MOST_AHEAD) if is_near else _LEAST_AHEAD
        wanted = min(max(size, self._ahead), self._size - start)
        self._start, self._held = start, self._content.peek(start, wanted)
        return self._held[:size]


def read_members(
    content: Content, location: str, ranges: Iterable[tuple[int, int]]
) -> Iterator[memoryview]:
    """Yield the bytes of ``(offset, size)`` ranges in the order given.

    Those that follow each other closely are read together.

    Raises
    ------
    ChangedError
        When the tar became shorter.
    """
    chunk: list[tuple[int, int]] = []
    begin = end = 0
    for offset, size in ranges:
        fits = end <= offset <= end + content.gap and offset + size - begin <= content.chunk
        if chunk and not fits:
            yield from _read_together(content, location, chunk, begin, end)
            chunk = []
        if not chunk:
            begin = offset
        chunk.append((offset, size))
        end = offset + size
    if chunk:
        yield from _read_together(content, location, chunk, begin, end)


def _read_together(
    content: Content, location: str, chunk: list[tuple[int, int]], begin: int, end: int
) -> Iterator[memoryview]:
    data = memoryview(content.peek(begin, end - begin))
    if len(data) < end - begin:
        raise ChangedError(
            f"{location} became shorter while it was read. Wait until it is complete, then run "
            "the same job again."
        )
    for offset, size in chunk:
        yield data[offset - begin : offset - begin + size]
