r"""Where each sample's members lie in a WebDataset tar, without reading their contents.

Header layout: POSIX.1-2017 pax, "ustar Interchange Format", and GNU tar's long names.
Grouping of members into samples follows webdataset: the key is the path up to the first dot of
the file name, the extension is all that follows it. Names that are not UTF-8 have their odd bytes
escaped (``caf\xe9``), so that every key is a string that Arrow can hold.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, NamedTuple

import numpy as np

BLOCK = 512
_ZERO_BLOCK = bytes(BLOCK)
_REGULAR = frozenset(b"0\x007")
# Links, devices and folders have no content, even when their size field says so.
_WITHOUT_CONTENT = frozenset(b"123456")
# A pax or GNU long-name record larger than this is not a name.
_MAX_NAME_RECORD = 1 << 20
# How `tar --list`, and so wds2idx, prints what could not stand in a line of text.
_QUOTED = re.compile(rb"\\([abtnvfr\\]|[0-7]{3})")
_UNQUOTED = dict(zip(b"abtnvfr\\", b"\a\b\t\n\v\f\r\\", strict=True))
_QUOTE = {value: "\\" + chr(letter) for letter, value in _UNQUOTED.items()}
_QUOTE = {code: f"\\{code:03o}" for code in (*range(32), 127)} | _QUOTE
_IDX_ENTRY = re.compile(r"(\S+) ([0-9]{1,18}) ([0-9]{1,18}) (.+?)(?= \S+ [0-9]+ [0-9]+ |$)")

IMAGE_EXTENSIONS = frozenset(
    ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif", "avif", "jp2", "ppm")
)


class Member(NamedTuple):
    """One file of a sample: its extension as written, and where its bytes are in the tar."""

    extension: str
    offset: int
    size: int


class Fault(NamedTuple):
    """Something wrong in a shard: what kind, which key it concerns ("" for the whole tar), how."""

    kind: str
    key: str
    detail: str


@dataclass
class TarIndex:
    """The samples of one tar.

    Attributes
    ----------
    samples : dict of str to list of Member
        Key to members, both in tar order.
    faults : list of Fault
        Kinds: ``truncated``, ``corrupt``, ``duplicate``, ``interleaved``, ``unnamed``, ``sparse``,
        ``link``.
    """

    samples: dict[str, list[Member]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def image(self, key: str) -> Member | None:
        """The image member of a sample (the first, if there are several), or None."""
        return self.member(key, IMAGE_EXTENSIONS)

    def member(self, key: str, extensions: Iterable[str]) -> Member | None:
        """The first member of a sample with one of the (lower-case) extensions, or None."""
        for member in self.samples.get(key, ()):
            if member.extension.lower() in extensions:
                return member
        return None


def split_name(name: str) -> tuple[str, str] | None:
    """Key and extension of a member's name, or None when it belongs to no sample."""
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    return (folder + slash + stem, extension) if stem and dot else None


def scan(file: IO[bytes]) -> TarIndex:
    """Index a local tar file by hopping from header to header.

    Whatever is whole before a fault is kept; nothing is raised for a broken tar.
    """
    file.seek(0, 2)
    end = file.tell()
    index = TarIndex()
    if end == 0:
        index.faults.append(Fault("truncated", "", "the file is empty"))
        return index
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        _group(index, _entries(data, end, index.faults))
    return index


def parse_idx(text: str) -> TarIndex | None:
    """Index from the text of a DALI ``wds2idx`` file, or None when it cannot be relied on.

    Version 1.2 has, per sample, ``extension offset size name`` for each of its members; earlier
    versions carry no names, so that keys are not known. For names over 100 bytes wds2idx gives
    the place of GNU tar's extra header instead of that of the content.
    """
    header, _, body = text.partition("\n")
    count = re.fullmatch(r"v1\.2 ([0-9]{1,18})\s*", header)
    lines = body.split("\n")
    if count is None or lines.pop() or len(lines) != int(count[1]):
        return None
    entries = []
    for line in lines:
        members = _IDX_ENTRY.findall(line)
        if " ".join(map(" ".join, members)) != line:
            return None
        for extension, offset, size, name in members:
            if not name.endswith("." + extension):
                return None
            if "\\" in name:
                name = _unquoted(name)
            if len(name) > 25 and len(name.encode("utf-8", "surrogateescape")) > 100:
                return None
            entries.append((name, int(offset), int(size)))
    index = TarIndex()
    _group(index, entries)
    return index


def _unquoted(name: str) -> str:
    def byte(match: re.Match[bytes]) -> bytes:
        code = match[1]
        value = _UNQUOTED[code[0]] if len(code) == 1 else int(code, 8) & 0xFF
        return bytes([value])

    raw = _QUOTED.sub(byte, name.encode("utf-8", "surrogateescape"))
    return raw.decode("utf-8", "backslashreplace")


def format_idx(samples: Iterable[Iterable[tuple[str, Member]]]) -> str:
    """The text of a version 1.2 ``wds2idx`` file for ``(name, member)`` groups."""
    lines = [
        " ".join(
            f"{member.extension.translate(_QUOTE)} {member.offset} {member.size} "
            f"{name.translate(_QUOTE)}"
            for name, member in sample
        )
        for sample in samples
    ]
    return "\n".join([f"v1.2 {len(lines)}", *lines]) + "\n"


def _group(index: TarIndex, entries: Iterable[tuple[str, int, int]]) -> None:
    samples, faults = index.samples, index.faults
    last: str | None = None
    flagged: set[tuple[str, str]] = set()

    def flag(kind: str, key: str, detail: str) -> None:
        if (kind, key) not in flagged:
            flagged.add((kind, key))
            faults.append(Fault(kind, key, detail))

    for name, offset, size in entries:
        parts = split_name(name)
        if parts is None:
            flag("unnamed", name, "the name has no key and extension; the member is left out")
            continue
        key, extension = parts
        members = samples.get(key)
        if members is None:
            samples[key] = [Member(extension, offset, size)]
        elif any(member.extension == extension for member in members):
            flag("duplicate", key, f"a second .{extension} at byte {offset} is left out")
        else:
            if key != last:
                flag("interleaved", key, f"its .{extension} stands apart from its other members")
            members.append(Member(extension, offset, size))
        last = key


def _entries(data: mmap.mmap, end: int, faults: list[Fault]) -> Iterator[tuple[str, int, int]]:
    """(name, data offset, size) of every regular member before the first fault."""
    headers = _Headers()
    _walk(data, end, headers, faults)
    good = headers.count_good()
    if good < len(headers.headers):
        faults[:] = [fault for fault in faults if fault.kind in ("sparse", "link")]
        at = headers.starts[good]
        faults.append(Fault("corrupt", "", f"header checksum wrong at byte {at}"))
    rows = zip(headers.names(), headers.starts[:good], headers.sizes, strict=False)
    # A directory can be written as a regular member whose name ends in a slash.
    return ((name, start + BLOCK, size) for name, start, size in rows if name[-1:] != "/")


class _Headers:
    """The regular headers of a tar, gathered so that their fields are parsed all together."""

    def __init__(self) -> None:
        self.headers: list[bytes] = []
        self.starts: list[int] = []
        self.sizes: list[int] = []
        self.renamed: dict[int, str] = {}

    def _blocks(self) -> np.ndarray:
        return np.frombuffer(b"".join(self.headers), dtype=np.uint8).reshape(-1, BLOCK)

    def count_good(self) -> int:
        """How many headers come before the first whose checksum is wrong."""
        if not self.headers:
            return 0
        blocks = self._blocks()
        field = blocks[:, 148:156]
        sums = blocks.sum(axis=1, dtype=np.int64) - field.sum(axis=1, dtype=np.int64)
        sums += 8 * ord(" ")
        digits = field[:, :6].astype(np.int64) - ord("0")
        stored = digits @ (8 ** np.arange(5, -1, -1))
        # Writers pad this field in more than one way.
        for row in np.flatnonzero((digits < 0).any(axis=1) | (digits > 7).any(axis=1)):
            stored[row] = _octal(field[row].tobytes()) or 0
        bad = np.flatnonzero(sums != stored)
        return int(bad[0]) if len(bad) else len(self.headers)

    def names(self) -> list[str]:
        """The members' full names."""
        if not self.headers:
            return []
        blocks = self._blocks()
        raw = np.ascontiguousarray(blocks[:, :100]).view("S100").ravel().tolist()
        names = [name.split(b"\0", 1)[0].decode("utf-8", "backslashreplace") for name in raw]
        for row in np.flatnonzero(blocks[:, 345]):
            header = self.headers[row]
            # GNU's own format keeps other things where ustar keeps the prefix.
            if header[257:263] == b"ustar\0":
                prefix = header[345:500].split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
                names[row] = f"{prefix}/{names[row]}"
        for number, name in self.renamed.items():
            names[number] = name
        return names


def _walk(data: mmap.mmap, end: int, headers: _Headers, faults: list[Fault]) -> None:
    """Hop from header to header up to the end of the archive or the first fault."""
    position = 0
    pax: dict[str, str] = {}
    long_name: str | None = None
    while True:
        header = data[position : position + BLOCK]
        if len(header) < BLOCK:
            faults.append(Fault("truncated", "", f"no end-of-archive marker at byte {position}"))
            return
        kind = header[156]
        size = _octal(header[124:136])
        if size is None or (kind == 0 and header == _ZERO_BLOCK):
            if header != _ZERO_BLOCK:
                faults.append(Fault("corrupt", "", f"no tar header at byte {position}"))
            return
        start = position + BLOCK
        if kind in _REGULAR:
            if pax or long_name:
                size = int(pax.get("size", size))
                name = pax.get("path") or long_name
                if "GNU.sparse.name" in pax or "GNU.sparse.map" in pax:
                    faults.append(
                        _left_out("sparse", pax.get("GNU.sparse.name") or _text(header[:100]))
                    )
                    name = "/"
                if name:
                    headers.renamed[len(headers.headers)] = name
                pax, long_name = {}, None
            if start + size > end:
                name = headers.renamed.pop(len(headers.headers), "") or _text(header[:100])
                key = (split_name(name) or (name, ""))[0]
                detail = f"{name} ends {start + size - end} bytes after the file"
                faults.append(Fault("truncated", key, detail))
                return
            headers.headers.append(header)
            headers.starts.append(position)
            headers.sizes.append(size)
        elif sum(header) - sum(header[148:156]) + 8 * ord(" ") != _octal(header[148:156]):
            # Rare kinds are checked here; regular headers are checked together afterwards.
            faults.append(Fault("corrupt", "", f"header checksum wrong at byte {position}"))
            return
        elif kind in b"xL" and size <= _MAX_NAME_RECORD:
            record = data[start : start + size]
            if kind == ord("x"):
                pax = _pax(record)
            else:
                long_name = _text(record)
        elif kind not in b"gK":
            if kind == ord("S"):
                faults.append(_left_out("sparse", long_name or _text(header[:100])))
                start = _after_sparse_map(data, position)
            elif kind in _WITHOUT_CONTENT:
                size = 0
                if kind != ord("5"):
                    faults.append(_left_out("link", long_name or _text(header[:100])))
            pax, long_name = {}, None
        position = start + -(-size // BLOCK) * BLOCK


def is_header_of(header: bytes, key: str, member: Member) -> bool:
    """Whether a tar header is that of a member, under its full name."""
    if len(header) < BLOCK or header[156] not in _REGULAR:
        return False
    name = _text(header[:100])
    if header[257:263] == b"ustar\0" and header[345]:
        name = f"{_text(header[345:500])}/{name}"
    total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    return (name, _octal(header[124:136]), _octal(header[148:156])) == (
        f"{key}.{member.extension}",
        member.size,
        total,
    )


def _left_out(kind: str, name: str) -> Fault:
    description = {"sparse": "stored with holes", "link": "a link or device, without content"}[kind]
    key = (split_name(name) or (name, ""))[0]
    return Fault(kind, key, f"{name} is {description}; the member is left out")


def _after_sparse_map(data: mmap.mmap, position: int) -> int:
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
        if not field[0] & 0x80:
            return None
        # GNU base-256 for sizes of 8 GiB and more.
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    return value if value >= 0 else None


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
