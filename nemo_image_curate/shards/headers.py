"""The members of a tar by its headers, in every dialect that tarfile and GNU tar read.

Sources: POSIX.1-2017 pax, "ustar Interchange Format"; GNU tar's manual, "Basic Tar Format" (long
names, base-256 numbers, sparse members); the checksum fields and signed sums that old writers made
are those that GNU tar accepts.
"""

from __future__ import annotations

import posixpath
import re
from typing import NamedTuple

import numpy as np

from nemo_image_curate.shards.content import HeaderView
from nemo_image_curate.shards.faults import Fault
from nemo_image_curate.shards.names import normal_name, split_name
from nemo_image_curate.shards.signatures import (
    BEGIN_BYTES,
    SIGNATURE_BYTES,
    image_ending,
    looks_like,
)

BLOCK = 512
# Headers whose fields are parsed at once: 4 MB.
_PARSED_TOGETHER = 2**13
_ZERO_BLOCK = bytes(BLOCK)
_ZEROS = bytes(2**20)
# The name of members that are told already.
_LEFT_OUT = "/"
# Writers fill a tar up to whole records of 20 blocks; the marker may begin in the one before.
_MOST_PADDING = 21 * BLOCK
# What is no kind of its own is a regular file, as POSIX has it.
_OTHER_KINDS = frozenset(b"123456gxXLKSVMDN")
# Links, devices and folders have no content, even when their size field says so.
_WITHOUT_CONTENT = frozenset(b"123456V")
# A pax or GNU long-name record larger than this is not a name.
_MAX_NAME_RECORD = 1 << 20
_OCTAL = re.compile(rb"[ \0]*([0-7]*)(?:[ \0].*)?", re.DOTALL)
# Links of links that are followed, as Linux does.
_MAX_HOPS = 40
# Bytes that links may add to a tar, or how often its own where it is larger: one that becomes very
# much is made to fill memory and disks, as with packed tars.
_MOST_LINKED, _MAX_LINKED_RATIO = 2**28, 200


# A member with content: its full name, and where its bytes are (offset, size).
Entry = tuple[str, int, int]


class _Link(NamedTuple):
    start: int
    name: str
    target: str
    symbolic: bool


def read_entries(data: HeaderView | bytes, faults: list[Fault]) -> list[Entry]:
    """All members with content before the first fault, in the order of the tar.

    Parameters
    ----------
    data : HeaderView or bytes
        The tar.
    faults : list of Fault
        What is wrong is added.
    """
    headers = _Headers()
    _walk(data, headers, faults)
    headers.parse()
    good = len(headers.names)
    if good < len(headers.starts):
        faults[:] = [fault for fault in faults if fault.kind in ("sparse", "link")]
        faults.append(_corrupt(data, headers.starts[good], "header checksum wrong"))
    restarts = [(start, before) for start, before in headers.restarts if before < good]
    if restarts:
        start, before = restarts[0]
        detail = (
            f"{good - before} members stand after the end marker, from byte {start}; they are read"
        )
        faults.append(Fault("after end", "", detail))
    rows = zip(headers.names, headers.starts, headers.sizes, strict=False)
    entries = []
    for name, start, size in rows:
        if name[-1:] != "/":
            entries.append((name, start + BLOCK, size))
        # A directory can be written as a regular member; one with content is none.
        elif size and name != _LEFT_OUT:
            faults.append(_left_out("unnamed", name, f"called as a folder, with {size} bytes"))
    if not headers.links:
        return entries
    end = (*headers.starts, len(data))[good]
    links = [link for link in headers.links if link.start < end]
    return _with_links(entries, links, max(_MOST_LINKED, _MAX_LINKED_RATIO * len(data)), faults)


class _Headers:
    """The regular headers of a tar, gathered so that many are parsed together."""

    def __init__(self) -> None:
        self._unparsed: list[bytes] = []
        # Of those that come before the first whose checksum is wrong.
        self.names: list[str] = []
        self.starts: list[int] = []
        self.sizes: list[int] = []
        self.renamed: dict[int, str] = {}
        self.links: list[_Link] = []
        # Where a tar begins after the end of another, and how many headers stand before it.
        self.restarts: list[tuple[int, int]] = []

    def add(self, header: bytes, start: int, size: int) -> None:
        """Take the header of a member at some byte, with the size of its content."""
        self._unparsed.append(header)
        self.starts.append(start)
        self.sizes.append(size)
        if len(self._unparsed) == _PARSED_TOGETHER:
            self.parse()

    def parse(self) -> None:
        """Take the names out of the headers, up to the first whose checksum is wrong."""
        headers, self._unparsed = self._unparsed, []
        # A wrong one ends the tar.
        if headers and len(self.names) + len(headers) == len(self.starts):
            blocks = np.frombuffer(b"".join(headers), dtype=np.uint8).reshape(-1, BLOCK)
            good = self._count_good(headers, blocks)
            self.names += self._names(headers[:good], blocks[:good])

    def _count_good(self, headers: list[bytes], blocks: np.ndarray) -> int:
        """How many headers come before the first whose checksum is wrong."""
        field = blocks[:, 148:156]
        sums = blocks.sum(axis=1, dtype=np.int64) - field.sum(axis=1, dtype=np.int64)
        sums += 8 * ord(" ")
        digits = field[:, :6].astype(np.int64) - ord("0")
        stored = digits @ (8 ** np.arange(5, -1, -1))
        odd = (sums != stored) | (digits < 0).any(axis=1) | (digits > 7).any(axis=1)
        # Writers pad this field in more than one way, and some add bytes up as signed.
        for row in np.flatnonzero(odd):
            value = _octal(field[row].tobytes())
            if value != sums[row] and value != _signed(int(sums[row]), headers[row]):
                return int(row)
        return len(headers)

    def _names(self, headers: list[bytes], blocks: np.ndarray) -> list[str]:
        """The members' full names."""
        raw = np.ascontiguousarray(blocks[:, :100]).view("S100").ravel().tolist()
        names = [name.split(b"\0", 1)[0].decode("utf-8", "backslashreplace") for name in raw]
        for row in np.flatnonzero(blocks[:, 345]):
            names[row] = _name_of(headers[row])
        if self.renamed:
            first = len(self.names)
            numbered = enumerate(names, first)
            names = [self.renamed.get(number, name) for number, name in numbered]
        together = "\0".join(names)
        if "./" in together or "//" in together:
            names = [normal_name(name) for name in names]
        return names


def _walk(data: HeaderView | bytes, headers: _Headers, faults: list[Fault]) -> None:
    """Hop from header to header up to the end of the file or the first fault."""
    end = len(data)
    position = 0
    pax: dict[str, str] = {}
    long_name = long_link = ""
    while True:
        header = data[position : position + BLOCK]
        if len(header) < BLOCK:
            # What ends within its first header may be the beginning of anything.
            if position == 0 and not _described(data, 0).startswith(("text", "nothing")):
                faults.append(_corrupt(data, 0, "no tar header"))
            else:
                detail = f"no end-of-archive marker at byte {position}"
                faults.append(Fault("truncated", "", detail))
            return
        kind = header[156]
        size = _octal(header[124:136])
        if size is None or (kind == 0 and header == _ZERO_BLOCK):
            if header != _ZERO_BLOCK:
                faults.append(_corrupt(data, position, "no tar header"))
                return
            restart = _after_end(data, position, faults)
            if restart is None:
                return
            headers.restarts.append((restart, len(headers.starts)))
            position, pax, long_name, long_link = restart, {}, "", ""
            continue
        start = position + BLOCK
        if kind not in _OTHER_KINDS:
            if pax or long_name:
                size = int(pax.get("size", size))
                name = pax.get("path") or long_name
                if "GNU.sparse.name" in pax or "GNU.sparse.map" in pax:
                    sparse = pax.get("GNU.sparse.name") or _text(header[:100])
                    faults.append(_left_out("sparse", sparse, "stored with holes"))
                    name = _LEFT_OUT
                if name:
                    headers.renamed[len(headers.starts)] = name
                pax, long_name = {}, ""
            long_link = ""
            if start + size > end:
                name = headers.renamed.pop(len(headers.starts), "") or _name_of(header)
                detail = f"{name} ends {start + size - end} bytes after the file"
                if not _fits_checksum(header):
                    faults.append(_corrupt(data, position, "header checksum wrong"))
                else:
                    faults.append(Fault("truncated", _key_of(name), detail))
                return
            headers.add(header, position, size)
        elif not _fits_checksum(header):
            # Rare kinds are checked here; regular headers are checked together afterwards.
            faults.append(_corrupt(data, position, "header checksum wrong"))
            return
        elif kind in b"xXLK" and size <= _MAX_NAME_RECORD:
            record = data[start : start + size]
            if kind == ord("L"):
                long_name = _text(record)
            elif kind == ord("K"):
                long_link = _text(record)
            else:
                pax = _pax(record)
        elif kind not in b"gKLxX":
            name = pax.get("path") or long_name or _name_of(header)
            if kind == ord("S"):
                faults.append(_left_out("sparse", name, "stored with holes"))
                start = _after_sparse_map(data, position)
            elif kind == ord("M"):
                faults.append(_left_out("truncated", name, "the end of one in another volume"))
            elif kind in _WITHOUT_CONTENT:
                size = 0
                if kind in b"12":
                    target = pax.get("linkpath") or long_link or _text(header[157:257])
                    headers.links.append(_Link(position, name, target, kind == ord("2")))
                elif kind in b"346":
                    faults.append(_left_out("link", name, "a device, without content"))
            pax, long_name, long_link = {}, "", ""
        position = start + -(-size // BLOCK) * BLOCK


def _after_end(data: HeaderView | bytes, position: int, faults: list[Fault]) -> int | None:
    """Where another tar begins after an end marker; None when there is none, which is told."""
    end = len(data)
    marker = position
    # Little at first: there may be a tar behind each block of zeros.
    length = 2 * BLOCK
    while position < end:
        chunk = data[position : position + length]
        if chunk != _ZEROS[: len(chunk)]:
            break
        position += len(chunk)
        length = min(2 * length, len(_ZEROS))
    else:
        if end - marker > _MOST_PADDING:
            detail = (
                f"{end - marker} zero bytes from byte {marker} to the end, more than writers add: "
                "so looks a file that was not downloaded completely"
            )
            faults.append(Fault("after end", "", detail))
        return None
    first = position + len(chunk) - len(chunk.lstrip(b"\0"))
    block = first // BLOCK * BLOCK
    if _fits_checksum(data[block : block + BLOCK]):
        return block
    detail = f"{end - first} bytes after the end marker are not read, from byte {first}"
    faults.append(Fault("after end", "", f"{detail}: {_described(data, first)}"))
    return None


def _with_links(
    entries: list[Entry], links: list[_Link], most: int, faults: list[Fault]
) -> list[Entry]:
    """The members with those links that lead to one of them, to so many bytes in all."""
    in_order = sorted(
        [(entry[1] - BLOCK, entry, None) for entry in entries]
        + [(link.start, None, link) for link in links],
        key=lambda item: item[0],
    )
    places: dict[str, tuple[int, int]] = {}
    symbolic: dict[str, str] = {}
    for _, entry, link in in_order:
        if entry is not None:
            places[entry[0]] = entry[1:]
        elif link is not None and link.symbolic:
            folder = posixpath.dirname(normal_name(link.name))
            symbolic[normal_name(link.name)] = posixpath.normpath(
                posixpath.join(folder, link.target)
            )
        elif link is not None and normal_name(link.target) in places:
            # A hard link is to a member that stands before it.
            places[normal_name(link.name)] = places[normal_name(link.target)]
    resolved: list[Entry] = []
    linked = 0
    for _, entry, link in in_order:
        if entry is not None:
            resolved.append(entry)
            continue
        assert link is not None
        name = normal_name(link.name)
        target = symbolic.get(name, name)
        for _ in range(_MAX_HOPS):
            if target in places or target not in symbolic:
                break
            target = symbolic[target]
        if target in places:
            offset, size = places[target]
            linked += size
            if linked <= most:
                resolved.append((name, offset, size))
            else:
                words = f"one of the links to more than {most >> 20} MiB, far more than the tar has"
                faults.append(_left_out("link", name, words))
        else:
            words = f"a link to {link.target}, which is not in the tar"
            faults.append(_left_out("link", name, words))
    return resolved


def is_header_of(header: bytes, name: str, size: int) -> bool:
    """Whether a tar header is that of a regular member with this full name and size."""
    if len(header) < BLOCK or header[156] in _OTHER_KINDS:
        return False
    name_and_size = normal_name(_name_of(header)), _octal(header[124:136])
    return name_and_size == (name, size) and _fits_checksum(header)


def _corrupt(data: HeaderView | bytes, position: int, problem: str) -> Fault:
    detail = f"{problem} at byte {position}"
    if position == 0:
        detail = f"not a tar: it looks like {_described(data, 0)}; {detail}"
    return Fault("corrupt", "", detail)


def _described(data: HeaderView | bytes, start: int) -> str:
    """What bytes seem to be that are no tar."""
    ending = image_ending(data[start : start + SIGNATURE_BYTES])
    if ending is not None:
        return f"an image ({ending})"
    return looks_like(data[start : start + BEGIN_BYTES]) or "nothing that is known"


def _left_out(kind: str, name: str, description: str) -> Fault:
    return Fault(kind, _key_of(name), f"{name} is {description}; the member is left out")


def _key_of(name: str) -> str:
    return (split_name(name) or (name, ""))[0]


def _fits_checksum(header: bytes) -> bool:
    if len(header) < BLOCK:
        return False
    total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    return _octal(header[148:156]) in (total, _signed(total, header))


def _signed(total: int, header: bytes) -> int:
    """The sum of a header's bytes where those from 128 on count as negative."""
    high = sum(byte > 127 for byte in header) - sum(byte > 127 for byte in header[148:156])
    return total - 256 * high


def _after_sparse_map(data: HeaderView | bytes, position: int) -> int:
    """Where the content of an old GNU sparse member starts: after blocks that list its pieces."""
    start = position + BLOCK
    marker = data[position + 482 : position + 483]
    while marker not in (b"", b"\0"):
        marker = data[start + 504 : start + 505]
        start += BLOCK
    return start


def _octal(field: bytes) -> int | None:
    """The value of a numeric header field, or None when it holds something else."""
    try:
        value = int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        if field[0] == 0x80:
            # GNU base-256 for sizes of 8 GiB and more.
            return int.from_bytes(field[1:], "big")
        match = _OCTAL.fullmatch(field)
        return int(match[1] or b"0", 8) if match else None
    return value if value >= 0 else None


def _name_of(header: bytes) -> str:
    """A header's own name: with the prefix of ustar, where GNU's format keeps other things."""
    name = _text(header[:100])
    if header[257:263] == b"ustar\0" and header[345]:
        return f"{_text(header[345:500])}/{name}"
    return name


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def _pax(record: bytes) -> dict[str, str]:
    """The ``length key=value`` lines of a pax extended header."""
    values = {}
    position = 0
    while position < len(record):
        length, separator, _ = record[position : position + 20].partition(b" ")
        if not separator or not length.isdigit() or int(length) <= len(length) + 1:
            break
        line = record[position + len(length) + 1 : position + int(length) - 1]
        name, _, value = line.partition(b"=")
        values[name.decode("utf-8", "replace")] = value.decode("utf-8", "backslashreplace")
        position += int(length)
    if not re.fullmatch(r"[0-9]{1,19}", values.get("size", "0")):
        del values["size"]
    return values
