"""Inputs made by their grammar, where random damage alone would not get far."""

from __future__ import annotations

import io
import json
import tarfile
from typing import Any

from hypothesis import strategies as st

from tests.hostile import seeds

_TEXTS = st.sampled_from(["", "a", "../x", "/etc/passwd", "d.tar", "\ud800", "\0", "x" * 300])
_NUMBERS = st.sampled_from([0, -1, 1, 2**63, 10**30, 0.5, float("nan"), float("inf")])
_PLAIN = st.one_of(st.none(), st.booleans(), _NUMBERS, _TEXTS)
VALUES = st.recursive(
    _PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=5,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to all values inside a value of JSON."""
    inner = value.items() if isinstance(value, dict) else []
    inner = enumerate(value) if isinstance(value, list) else inner
    return [path, *(place for key, one in inner for place in _places(one, (*path, key)))]


@st.composite
def changed_json(draw: st.DrawFn, content: bytes) -> bytes:
    """A JSON text of which up to three values are others, or are gone, or have company."""
    whole: Any = {"": json.loads(content)}
    for _ in range(draw(st.integers(1, 3))):
        places = _places(whole)[1:]
        if not places:
            break
        *path, last = draw(st.sampled_from(places))
        owner = whole
        for key in path:
            owner = owner[key]
        kind = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if kind == "remove" and path:
            del owner[last]
        elif kind == "add" and isinstance(owner[last], dict):
            owner[last][draw(_TEXTS)] = draw(VALUES)
        else:
            owner[last] = draw(VALUES)
    return json.dumps(whole.get("")).encode()


_NAMES = st.sampled_from(
    ["a.jpg", "a.txt", "./a.jpg", "../../a.jpg", "/a.jpg", "a", ".jpg", "a/", "x//b.jpg", "n" * 101,
     "a.JPG", "._a.jpg", "a.b.c.jpg", "caf\udce9.jpg", "l.jpg", "m.jpg", "a\nb.jpg"]
)  # fmt: skip
_KINDS = st.sampled_from(
    [
        tarfile.REGTYPE,
        tarfile.AREGTYPE,
        tarfile.LNKTYPE,
        tarfile.SYMTYPE,
        tarfile.CHRTYPE,
        tarfile.DIRTYPE,
        tarfile.FIFOTYPE,
        tarfile.CONTTYPE,
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
        tarfile.GNUTYPE_SPARSE,
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        b"V",
        b"M",
        b"D",
        b"N",
        b"Z",
        b"\xff",
        b"X",
    ]
)
_PAX = st.sampled_from(
    [
        b"",
        b"20 path=../../b.jpg\n",
        b"11 path=a\n",
        b"19 size=9999999999\n",
        b"10 size=1\n",
        b"11 size=-1\n",
        b"0 x=1\n",
        b"99999999999999999999 path=a\n",
        b"7 path=",
        b"x" * 600,
        b"18 linkpath=a.jpg\n",
        b"29 GNU.sparse.major=1\n",
        b"25 GNU.sparse.name=a.jpg\n",
        b"10 size=a\n",
        b"6 =a=\n",
        b"12 path=\xff\xfe\n",
    ]
)
# Octal, base-256 of either sign, and what neither is.
_SIZES = st.sampled_from(
    [
        b"00000000000\x00",
        b"77777777777\x00",
        b"-0000000001\x00",
        b"\x80" + b"\x00" * 10 + b"\x01",
        b"\x80" + b"\xff" * 11,
        b"\xff" * 12,
        b"\xff" * 11 + b"\x00",
        b"\xa0" + b"\x00" * 11,
        b" 12 \x00\x00\x00\x00\x00\x00\x00\x00",
        b"1_0        \x00",
        b"0x10\x00\x00\x00\x00\x00\x00\x00\x00",
        b"\x00" * 12,
        b"8" * 12,
    ]
)


@st.composite
def tars(draw: st.DrawFn) -> bytes:
    """Headers of all kinds with fields of all kinds, in any order, and an end or none."""
    buffer = io.BytesIO()
    for _ in range(draw(st.integers(0, 6))):
        info = tarfile.TarInfo(draw(_NAMES))
        info.type, info.linkname = draw(_KINDS), draw(_NAMES)[:100]
        content = draw(st.one_of(_PAX, st.just(b"\xff\xd8\xff"), st.just(b"n" * 700)))
        info.size = len(content)
        encoding, errors = "utf-8", "surrogateescape"
        form = draw(st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT]))
        info.name = info.name[:100]
        header = bytearray(info.tobuf(form, encoding, errors)[-512:])
        if draw(st.booleans()):
            header[124:136] = draw(_SIZES)
        if draw(st.integers(0, 9)):
            header[148:156] = b" " * 8
            header[148:156] = b"%06o\0 " % sum(header)
        buffer.write(header)
        buffer.write(content.ljust(-(-len(content) // 512) * 512, b"\0"))
    buffer.write(draw(st.sampled_from([b"", bytes(512), bytes(1024), bytes(10240), b"\1" * 512])))
    return buffer.getvalue()


_LEAVES = st.sampled_from(
    [
        "n",
        "u",
        "f",
        "s",
        "b",
        "t",
        "v",
        "`odd name`",
        "missing",
        "1",
        "-1",
        "0",
        "2.5",
        "True",
        "'x'",
        "'2020-01-01'",
        "''",
        "10**9",
        "99999999999999999999999",
        "1e999",
        "None",
        "b'x'",
        "['x', 1]",
        "[]",
        "(1, 2)",
        "lambda: 1",
        "__import__('os')",
        "'\\ud800'",
        "[x for x in s]",
    ]
)
_FORMS = (
    [f"({{}}) {op} ({{}})" for op in "+ - * / // % ** & | ^ == != < <= > >= in and or is @".split()]
    + ["not ({})", "~({})", "-({})", "({}).isna()", "({}).between({}, {})", "({}).isin({})"]
    + ["({}).str.contains({})", "({}).str.len()", "({}).str.match({})", "({}).round({})"]
    + ["({}).str.startswith({}, na={})", "({}).list.len()", "({}).abs()", "({}).str.strip({})"]
    + ["({}).str.lower(x={})", "({}).__class__", "({})[{}]", "({}).isna(*{})", "({}).isna(**{})"]
    + ["({}).between({}, {}, inclusive={})", "({}) < ({}) < ({})", "({}) not in [{}, {}]"]
)  # fmt: skip


def _filled(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.sampled_from(_FORMS).flatmap(
        lambda form: st.tuples(*[inner] * form.count("{}")).map(lambda parts: form.format(*parts))
    )


EXPRESSIONS = st.recursive(_LEAVES, _filled, max_leaves=6).map(
    lambda text: text.encode("utf-8", "surrogateescape")
)
RECORDS = changed_json(seeds.records()[0])
MANIFESTS = changed_json(seeds.manifests()[0])
