#!/usr/bin/env python3
"""Take the GPU code of other chips out of libraries, so that they travel in fewer parts.

    python ci/gpu/prune.py CAPABILITY FOLDER      such as 90 for an H100 or H200

Libraries hold the same kernels for six or more generations of chips, each compressed by itself, so
that no archive makes them smaller. Of each fat binary that has code for the wanted chip that code
alone is left, in front; what is free behind it becomes zeros, which compress to nothing. Addresses
and sizes of files stay.

The format of fat binaries is not documented. What is read here: a header (magic number, version,
size of the header, size of the entries), then entries, each with a header that tells its kind (1:
PTX, 2: machine code), its size, its contents' size and its chip.
"""

from __future__ import annotations

import argparse
import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_MAGIC = struct.pack("<I", 0xBA55ED50)
_HEADER = struct.Struct("<IHHQ")
_ENTRY = struct.Struct("<HHIQ")
_CHIP_AT, _CODE = 28, 2


class Entry(NamedTuple):
    """One kernel file within a fat binary."""

    kind: int
    chip: int
    start: int
    end: int


def fat_binaries(data: mmap.mmap) -> Iterator[tuple[int, list[Entry]]]:
    """Where each fat binary of a file begins, and its entries; not those that are read wrongly."""
    start = data.find(_MAGIC)
    while start >= 0:
        after = start + 4
        if start + _HEADER.size <= len(data):
            _, version, header, size = _HEADER.unpack_from(data, start)
            end = start + header + size
            if version == 1 and header == _HEADER.size and end <= len(data):
                entries = list(_entries(data, start + header, end))
                if entries and entries[-1].end == end:
                    yield start, entries
                    after = end
        start = data.find(_MAGIC, after)


def _entries(data: mmap.mmap, start: int, end: int) -> Iterator[Entry]:
    while start + _CHIP_AT + 4 <= end:
        kind, _, header, size = _ENTRY.unpack_from(data, start)
        (chip,) = struct.unpack_from("<I", data, start + _CHIP_AT)
        if not _CHIP_AT + 4 <= header <= 4096:
            return
        yield Entry(kind, chip, start, start + header + size)
        start += header + size


def prune(path: Path, chip: int) -> int:
    """Leave in a file only the code for one chip, wherever there is some; returns bytes freed."""
    freed = 0
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        for start, entries in fat_binaries(data):
            kept = [entry for entry in entries if entry.kind == _CODE and entry.chip == chip]
            if not kept or len(kept) == len(entries):
                continue
            code = b"".join(data[entry.start : entry.end] for entry in kept)
            first, end = start + _HEADER.size, entries[-1].end
            data[first:end] = code.ljust(end - first, b"\0")
            struct.pack_into("<Q", data, start + 8, len(code))
            freed += end - first - len(code)
    return freed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("capability", type=int)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    for path in sorted(options.folder.rglob("*.so*")):
        if path.stat().st_size and (freed := prune(path, options.capability)):
            print(f"{path.relative_to(options.folder)}: {freed / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
