"""The two encodings inside a TensorFlow index file: LevelDB's table and protobuf's wire format.

Sources: LevelDB, ``doc/table_format.md`` (footer, block handles, prefix-compressed entries);
Protocol Buffers, "Encoding" (varints, wire types). Every read is checked against the end of its
bytes, and a fault is a ValueError that says what was being read.
"""

from __future__ import annotations

from collections.abc import Iterator

_FOOTER_BYTES = 48
_MAGIC = bytes.fromhex("57fb808b247547db")  # 0xdb4775248b80fb57, little-endian
_BLOCK_TRAILER_BYTES = 5  # compression type (1) and checksum (4)


def table(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The (key, value) pairs of a LevelDB table, in its order.

    Parameters
    ----------
    content
        The whole file. Compressed blocks are refused: TensorFlow writes none.

    Raises
    ------
    ValueError
        When the table is damaged or compressed.
    """
    if len(content) < _FOOTER_BYTES or content[-len(_MAGIC) :] != _MAGIC:
        raise ValueError("it does not end like a LevelDB table")
    footer = content[-_FOOTER_BYTES:]
    position = _handle(footer, 0)[2]  # the first handle is the metaindex, which holds nothing
    offset, size, _ = _handle(footer, position)
    for _, handle in _block(content, offset, size):
        offset, size, _ = _handle(handle, 0)
        yield from _block(content, offset, size)


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The (field number, value) pairs of a protobuf message; fixed-width values as bytes.

    Raises
    ------
    ValueError
        When the message is damaged.
    """
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        wire = tag & 7
        if wire == 0:
            value: int | bytes
            value, position = _varint(message, position)
        else:
            if wire == 2:
                length, position = _varint(message, position)
            elif wire in (1, 5):
                length = 8 if wire == 1 else 4
            else:
                raise ValueError(f"unknown wire type {wire}")
            value, position = _take(message, position, length)
        yield tag >> 3, value


def _block(content: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    block, _ = _take(content, offset, size + _BLOCK_TRAILER_BYTES)
    if block[size] != 0:
        raise ValueError(f"a block is compressed (type {block[size]})")
    if size < 4:
        raise ValueError("a block is too short")
    restarts = int.from_bytes(block[size - 4 : size], "little")
    end = size - 4 - 4 * restarts
    if end < 0:
        raise ValueError("a block has more restart points than bytes")
    entries = block[:end]
    key, position = b"", 0
    while position < end:
        shared, position = _varint(entries, position)
        fresh, position = _varint(entries, position)
        length, position = _varint(entries, position)
        if shared > len(key):
            raise ValueError("a key shares more bytes than the one before it has")
        delta, position = _take(entries, position, fresh)
        value, position = _take(entries, position, length)
        key = key[:shared] + delta
        yield key, value


def _handle(content: bytes, position: int) -> tuple[int, int, int]:
    offset, position = _varint(content, position)
    size, position = _varint(content, position)
    return offset, size, position


def _take(content: bytes, position: int, length: int) -> tuple[bytes, int]:
    if position + length > len(content):
        raise ValueError(f"bytes {position}+{length} lie outside of {len(content)}")
    return content[position : position + length], position + length


def _varint(content: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(content):
            raise ValueError("a number runs past the end")
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number is longer than ten bytes")
