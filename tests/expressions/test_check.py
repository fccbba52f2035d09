"""What expressions may hold: they choose rows and do nothing else."""

from __future__ import annotations

import pytest

from nemo_image_curate.errors import ColumnNotFoundError, ConfigError
from nemo_image_curate.expressions.check import check


@pytest.mark.parametrize(
    "expression",
    [
        "@os.system('touch {path}')",
        "@sys.modules['os'].system('touch {path}')",
        "key.to_csv('{path}')",
        "key.to_pickle('{path}')",
        "key.map(@os.system)",
        "key.str.__class__.__mro__[-1].__subclasses__()",
        "caption.apply(len) > 3",
        "width.mean() < width",
        "index < 5",
        "__import__('os').system('touch {path}')",
        "width ** 99999999 > 1",
        "[x for x in key]",
        "(lambda: 1)()",
        "width",
        "width + 1",
        "flag",
        "caption",
        "caption > 5",
        "width > 'a'",
        "width > [1]",
        "width == 'a'",
        "width in ['32']",
        "caption != 1",
        "caption not in [1]",
        "'a' in caption",
        "caption in 'abc'",
        "caption == '`' or @os.system('touch {path}') == 0 or caption == '`'",
        "caption == '`' or @frames.os.system('touch {path}') == 0 or caption == '`'",
        "caption == '`' or caption.to_csv('{path}') == 0 or caption == '`'",
        "caption == '`'",
        "caption == '`width`'",
        "width > 1 # `two words`",
        "@width > 1",
        "caption == 'a' * 1000000000",
        "caption * 1000000000 == 'a'",
        "(caption + 'a').str.len() > 1 and (caption + 'a') * 1000000000 == 'a'",
        "caption.str.lower() * 1000000000 == 'a'",
        "'%1000000000d' % width == 'a'",
        "width in [32] * 1000000000",
        "(+caption) * 2000000000 == 'a'",
        "width.round(5000000000) > 1",
        "width.round(-400) > 1",
        "width.round(decimals=5000000000) > 1",
        "caption.str.contains('(?:[a-d].{0,40}){20}z')",
        "caption.str.contains('a{9' + '9}')",
        "caption.str.contains('" + "a|" * 300 + "')",
        "caption.str.match('a', flags=2)",
        "caption.str.contains('a', na=True)",
        "caption" + " + caption" * 17 + " == 'a'",
        "width > 1" + " and width > 1" * 300,
        "width == None",
        "caption.str == 'a'",
        "caption.str",
        "tags.list > 1",
        "caption.str.contains('[')",
        "caption.str.contains('(?=c)')",
        "caption.str.match('(a)\\\\1')",
        "+caption == 'a'",
        "not 5",
        "width in [1, None]",
        "width > 1j",
        "caption == b'a'",
        "(" + "1*" * 2000 + "1) * width > 1",
        "caption == '`width`' and `width` > 1",
        "1 > 0",
        "True",
        "",
        "width >",
        "width = 3",
        "width > 3; 1",
        "(" * 300 + "width" + ")" * 300,
        chr(0),
    ],
)
def test_refused_before_anything_runs(dataset, tmp_path, expression):
    made = tmp_path / "made"
    with pytest.raises((ConfigError, ColumnNotFoundError)):
        dataset.filter(expression.replace("{path}", str(made)))
    assert not made.exists()


def test_a_wrong_name_lists_the_columns_and_the_closest(dataset):
    with pytest.raises(ColumnNotFoundError, match="Did you mean 'caption'"):
        dataset.filter("captoin == 'a'")
    with pytest.raises(ColumnNotFoundError, match="two wrds"):
        dataset.filter("`two wrds` > 1")


@pytest.mark.parametrize("digits", ["0x" + "F" * 5000, "-0b" + "1" * 1025, "9" * 400])
def test_whole_numbers_have_up_to_1024_bits(dataset, digits):
    with pytest.raises(ConfigError, match=r"^a whole number of more than 1,024 bits"):
        dataset.filter(f"width > {digits}")
    assert len(dataset.filter(f"width < {2**1023:#x}")) == len(dataset.filter("width > 0"))


@pytest.mark.parametrize("letter", ["\\b", "\\f", "\\x1b", "\\x7f", "\\r", "\\1", "\\0"])
@pytest.mark.parametrize("is_read_before", [False, True])
def test_a_backslash_that_python_read_is_told(dataset, letter, is_read_before):
    """Of a pattern without r, by the program that holds the expression or by the expression."""
    expression = f"caption.str.contains('{letter}dog')"
    if is_read_before:
        expression = expression.encode().decode("unicode_escape")
        if "\r" in expression or "\0" in expression:
            pytest.skip("ends the line, hence the expression")
    with pytest.raises(
        ConfigError, match=r"control character.*Write r'\\[bfxr0].*before the whole"
    ):
        dataset.filter(expression)


def test_tabs_newlines_and_raw_patterns_are_fine(dataset):
    for expression in (
        r"caption == 'a\tb\n'",
        r"caption.str.contains(r'\bdog')",
        r"caption == '\\bdog'",
    ):
        assert len(dataset.filter(expression)) == 0


@pytest.mark.parametrize(("expression", "is_meant"), [("width = 3", True), ("width == ", False)])
def test_one_sign_of_equality_is_told_to_be_two(expression, is_meant):
    with pytest.raises(ConfigError) as told:
        check(expression, ["width"])
    assert ("What is equal is written ==." in str(told.value)) == is_meant
    assert "unknown" not in str(told.value)


@pytest.mark.parametrize(
    ("expression", "remedy"),
    [
        ("width > 1 AND height > 1", "Write and, or, not and in in lower case."),
        ("(width > 1) OR (height > 1)", "Write and, or, not and in in lower case."),
        ("NOT (width > 1)", "Write and, or, not and in in lower case."),
        ("label IN ['a']", "Write and, or, not and in in lower case."),
        ("label in @names", "ds.filter(ds.metadata['label'].isin(names))."),
        ("`the label` not in @names", "ds.filter(~ds.metadata['the label'].isin(names))."),
        ("label == 'cats AND dogs, @home' and", None),
    ],
)
def test_what_sql_and_pandas_write_gets_a_remedy(expression, remedy):
    with pytest.raises(ConfigError) as told:
        check(expression, ["width", "height", "label", "the label"])
    message = str(told.value).replace(repr(expression), "")
    assert remedy is None or remedy in message
    assert remedy or not ("lower case" in message or "isin" in message)
