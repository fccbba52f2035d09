"""YAML of recipes: plain data, within bounds, and written as what is read again."""

from __future__ import annotations

import math

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_image_curate.errors import ConfigError
from nemo_image_curate.recipe import text

_SCALARS = (
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.text(max_size=20)
    | st.floats(allow_nan=False)
    | st.sampled_from(["no", "on", "2024-01-01", "1e-3", "010", "1:30", "~", "#", "a: b", "true"])
)  # fmt: skip
_DATA = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)


@settings(max_examples=150)
@given(st.dictionaries(st.text(max_size=9), _DATA, max_size=4))
def test_what_is_written_is_read_as_the_same(data):
    read = text.parse(text.dump(data))
    assert read == data


def test_what_is_written_other_readers_read_alike():
    data = {"a": "no", "b": "2024-01-01", "c": 1e-5, "d": "010", "e": True, "f": math.inf, "g": 10}
    assert yaml.safe_load(text.dump(data)) | {"c": 1e-5} == data


@pytest.mark.parametrize(
    ("written", "value"),
    [
        *[(word, word) for word in ("no", "on", "yes", "off", "y", "2024-01-01", "1:30")],
        *[("true", True), ("~", None), ("", None), ("1e-3", 0.001), ("010", 10), ("0x10", 16)],
        *[("'1'", "1"), (".inf", math.inf), ("width >= 256", "width >= 256")],
    ],
)
def test_scalars_are_those_of_yaml_1_2(written, value):
    (read,) = text.parse(f"key: {written}").values()
    assert read == value
    assert type(read) is type(value)


def _bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    return "\n".join(lines)


_TOO_MANY_DIGITS = ["9" * 5000, "0x" + "F" * 5000, "0o" + "7" * 5000, "-" + "9" * 400]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("a: 1\nb: 2\na: 3", "r:3: 'a' is there twice; see r:1"),
        ("a: !!python/object/apply:os.system [id]", "r:1: the tag .* is not allowed"),
        ("a: !mine x", "the tag !mine"),
        ("[" * 10_000, "deep"),
        ("a: &a [*a]", "in itself"),
        (_bomb(), "aliases stand for more than"),
        ("a: 1\n---\nb: 2", "r:2: a second document"),
        ("a: b: c", "r:1: no YAML"),
        ("a: [1\nb: 2", "r:2: no YAML"),
        ("a: \x00", "no YAML"),
        ("? [1, 2]\n: 3", "a key is no text"),
        *[(f"a: {digits}", "r:1: .* has too many digits") for digits in _TOO_MANY_DIGITS],
        ("a" * (text.MAX_BYTES + 1), "longer than"),
    ],
)
def test_what_is_no_plain_data_is_refused_at_once_with_its_line(written, why):
    with pytest.raises(ConfigError, match=why):
        text.parse(written, "r")


def test_whole_numbers_have_up_to_1024_bits():
    largest = 2**1024 - 1
    assert text.parse(f"a: {largest}\nb: {largest:#x}") == {"a": largest, "b": largest}


def test_aliases_are_copies_of_what_they_stand_for():
    assert text.parse("a: &x {b: 1}\nc: *x") == {"a": {"b": 1}, "c": {"b": 1}}


@pytest.mark.parametrize(
    ("given", "value"),
    [
        *[("3", 3), ("0.5", 0.5), ("no", "no"), ("", None), ("null", None), ("true", True)],
        *[("a: b", "a: b"), ("- a", "- a"), ("[a, b]", ["a", "b"]), ("{a: 1}", {"a": 1})],
        ("caption.str.contains(': ')", "caption.str.contains(': ')"),
        ("'dog' in caption", "'dog' in caption"),
    ],
)
def test_a_value_of_a_command_line_is_yaml_or_a_text(given, value):
    assert text.parse_value(given) == value
