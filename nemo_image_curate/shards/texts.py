"""Texts whose encoding is certain: UTF-8, or what a byte order mark says."""

from __future__ import annotations

import codecs

# UTF-32's mark begins with that of UTF-16, so it is looked for first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What captions of the web are most often in that are in something else.
_GUESSES = ("utf-16-le", "utf-16-be", "shift_jis", "gb18030", "euc_kr", "cp1251", "cp1252")


def decode_text(content: bytes) -> str | None:
    """The text that bytes are, or None when they may be one or another.

    A byte order mark is not part of the text. UTF-16 without one looks like UTF-8 in which every
    second character is a NUL, and is not certain.
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            try:
                return content.decode(encoding)
            except UnicodeDecodeError:
                continue
    if len(content) >= 4 and _is_half_empty(content):
        return None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _is_half_empty(content: bytes) -> bool:
    return not any(content[::2]) or not any(content[1::2])


def guess_encodings(content: bytes) -> list[str]:
    """Encodings that could give such bytes, in the standard library's names."""
    wide = len(content) % 2 == 0 and _is_half_empty(content)
    guesses = []
    for encoding in _GUESSES:
        if encoding.startswith("utf-16") != wide:
            continue
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            guesses.append(encoding)
    return guesses
