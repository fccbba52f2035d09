"""The nearest by each signal alone, against brute force."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_image_curate.dedup.against import equal_digests, near_hashes

# Few bits, so that many hashes are near and equal.
HASHES = st.lists(st.none() | st.integers(0, 2**10 - 1).map(lambda bits: bits << 30), max_size=12)


def column(values: list[int | None]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, pa.uint64())])


def turned(values: list[int | None]) -> list[int | None]:
    """Something else for each, as mirror images have."""
    return [None if value is None else value ^ (0b1011 << 31) for value in values]


@settings(max_examples=60)
@given(own=HASHES, others=HASHES, radius=st.integers(0, 8), mirrored=st.sampled_from([0, 1, 2]))
def test_hashes_against_brute_force(own, others, radius, mirrored):
    own_columns = [own, turned(own)][: 1 + (mirrored == 2)]
    other_columns = [others, turned(others)][: 1 + (mirrored > 0)]
    near = near_hashes(list(map(column, own_columns)), list(map(column, other_columns)), radius)
    for number, value in enumerate(own):
        best = (radius + 1, -1)
        for other_number, other in enumerate(others):
            if value is None or other is None:
                continue
            pairs = [(value, one[other_number]) for one in other_columns]
            pairs += [(one[number], other) for one in own_columns]
            distance = min((left ^ right).bit_count() for left, right in pairs)
            best = min(best, (distance, other_number), key=lambda pair: pair[0])
        assert near.rows[number] == best[1]
        if best[1] >= 0:
            assert near.similarity[number] == np.float32(1 - best[0] / 64)
        else:
            assert np.isnan(near.similarity[number])
        assert near.compared[number] == (value is not None)


def test_thousands_of_copies_meet_once():
    own = column([7] * 50_000)
    near = near_hashes([own], [column([1 << 40, *[6] * 50_000])], 3)
    assert set(near.rows.tolist()) == {1}


def test_equal_digests():
    own = pa.chunked_array([["a", "b"], [None, "c", "a"]])
    near = equal_digests(own, pa.chunked_array([[None, "c"], ["a", "a"]]))
    assert near.rows.tolist() == [2, -1, -1, 1, 2]
    assert near.compared.tolist() == [True, True, False, True, True]
    nothing = equal_digests(own, pa.chunked_array([], pa.string()))
    assert nothing.rows.tolist() == [-1] * 5
