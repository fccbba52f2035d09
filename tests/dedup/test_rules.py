"""The rules against the shortest programs that say what they mean."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_image_curate.dedup.rules import RULES, Decisions, GreedyState, Pairs, check_rule, decide
from nemo_image_curate.errors import ConfigError

Near = dict[tuple[int, int], float]


def pairs_of(near: Near) -> Pairs:
    items = list(near.items())
    return Pairs(
        np.array([later for (_, later), _ in items], dtype=np.int64),
        np.array([earlier for (earlier, _), _ in items], dtype=np.int64),
        np.array([similarity for _, similarity in items], dtype=np.float32),
    )


def reference(rule: str, near: Near, n: int) -> list[tuple[int, float | None]]:
    """For each row which row stands for it (-1: it is kept) and their similarity, if known."""

    def similarity(one: int, other: int) -> float | None:
        return near.get((min(one, other), max(one, other)))

    if rule == "components":
        component = list(range(n))
        for _ in range(n):
            for one, other in near:
                low = min(component[one], component[other])
                component[one] = component[other] = low
        return [
            (-1, None) if first == row else (first, similarity(first, row))
            for row, first in enumerate(component)
        ]
    stands: list[int] = []
    for row in range(n):
        candidates = [
            one
            for one in range(row)
            if (one, row) in near and (rule == "reference" or stands[one] == -1)
        ]
        stands.append(min(candidates, default=-1))
    return [
        (first, None if first == -1 else similarity(first, row)) for row, first in enumerate(stands)
    ]


def plain(decisions: Decisions) -> list[tuple[int, float | None]]:
    assert decisions.duplicate_of.dtype == np.int64
    assert decisions.similarity.dtype == np.float32
    return [
        (to, None if math.isnan(similarity) else similarity)
        for to, similarity in zip(
            decisions.duplicate_of.tolist(), decisions.similarity.tolist(), strict=True
        )
    ]


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Near, int]:
    n = draw(st.integers(0, 12))
    all_pairs = [(one, other) for other in range(n) for one in range(other)]
    chosen = draw(st.lists(st.sampled_from(all_pairs), unique=True)) if all_pairs else []
    # Numbers that float32 holds exactly.
    return {pair: draw(st.integers(0, 64)) / 64 for pair in chosen}, n


@settings(max_examples=300)
@given(graphs(), st.sampled_from(RULES))
def test_against_the_reference(graph, rule):
    near, n = graph
    assert plain(decide(rule, pairs_of(near), n)) == reference(rule, near, n)


@settings(max_examples=100)
@given(graphs())
def test_what_the_greedy_rule_promises(graph):
    """No two kept rows are near, and each removed row is near the kept one that stands for it."""
    near, n = graph
    stands = decide("greedy", pairs_of(near), n).duplicate_of
    assert not any(stands[one] == stands[other] == -1 for one, other in near)
    for row in np.flatnonzero(stands >= 0):
        assert stands[stands[row]] == -1
        assert (stands[row], row) in near


# A ~ B ~ C where A and C are not near, in the two orders of the table in rules.py.
@pytest.mark.parametrize(
    ("rule", "order", "removed"),
    [
        ("greedy", "ABC", "B"),
        ("reference", "ABC", "BC"),
        ("components", "ABC", "BC"),
        ("greedy", "BAC", "AC"),
        ("reference", "BAC", "AC"),
        ("components", "BAC", "AC"),
    ],
)
def test_the_worked_example(rule, order, removed):
    rank = {name: order.index(name) for name in order}
    near = {tuple(sorted((rank[one], rank[other]))): 0.5 for one, other in ("AB", "BC")}
    found = decide(rule, pairs_of(near), 3)
    assert {name for name in order if found.duplicate_of[rank[name]] >= 0} == set(removed)
    unknown = np.isnan(found.similarity[rank["C"]])
    # Under `components` C goes for A, to which it is linked only through B.
    assert unknown == ("C" not in removed or (rule, order) == ("components", "ABC"))


@pytest.mark.parametrize("rule", RULES)
def test_a_long_chain(rule):
    """Each row is near the next: greedy keeps every other one, in as many rounds as there are."""
    n = 2001
    near = {(row, row + 1): 1.0 for row in range(n - 1)}
    kept = decide(rule, pairs_of(near), n).duplicate_of == -1
    assert kept.sum() == (1001 if rule == "greedy" else 1)


@pytest.mark.parametrize("rule", RULES)
def test_pairs_that_come_twice(rule):
    twice = Pairs(np.array([2, 1, 2]), np.array([0, 0, 0]), np.array([1, 1, 1], dtype=np.float32))
    assert decide(rule, twice, 4).duplicate_of.tolist() == [-1, 0, 0, -1]


def test_what_cannot_be_decided_yet_stays_open():
    """Row 2 has neighbours that are not told: it may be removed, but not kept."""
    state = GreedyState(4)
    some = pairs_of({(1, 2): 1.0, (2, 3): 1.0})
    state.settle(some, np.array([2]))
    assert state.removed.tolist() == [False, False, True, False]
    assert state.kept.tolist() == [True, True, False, True]
    state = GreedyState(3)
    state.settle(pairs_of({(1, 2): 1.0}), np.array([1]))
    assert state.kept.tolist() == [True, False, False]
    assert state.open.tolist() == [False, True, True]


def test_a_rule_that_does_not_exist():
    with pytest.raises(ConfigError, match="rule='best' should be one of 'greedy', 'reference'"):
        check_rule("best")
