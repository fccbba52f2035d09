"""Tables that are made alike, and digests of what they hold."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from nemo_image_curate import tables


def test_conform_casts_and_fills():
    schema = pa.schema({"key": pa.string(), "x": pa.float64(), "new": pa.list_(pa.float32())})
    table = tables.conform(pa.table({"x": [1, None], "key": ["a", "b"]}), schema)
    assert table.schema == schema
    assert table.to_pylist() == [
        {"key": "a", "x": 1.0, "new": None},
        {"key": "b", "x": None, "new": None},
    ]


def test_a_digest_is_of_what_columns_hold():
    """Not of chunks, slices, the size of offsets, or what lies behind nulls."""
    texts, numbers = ["a", None, "bc"] * 7, [1.5, None, 3.0] * 7
    digest = tables.content_digest(pa.table({"t": texts, "n": numbers}))
    longer = pa.table({"t": ["x", *texts, None], "n": [None, *numbers, 2.0]})
    valid = pa.array([number is not None for number in numbers]).buffers()[1]
    behind = np.array([77.0 if number is None else number for number in numbers])
    hidden = pa.Array.from_buffers(pa.float64(), 21, [valid, pa.py_buffer(behind.tobytes())])
    same = [
        longer.slice(1, 21),
        pa.concat_tables([longer.slice(1, 5), longer.slice(6, 16)]),
        pa.table({"t": pa.array(texts, pa.large_string()), "n": numbers}),
        pa.table({"t": pa.array(texts).dictionary_encode(), "n": numbers}),
        pa.table({"t": texts, "n": hidden}),
    ]
    assert [tables.content_digest(table) for table in same] == [digest] * len(same)
    others = [
        longer.slice(0, 21),
        longer.slice(1, 20),
        pa.table({"t": texts, "m": numbers}),
        pa.table({"t": texts, "n": [0.0 if one is None else one for one in numbers]}),
    ]
    assert digest not in [tables.content_digest(table) for table in others]
    with_array = tables.content_digest(same[0], np.arange(3))
    assert with_array not in (digest, tables.content_digest(same[0], np.arange(3)[::-1].copy()))


def test_a_digest_of_no_rows_and_of_many():
    nothing = pa.table({"t": pa.array([], pa.null())})
    assert tables.content_digest(nothing) == tables.content_digest(
        nothing.cast(pa.schema([("t", pa.string())]))
    )
    many = pa.table({"t": [str(row) for row in range(20_000)]})
    pieces = pa.concat_tables([many.slice(start, 3001) for start in range(0, 20_000, 3001)])
    assert tables.content_digest(pieces) == tables.content_digest(many)
    assert tables.content_digest(many.slice(1)) != tables.content_digest(many)
