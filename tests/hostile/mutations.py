"""Damaged copies of files, as disks, networks and people with bad intentions make them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

# Numbers at which sizes and counts overflow.
_EDGES = (0, 1, 127, 128, 255, 256, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63)


def flip(data: bytearray, draw: random.Random) -> None:
    for _ in range(draw.choice((1, 1, 2, 8))):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def overwrite(data: bytearray, draw: random.Random) -> None:
    start = draw.randrange(len(data))
    count = draw.choice((1, 2, 4, 16))
    data[start : start + count] = draw.randbytes(count)


def edge(data: bytearray, draw: random.Random) -> None:
    """A number of 1, 2, 4 or 8 bytes, of either order, becomes an extreme one."""
    width = draw.choice((1, 2, 2, 4, 4, 8))
    value = draw.choice(_EDGES) & (2 ** (8 * width) - 1)
    start = draw.randrange(len(data))
    data[start : start + width] = value.to_bytes(width, draw.choice(("big", "little")))


def cut(data: bytearray, draw: random.Random) -> None:
    del data[draw.randrange(len(data)) :]


def remove(data: bytearray, draw: random.Random) -> None:
    start = draw.randrange(len(data))
    del data[start : start + draw.choice((1, 4, 64, 512))]


def repeat(data: bytearray, draw: random.Random) -> None:
    start = draw.randrange(len(data))
    piece = data[start : start + draw.choice((1, 8, 64, 512))]
    data[start:start] = piece * draw.choice((1, 2, 50))


def zeros(data: bytearray, draw: random.Random) -> None:
    """What a download that was not finished leaves."""
    start = draw.randrange(len(data))
    end = draw.choice((len(data), min(len(data), start + 64)))
    data[start:end] = bytes(end - start)


_CHANGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    *(flip, flip, flip, overwrite, overwrite, edge, edge, edge, cut, remove, repeat, zeros),
)


def mutated(files: Sequence[bytes], draw: random.Random) -> bytes:
    """One of some files with one to four changes, now and then continued by another."""
    data = bytearray(draw.choice(files))
    if draw.random() < 0.03:
        other = draw.choice(files)
        data[draw.randrange(len(data) + 1) :] = other[draw.randrange(len(other) + 1) :]
    for _ in range(draw.choice((1, 1, 2, 4))):
        if data:
            draw.choice(_CHANGES)(data, draw)
    # Most damage is in headers, and all of it is seen there.
    if draw.random() < 0.3 and len(data) > 64:
        head = bytearray(data[:64])
        draw.choice((flip, overwrite, edge))(head, draw)
        data[:64] = head
    return bytes(data)
