"""Keys: in the order of the values, and back again."""

from __future__ import annotations

import datetime
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_image_curate.dataset.ordered_keys import check_ordered, keys_of, value_of
from nemo_image_curate.errors import ConfigError


@settings(max_examples=200)
@given(st.lists(st.floats(allow_nan=False), min_size=1))
def test_floats_of_any_kind(values):
    keys = keys_of(pa.array(values, pa.float64()))
    assert [values[row] for row in np.argsort(keys, kind="stable")] == sorted(values)
    assert [value_of(int(key), pa.float64()).as_py() for key in keys] == values


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.int64(), [-(2**63), -1, 0, 2**53, 2**53 + 1, 2**63 - 1]),
        (pa.uint64(), [0, 2**63, 2**64 - 1]),
        (pa.int8(), [-128, 127]),
        (pa.bool_(), [False, True]),
        (pa.float32(), [-math.inf, -1e-45, 0.0, 0.1, math.inf]),
        (pa.date32(), [datetime.date(1, 1, 1), datetime.date(2020, 2, 29)]),
        (pa.timestamp("s", "UTC"), [-(10**10), 0, 10**10]),
    ],
)
def test_ends_of_types(kind, values):
    array = pa.array(values, kind)
    keys = keys_of(array).tolist()
    assert keys == sorted(set(keys))
    assert [value_of(key, kind) for key in keys] == list(array)
    check_ordered("x", kind)


def test_what_has_no_order():
    for kind in (pa.string(), pa.list_(pa.float32()), pa.decimal128(5), pa.duration("s")):
        with pytest.raises(ConfigError, match=r"column 'x' holds .*, which has no threshold"):
            check_ordered("x", kind)
