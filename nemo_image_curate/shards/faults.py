"""What can be wrong in a shard, in one vocabulary."""

from __future__ import annotations

from typing import NamedTuple

# By kind: what it says. Whatever is not left out is read as if nothing had happened.
FAULT_KINDS = {
    "truncated": "the tar, or the stream that it is packed in, ends too early",
    "corrupt": "no tar, or a damaged header; what follows it is not read",
    "after end": "something follows the end-of-archive marker: tars are read, other bytes not",
    "duplicate": "a name that is there more than once: the last one counts, as tar extracts it",
    "interleaved": "a sample's members do not stand together",
    "unnamed": "a member whose name gives no key and whose bytes are no image; left out",
    "hidden": "files of operating systems, such as ._a.jpg and .DS_Store; left out",
    "sparse": "a member stored with holes; left out",
    "link": "a link to what is not in the tar, or to too much, or a device; left out",
    "several images": "a sample with more than one image; the first is taken",
    "json": "a .json member that is no object; its fields are null",
    "encoding": "a text that is not UTF-8; bytes that are none of it become U+FFFD",
    "mixed": "a .json field with values of several kinds",
    "conflict": "a .txt or .cls that differs from that field of the .json; it counts more",
    "renamed": "a .json field called as a column of ours",
}


class Fault(NamedTuple):
    """Something wrong in a shard: what kind, which key it concerns ("" for the whole tar), how."""

    kind: str
    key: str
    detail: str
