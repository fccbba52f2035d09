"""Write WebDataset tars: headers of our own, contents copied as they are."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Sequence
from typing import IO

from nemo_image_curate.shards.headers import BLOCK
from nemo_image_curate.shards.index import Member

# writev takes at most IOV_MAX (1024 on Linux) pieces.
_PIECES = 1000
# Contents of remote shards wait in memory until they are written.
_WAITING_BYTES = 64 * 2**20
_PADDING = bytes(BLOCK)


def _template() -> tuple[bytes, bytes, int]:
    """A header's parts before and after what differs between members, and their byte sum."""
    info = tarfile.TarInfo("")
    info.mode = 0o644
    raw = info.tobuf(tarfile.USTAR_FORMAT)
    before, after = raw[100:124], raw[136:148] + b" " * 8 + raw[156:]
    return before, after, sum(before) + sum(after)


_BEFORE_SIZE, _AFTER_SIZE, _FIXED_SUM = _template()


def header(name: str, size: int) -> bytes:
    """The tar header of a regular file: mode 0644, owner 0, time 0, so that bytes repeat.

    Names over 100 bytes and sizes of 8 GiB and more get GNU's extensions.
    """
    raw = name.encode("utf-8", "surrogateescape")
    if len(raw) > 100 or size >= 8**11:
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o644
        return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
    digits = b"%011o\0" % size
    checksum = b"%06o\0 " % (_FIXED_SUM + sum(raw) + sum(digits))
    return b"".join(
        (raw.ljust(100, b"\0"), _BEFORE_SIZE, digits, _AFTER_SIZE[:12], checksum, _AFTER_SIZE[20:])
    )


class TarWriter:
    """Append members to a tar file that is open for writing.

    Parameters
    ----------
    file : binary file with a file descriptor
        Contents go to it straight from the buffers given, without a copy in between.

    Attributes
    ----------
    position : int
        Bytes written or waiting.
    """

    def __init__(self, file: IO[bytes]):
        self._descriptor = file.fileno()
        self._pieces: list[bytes | memoryview] = []
        self._flushed = 0
        self.position = 0

    def add(self, name: str, extension: str, content: bytes | memoryview) -> Member:
        """Append one member; returns where its content lies."""
        size = len(content)
        head = header(name, size)
        offset = self.position + len(head)
        padding = -size % BLOCK
        self._pieces += (head, content, _PADDING[:padding])
        self.position = offset + size + padding
        if len(self._pieces) > _PIECES - 3 or self.position - self._flushed > _WAITING_BYTES:
            self.flush()
        return Member(extension, offset, size)

    def flush(self) -> None:
        """Hand everything waiting to the operating system."""
        _write_all(self._descriptor, self._pieces)
        self._pieces = []
        self._flushed = self.position

    def close(self) -> None:
        """Write the end-of-archive marker, padded as tar does. The file stays open."""
        end = self.position + 2 * BLOCK
        self._pieces.append(
            bytes(-(-end // tarfile.RECORDSIZE) * tarfile.RECORDSIZE - self.position)
        )
        self.flush()


def _write_all(descriptor: int, pieces: Sequence[bytes | memoryview]) -> None:
    left = sum(map(len, pieces)) - os.writev(descriptor, pieces)
    while left:
        # The system took only a part: what is left are the last bytes.
        rest = b"".join(pieces)[-left:]
        left -= os.write(descriptor, rest)
