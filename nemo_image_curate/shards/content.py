"""The bytes of a tar by their place, read and not mapped.

Of a file that becomes shorter while it is mapped, reading the map kills the process (SIGBUS).
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import IO

from nemo_image_curate.errors import ChangedError

# What one look at a header takes along: those of the texts that stand beside it.
_LEAST_AHEAD, _MOST_AHEAD = 3 * 2**10, 2**18

# Offset and size.
Range = tuple[int, int]


class Content(ABC):
    """The plain bytes of a tar.

    Attributes
    ----------
    size : int
    chunk : int
        How many bytes of members are best read together.
    """

    size: int
    chunk: int

    @abstractmethod
    def peek(self, start: int, size: int) -> bytes:
        """Bytes from a place, fewer where the tar ends."""

    @abstractmethod
    def read(self, ranges: Sequence[Range]) -> Iterator[bytes | memoryview]:
        """Yield the bytes of some ranges, fewer where the tar ends."""


class LocalContent(Content):
    """The bytes of an open local file.

    Parameters
    ----------
    file : file
    """

    chunk = 2**21
    _GAP = 2**15

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.size = os.fstat(file.fileno()).st_size

    def peek(self, start: int, size: int) -> bytes:
        """Bytes from a place, fewer where the file ends."""
        return read_at(self._file, start, size)

    def read(self, ranges: Sequence[Range]) -> Iterator[bytes | memoryview]:
        """Yield the bytes of some ranges; those that stand close together are read at once."""
        for begin, end, members in merged(ranges, self._GAP):
            data = memoryview(self.peek(begin, end - begin))
            for offset, size in members:
                yield data[offset - begin : offset - begin + size]


def read_at(file: IO[bytes], start: int, size: int) -> bytes:
    """Bytes from a place of a file, fewer where it ends."""
    data = os.pread(file.fileno(), size, start)
    # A call reads no more than 2 GiB.
    while len(data) < size and (
        more := os.pread(file.fileno(), size - len(data), start + len(data))
    ):
        data += more
    return data


def merged(ranges: Iterable[Range], gap: int) -> Iterator[tuple[int, int, list[Range]]]:
    """Begin, end and members of runs of ranges with at most `gap` bytes between them."""
    run: list[Range] = []
    begin = end = 0
    for offset, size in ranges:
        if run and not end <= offset <= end + gap:
            yield begin, end, run
            run = []
        if not run:
            begin = offset
        run.append((offset, size))
        end = offset + size
    if run:
        yield begin, end, run


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
    content: Content, location: str, ranges: Iterable[Range]
) -> Iterator[bytes | memoryview]:
    """Yield the bytes of ranges in the order given; some are read ahead.

    Raises
    ------
    ChangedError
        When the tar became shorter.
    """
    chunk: list[Range] = []
    held = 0
    for place in ranges:
        chunk.append(place)
        held += place[1]
        if held >= content.chunk:
            yield from _read_chunk(content, location, chunk)
            chunk, held = [], 0
    yield from _read_chunk(content, location, chunk)


def _read_chunk(
    content: Content, location: str, chunk: list[Range]
) -> Iterator[bytes | memoryview]:
    for (_, size), data in zip(chunk, content.read(chunk), strict=True):
        if len(data) < size:
            raise ChangedError(
                f"{location} became shorter while it was read. Wait until it is complete, then "
                "run the same job again."
            )
        yield data
