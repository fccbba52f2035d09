"""Texts are decoded where their encoding is certain, and not otherwise."""

from __future__ import annotations

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_image_curate.shards.texts import decode_text, guess_encodings

MARKED = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}


@pytest.mark.parametrize("encoding", MARKED)
@given(text=st.text(st.characters(exclude_categories=["Cs", "Cc"])))
def test_a_byte_order_mark_says_the_encoding(encoding, text):
    assert decode_text(MARKED[encoding] + text.encode(encoding)) == text


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]).filter(lambda one: one != "\ufeff")))
def test_plain_utf8(text):
    assert decode_text(text.encode()) == text


@given(st.binary())
def test_any_bytes_give_a_text_or_none(content):
    text = decode_text(content)
    assert text is None or isinstance(text, str)
    assert isinstance(guess_encodings(content), list)


@pytest.mark.parametrize(
    ("content", "guess"),
    [
        ("café".encode("latin-1"), "cp1252"),
        ("日本語の文".encode("shift_jis"), "shift_jis"),
        ("中文字幕".encode("gb18030"), "gb18030"),
        ("한국어".encode("euc_kr"), "euc_kr"),
        ("a dog".encode("utf-16-le"), "utf-16-le"),
        ("a dog".encode("utf-16-be"), "utf-16-be"),
        ("größer".encode()[:3] + b"\xf6", "cp1252"),
    ],
)
def test_what_is_not_certain_is_guessed(content, guess):
    assert decode_text(content) is None
    assert guess in guess_encodings(content)
