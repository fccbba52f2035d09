"""Intervals of differences: as often wrong as they say at most, by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_image_curate.selection.subsets.intervals import compared, difference, holm

SEEDS, HELD_OUT = 5, 120


def hits(chance: np.random.Generator, better: float, rows: float = 1.0) -> np.ndarray:
    """What heads of two subsets get right, (2, SEEDS, 2, HELD_OUT).

    How good a head is depends on the half of the rows that it saw, of which each split makes
    other ones, on its start, and on the held-out row.
    """
    n = 40
    found = []
    hardness = chance.normal(size=HELD_OUT)
    for advantage in (better, 0.0):
        seen = rows * chance.normal(size=n)
        heads = []
        for _ in range(SEEDS):
            order = chance.permutation(seen)
            for half in (order[: n // 2], order[n // 2 :]):
                start = 0.1 * chance.normal()
                own = 0.3 * chance.normal(size=HELD_OUT)
                heads.append(advantage + half.mean() + start + own > hardness)
        found.append(np.reshape(heads, (SEEDS, 2, HELD_OUT)))
    return np.array(found, dtype=np.float32)


def rejected(better: float, repeats: int = 400) -> float:
    """How often a difference is shown."""
    found = [
        difference(*hits(np.random.default_rng(number), better)).p < 0.05
        for number in range(repeats)
    ]
    return float(np.mean(found))


def test_where_there_is_no_difference_few_are_shown():
    assert rejected(0.0) <= 0.06


def test_where_there_is_one_it_is_shown():
    assert rejected(1.2) > 0.8


def test_an_interval_is_around_the_difference_and_agrees_with_its_p():
    one = difference(*hits(np.random.default_rng(1), 0.5))
    other = difference(*hits(np.random.default_rng(1), 0.5)[::-1])
    assert one.low < one.mean < one.high
    assert (one.low > 0) == (one.p < 0.05)
    assert (other.mean, other.low, other.p) == pytest.approx((-one.mean, -one.high, one.p))


def test_heads_that_are_the_same_do_not_differ():
    same = np.ones((3, 2, 10))
    assert difference(same, same) == difference(same * 0, same * 0)
    assert difference(same, same).p == 1
    assert difference(same, same * 0).p == 0
    assert math.isinf(difference(same[..., :1], same[..., :1] * 0).high)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_raises_p_values_and_keeps_their_order(p_values):
    adjusted = holm(p_values)
    assert all(own <= new <= 1 for own, new in zip(p_values, adjusted, strict=True))
    assert min(adjusted) == min(1, min(p_values) * len(p_values))
    pairs = sorted(zip(p_values, adjusted, strict=True))
    assert [new for _, new in pairs] == sorted(adjusted)


def test_pairs_are_compared_with_each_other_or_with_one():
    own = hits(np.random.default_rng(3), 2.0)
    three = {"retrieval": np.stack([own[1], own[0], own[1]])}
    rows = compared(["a", "b", "c"], three)
    assert [(row["subset"], row["than"]) for row in rows] == [("b", "a"), ("a", "c"), ("b", "c")]
    assert [row["verdict"] for row in rows] == ["better", "no difference shown", "better"]
    assert rows[0]["p_holm"] == pytest.approx(3 * rows[0]["p"])
    rows = compared(["a", "b", "c"], three, baseline="a")
    assert [(row["subset"], row["than"]) for row in rows] == [("b", "a"), ("a", "c")]
