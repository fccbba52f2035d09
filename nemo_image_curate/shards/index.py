r"""Where each sample's members lie in a WebDataset tar, and which of them is its image.

Grouping of members into samples follows webdataset: the key is the path up to the first dot of
the file name, the extension is all that follows it. Names that are not UTF-8 have their odd bytes
escaped (``caf\xe9``), so that every key is a string that Arrow can hold.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import IO, NamedTuple

from nemo_image_curate.shards.content import Content, HeaderView, LocalContent
from nemo_image_curate.shards.faults import Fault as Fault
from nemo_image_curate.shards.headers import Entry, read_entries
from nemo_image_curate.shards.names import normal_name, split_name
from nemo_image_curate.shards.signatures import SIGNATURE_BYTES, image_ending
from nemo_image_curate.storage import is_hidden

# How `tar --list`, and so wds2idx, prints what could not stand in a line of text.
_QUOTED = re.compile(rb"\\([abtnvfr\\]|[0-7]{3})")
_UNQUOTED = dict(zip(b"abtnvfr\\", b"\a\b\t\n\v\f\r\\", strict=True))
_QUOTE = {value: "\\" + chr(letter) for letter, value in _UNQUOTED.items()}
_QUOTE = {code: f"\\{code:03o}" for code in (*range(32), 127)} | _QUOTE
_IDX_ENTRY = re.compile(r"(\S+) ([0-9]{1,18}) ([0-9]{1,18}) (.+?)(?= \S+ [0-9]+ [0-9]+ |$)")

IMAGE_EXTENSIONS = frozenset(
    (
        *("jpg", "jpeg", "jpe", "jfif", "jif", "png", "apng", "webp", "bmp", "dib", "tif", "tiff"),
        *("gif", "avif", "heic", "heif", "jxl", "jp2", "j2k", "ppm", "pgm", "pbm", "pnm", "qoi"),
    )
)
# Never looked into for images.
_OTHER_EXTENSIONS = frozenset(
    (
        *("txt", "json", "cls", "caption", "csv", "tsv", "xml", "html", "yaml", "npy", "npz"),
        *("pt", "pth", "pyd", "pkl", "pickle", "safetensors", "parquet", "mp4", "mp3", "wav"),
    )
)
# What ``image_error`` says of a row whose key is not in the tar.
MISSING = "missing"


class Member(NamedTuple):
    """One file of a sample: its extension as written, and where its bytes are in the tar."""

    extension: str
    offset: int
    size: int


@dataclass
class TarIndex:
    """The samples of one tar.

    Attributes
    ----------
    samples : dict of str to list of Member
        Key to members, both in tar order.
    faults : list of Fault
        Kinds: see `FAULT_KINDS` of ``shards/faults.py``.
    unlabelled : dict of str to list of Member
        Of samples without a member that is called an image: those whose bytes are one.
    """

    samples: dict[str, list[Member]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    unlabelled: dict[str, list[Member]] = field(default_factory=dict)

    def sample(self, key: str) -> Sequence[Member]:
        """The members of a sample, none when it is not there; a key may begin with ``./``."""
        return self.samples.get(key) or self.samples.get(normal_name(key)) or ()

    def image(self, key: str, image_member: str | None = None) -> Member | None:
        """The image member of a sample (the first, if there are several), or None.

        Parameters
        ----------
        key : str
        image_member : str, optional
            Which member it is: its extension, such as ``jpg`` or ``input.jpg``, or a pattern of
            it, such as ``*.png`` or ``input.*``, in any case. Default: the one that is called an
            image; if only the last part of its extension says so, that; else one whose bytes are
            an image.
        """
        images = self._images(key, image_member)
        return images[0] if images else None

    def _images(self, key: str, image_member: str | None) -> Sequence[Member]:
        sample = self.sample(key)
        if image_member is not None:
            return [member for member in sample if _matches(member.extension, image_member)]
        rank = max((_image_rank(member.extension) for member in sample), default=0)
        if rank == 0:
            return self.unlabelled.get(key) or self.unlabelled.get(normal_name(key)) or ()
        return [member for member in sample if _image_rank(member.extension) == rank]

    def member(self, key: str, extensions: Iterable[str]) -> Member | None:
        """The first member of a sample with one of the (lower-case) extensions, or None."""
        for member in self.sample(key):
            if member.extension.lower() in extensions:
                return member
        return None

    def why_no_image(self, key: str, image_member: str | None = None) -> str:
        """What ``image_error`` says of a sample without an image."""
        sample = self.sample(key)
        if not sample:
            return MISSING
        names = ", ".join(member.extension or "without extension" for member in sample)
        if image_member is not None:
            return f"{MISSING}: none of its members ({names}) is image_member={image_member!r}"
        return f"{MISSING}: none of its members ({names}) is an image; image_member= chooses one"

    def image_faults(self, image_member: str | None = None) -> Iterator[Fault]:
        """``several images``: samples of which one image is taken although there are others."""
        for key in self.samples:
            images = self._images(key, image_member)
            if len(images) > 1:
                names = ", ".join(image.extension for image in images)
                first = images[0].extension
                detail = f"its images are {names}; {first} is taken; image_member= chooses one"
                yield Fault("several images", key, detail)


@functools.lru_cache(maxsize=4096)
def _image_rank(extension: str) -> int:
    """2: called an image; 1: the last part of the extension says so; 0: neither."""
    lowered = extension.lower()
    if lowered in IMAGE_EXTENSIONS:
        return 2
    return int(lowered.rpartition(".")[2] in IMAGE_EXTENSIONS)


@functools.lru_cache(maxsize=4096)
def _matches(extension: str, pattern: str) -> bool:
    lowered, pattern = extension.lower(), pattern.lower()
    return fnmatchcase(lowered, pattern) or fnmatchcase(f".{lowered}", pattern)


def scan(content: Content | IO[bytes]) -> TarIndex:
    """Index a tar, not packed, by hopping from header to header.

    Whatever is whole before a fault is kept; nothing is raised for a broken tar.
    """
    if not isinstance(content, Content):
        content = LocalContent(content)
    index = TarIndex()
    if not content.size:
        index.faults.append(Fault("truncated", "", "the file is empty"))
        return index

    def head(offset: int, size: int) -> bytes:
        return content.peek(offset, min(size, SIGNATURE_BYTES))

    def is_image(offset: int, size: int) -> bool:
        return image_ending(head(offset, size)) is not None

    _group(index, read_entries(HeaderView(content), index.faults), is_image)
    note_unlabelled(index, lambda members: [head(member.offset, member.size) for member in members])
    return index


def note_unlabelled(index: TarIndex, heads: Callable[[Sequence[Member]], Iterable[bytes]]) -> None:
    """Look for images among members that are not called so, where no member of a sample is.

    Parameters
    ----------
    index : TarIndex
        Its ``unlabelled`` is filled.
    heads : callable
        Takes members and gives the first bytes of each.
    """
    unsure = [
        (key, member)
        for key, sample in index.samples.items()
        if not any(_image_rank(member.extension) for member in sample)
        for member in sample
        if member.extension.lower().rpartition(".")[2] not in _OTHER_EXTENSIONS
    ]
    members = [member for _, member in unsure]
    for (key, member), head in zip(unsure, heads(members), strict=True):
        if image_ending(head) is not None:
            index.unlabelled.setdefault(key, []).append(member)


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
            entries.append((normal_name(name), int(offset), int(size)))
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


def _group(
    index: TarIndex, entries: Sequence[Entry], is_image: Callable[[int, int], bool] | None = None
) -> None:
    samples, faults = index.samples, index.faults
    last: str | None = None
    flagged: set[tuple[str, str]] = set()
    # Seldom any is, and to ask once costs less than to ask of each.
    some_hidden = is_hidden("\0".join([name for name, _, _ in entries]))
    hidden: list[str] = []

    def flag(kind: str, key: str, detail: str) -> None:
        if (kind, key) not in flagged:
            flagged.add((kind, key))
            faults.append(Fault(kind, key, detail))

    for name, offset, size in entries:
        if some_hidden and is_hidden(name):
            hidden.append(name)
            continue
        parts = split_name(name)
        if parts is None:
            base = name.rpartition("/")[2]
            if "." in base or is_image is None or not is_image(offset, size):
                detail = "the name has no key and extension; the member is left out"
                flag("unnamed", name, detail)
                continue
            parts = name, ""
        key, extension = parts
        member = Member(extension, offset, size)
        members = samples.get(key)
        if members is None:
            samples[key] = [member]
            last = key
            continue
        for place, other in enumerate(members):
            if other[0] == extension:
                detail = f"{name} at byte {offset} takes the place of that at byte {other.offset}"
                flag("duplicate", key, f"{detail}: the last one counts, as tar extracts it")
                members[place] = member
                break
        else:
            if key != last:
                flag("interleaved", key, f"its .{extension} stands apart from its other members")
            members.append(member)
        last = key
    if hidden:
        detail = f"{len(hidden)} files of operating systems are left out, such as {hidden[0]}"
        faults.append(Fault("hidden", "", detail))
