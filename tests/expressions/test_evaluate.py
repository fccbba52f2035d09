"""Which rows expressions choose."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from types import SimpleNamespace

import pandas as pd
import pyarrow as pa
import pytest

from nemo_image_curate import ImageTextPairDataset, frames
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.expressions.evaluate import condition, matching_rows
from tests.make_data import write_sidecar, write_tar
from tests.make_embedders import column, rows


@pytest.mark.parametrize(
    ("expression", "truth"),
    [
        ("width > 33", lambda row: row.width > 33),
        ("(width > 33) & ~(score < 5)", lambda row: row.width > 33 and not row.score < 5),
        ("33 <= width < 35 or score > 9", lambda row: 33 <= row.width < 35 or row.score > 9),
        ("caption.str.contains('picture 1')", lambda row: "picture 1" in row.caption),
        ("width in [32, 35]", lambda row: row.width in (32, 35)),
        ("width.isin([32, 35])", lambda row: row.width in (32, 35)),
        ("`two words` * 2 == 66", lambda row: row.width == 33),
        (
            "`two words` > 32 and `width` == 35 or `two words` == 33",
            lambda row: row.width in (33, 35),
        ),
        ("not caption.isna()", lambda row: True),
        ("flag == 1", lambda row: row.width >= 33),
        ("caption.str.len() * 2 > 0 and width * 2 == 66", lambda row: row.width == 33),
    ],
)
def test_allowed(dataset, expression, truth):
    expected = [row["key"] for row in rows(dataset) if truth(SimpleNamespace(**row))]
    assert column(dataset.filter(expression), "key") == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("n > 1", "b"),
        ("not n > 1", "af"),
        ("n != 1", "bf"),
        ("n.isna()", "cde"),
        ("n.notna() or text == 'x'", "abcf"),
        ("x > 0 and n > 0", "b"),
        ("x >= 0 or n == 1", "abce"),
        ("x != 1", "be"),
        ("flag", "ae"),
        ("not flag", "bf"),
        ("flag == True", "ae"),
        ("text == 'x'", "ac"),
        ("text != 'x'", "bf"),
        ("not text == 'x'", "bf"),
        ("text not in ['x']", "bf"),
        ("not text.isin(['x'])", "bf"),
        ("text != ['x', 'y']", "f"),
        ("text == ['x', 'y']", "abc"),
        ("text != 'x' or n.isna()", "bcdef"),
        ("text != 'x' & n > 1 | x == 0", "be"),
        ("text.str.contains('y')", "b"),
        ("text.str.upper() in ['X', 'Y']", "abc"),
        ("text.isna()", "de"),
        ("tags.list.len() > 0", "ce"),
        ("n.isin([1, 0]) and x.between(0, 9)", ""),
        ("day > '2020-06-01'", "c"),
        ("day != '2020-06-01'", "ac"),
        ("'2020-01-01' <= day < '2020-06-02'", "ab"),
        ("day in ['2020-01-01', '2021-01-01']", "ac"),
        ("n % 2 == 0", "bf"),
        ("day.between('2020-01-01', '2020-12-31')", "ab"),
        ("not day.between('2020-01-01', '2020-12-31')", "c"),
        ("x.round(1) == 2", "b"),
        ("text.str.contains('Y', case=False, regex=False)", "b"),
    ],
)
def test_nulls_choose_the_same_rows_on_both_backends(tmp_path, backend, expression, expected):
    """A null is neither true nor false, and NaN is null."""
    nan = float("nan")
    table = pa.table(
        {
            "key": list("abcdef"),
            "n": pa.array([1, 2, None, None, None, 0]),
            "x": pa.array([nan, 2.0, 1.0, None, 0.0, -nan]),
            "flag": pa.array([True, False, None, None, True, False]),
            "text": pa.array(["x", "y", "x", None, None, "z"]),
            "day": pa.array(
                [datetime(2020, 1, 1), datetime(2020, 6, 1), datetime(2021, 1, 1)] + [None] * 3
            ),
            "tags": pa.array([[], None, ["t"], None, ["t", "u"], []]),
        }
    )
    # Also where a whole partition is null.
    for number, part in enumerate((table[:3], table[3:5], table[5:])):
        write_tar(tmp_path / f"{number}.tar", [])
        write_sidecar(tmp_path / f"{number}.parquet", part)
    dataset = ImageTextPairDataset.from_webdataset(tmp_path, backend=backend)
    assert "".join(column(dataset.filter(expression), "key")) == expected


def test_names_of_quoted_columns_are_never_mistaken():
    frame = pa.table({"s": ["_quoted0_", "x"], "_quoted0_": [2, 3]})
    assert matching_rows(frame, "`_quoted0_` > 1 and s == '_quoted0_'").tolist() == [True, False]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("9999-12-31", "ns"),
        ("now", "no date"),
        ("2020-01-01 12:00", "has a time"),
    ],
)
def test_texts_that_are_no_dates(text, problem):
    day = pa.array([datetime(2020, 1, 1)], pa.date32() if problem == "has a time" else None)
    table = pa.table({"day": day.cast(pa.timestamp("ns")) if problem == "ns" else day})
    with pytest.raises(ConfigError, match=problem):
        matching_rows(table, f"day > '{text}'")


@pytest.mark.parametrize("expression", ["t == d", "d != t", "t == z", "l == l", "c == 'x' == 1"])
def test_what_cannot_be_compared_is_not_merely_different(expression):
    moment = datetime(2020, 1, 1)
    columns = {
        "t": pa.array([moment]),
        "d": pa.array([moment.date()]),
        "z": pa.array([moment], pa.timestamp("us", "UTC")),
        "l": [[1]],
        "c": ["x"],
    }
    frame = pa.table(columns)
    with pytest.raises(ConfigError, match="cannot be compared"):
        matching_rows(frame, expression)


def test_numbers_of_all_types_are_compared():
    columns = {"h": pa.array([1.5], pa.float16()), "e": pa.array([Decimal("1.5")]), "b": [True]}
    frame = pa.table(columns)
    for expression in ("h == 1.5", "h == h", "e == 1.5", "b == 1", "b == (h > 1)", "e >= h"):
        assert matching_rows(frame, expression).tolist() == [True], expression


def test_infinity_as_python_writes_it():
    table = pa.table({"x": [1.0, float("inf"), float("-inf"), None], "n": [1, 2, 3, 4]})
    assert matching_rows(table, "x >= inf").tolist() == [False, True, False, False]
    assert matching_rows(table, "x > -inf and n < inf").tolist() == [True, True, False, False]
    named = table.rename_columns(["x", "inf"])
    assert matching_rows(named, "inf >= 3").tolist() == [False, False, True, True]


def test_frames_of_other_makers():
    plain = frames.to_arrow(pd.DataFrame({"o": ["a", None], "c": pd.Categorical(["x", "y"])}))
    assert matching_rows(plain, "o in ['a']").tolist() == [True, False]
    assert matching_rows(plain, "o != 'b'").tolist() == [True, False]
    assert matching_rows(plain, "c.str.contains('y')").tolist() == [False, True]
    with pytest.raises(ConfigError, match="not true or false"):
        matching_rows(plain, "o")


COLUMNS = pa.table(
    {
        "n": pa.array([1, 2, None, 5, -128], pa.int8()),
        "u": pa.array([1, 2, 3, None, 255], pa.uint8()),
        "x": pa.array([0.1, 0.4, None, 1.0, 0.5], pa.float32()),
        "d": pa.array([Decimal("1.50"), Decimal("2.00"), None, Decimal("-1.50"), Decimal(0)]),
        "b": [True, False, None, True, False],
        "text": ["a", "ab", None, "b", ""],
        "z": pa.array([datetime(2020, 1, day) for day in range(1, 6)], pa.timestamp("us", "UTC")),
        "nothing": pa.nulls(5),
    }
)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("+u > 2", [2, 4]),
        ("+n > 1", [1, 3]),
        ("+b == 1", [0, 3]),
        ("-b < 0", [0, 3]),
        ("(n & 1) == 1", [0, 3]),
        ("(u | 1) == 3", [1, 2]),
        ("(n ^ 1) == 0", [0]),
        ("not False and b", [0, 3]),
        ("n.between(left=1, right=2)", [0, 1]),
        ("text.str.startswith('a', na=False)", [0, 1]),
        ("text.str.endswith('b', na=True)", [1, 2, 3]),
        ("d // 1 == -2", [3]),
        ("d % 1 == 0.5", [0, 3]),
        ("x == 0.1", [0]),
        ("x <= 0.4", [0, 1]),
        ("x in [0.1, 1]", [0, 3]),
        ("b in [0, 5]", [1, 4]),
        ("z == here", [0, 1, 2, 3, 4]),
        ("text in ['a', 'b']", [0, 3]),
        ("text not in ['a', 'b']", [1, 4]),
        ("text in []", []),
        ("nothing + 1 > 0", []),
        ("nothing.str.len() > 0 or n == 1", [0]),
        ("not nothing.list.len() > 1 or n == 1", [0]),
        ("nothing == nothing", []),
        ("nothing.isna() and n == 1", [0]),
        ("n + nothing > 0", []),
    ],
)
def test_operations_that_pandas_has_as_well(expression, expected):
    here = COLUMNS["z"].cast(pa.timestamp("ns", "Europe/Berlin"))
    table = COLUMNS.append_column("here", here)
    assert matching_rows(table, expression).nonzero()[0].tolist() == expected
    # What a type lacks is known without rows.
    assert matching_rows(table[:0], expression).tolist() == []


@pytest.mark.parametrize("text", ["x == 0.1", "x <= 0.4", "x > 0.1", "x.between(0.1, 0.4)"])
def test_texts_and_masks_choose_the_same_rows(text, backend):
    frame = frames.from_arrow(COLUMNS.select(["x", "u"]), backend)
    mask = frames.column_to_arrow(eval(text, {"x": frame["x"], "u": frame["u"]}))
    assert matching_rows(COLUMNS, text).tolist() == [bool(value) for value in mask.to_pylist()]


def test_columns_of_objects_are_of_any_type_until_they_are_computed(dataset):
    if dataset.backend == "gpu":
        pytest.skip("cuDF has no columns of objects")

    def with_objects(frame: pd.DataFrame) -> pd.DataFrame:
        values = pd.Series((["a", None] * 3)[: len(frame)], dtype=object, index=frame.index)
        return frame.assign(o=values)

    described = with_objects(frames.empty(dataset.metadata))
    dataset.metadata = dataset.metadata.map_partitions(with_objects, meta=described)
    assert len(dataset.filter("o.str.contains('a')")) == 4


_SMALL = pa.table(
    {
        "text": ["a dog", "cat", None],
        "f32": pa.array([1.0, float("nan"), None], pa.float32()),
        "f64": [1.0, float("nan"), None],
        "nan": [float("nan")] * 3,
        "none": pa.nulls(3),
        "n": [1, 2, None],
    }
)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("text.str.endswith(('g', 't'))", [True, True, None]),
        ("text.str.startswith(('a',))", [True, False, None]),
        ("text.str.endswith(())", [False, False, None]),
        ("text.isin(('cat', 'x'))", [False, True, None]),
        ("n.isin((1, 3))", [True, False, None]),
        ("f32 != 2", [True, None, None]),
        ("not f64 > 2", [True, None, None]),
        ("f32.isna()", [False, True, True]),
        ("f64.isna()", [False, True, True]),
        ("nan.isna()", [True] * 3),
        ("none.isna()", [True] * 3),
        ("nan > 1", [None] * 3),
        ("none > 1 or none == 'a'", [None] * 3),
    ],
)
def test_conditions_keep_what_is_not_known(expression, expected):
    assert condition(_SMALL, expression).to_pylist() == expected
    assert matching_rows(_SMALL, expression).tolist() == [bool(one) for one in expected]


@pytest.mark.parametrize("call", ["str.startswith('a', n + 1)", "str.strip(s)", "str.match(s)"])
def test_methods_take_plain_values(call):
    table = pa.table({"n": [1], "s": ["a"]})
    with pytest.raises(ConfigError, match="takes the same for all rows, no column"):
        matching_rows(table, f"s.{call} == 'a'")
    assert matching_rows(table, "n.between(n - 1, n + 1)").tolist() == [True]
