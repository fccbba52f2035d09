from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_image_curate.index.hits import Hit
from nemo_image_curate.search.fusion import collapse, reciprocal_rank_fusion

RANKINGS = st.lists(st.lists(st.integers(0, 30), unique=True), max_size=4)


def test_reciprocal_rank_fusion_adds_what_each_ranking_gives():
    scores = reciprocal_rank_fusion([["a", "b"], ["c", "a"]])
    assert scores == {
        "a": pytest.approx(1 / 61 + 1 / 62),
        "b": pytest.approx(1 / 62),
        "c": pytest.approx(1 / 61),
    }


@given(RANKINGS)
def test_fusion_knows_every_item_and_never_likes_a_dominated_one_better(rankings):
    scores = reciprocal_rank_fusion(rankings)
    assert set(scores) == {item for ranking in rankings for item in ranking}

    def rank(ranking: list[int], item: int) -> float:
        return ranking.index(item) if item in ranking else np.inf

    for one in scores:
        for other in scores:
            pairs = [(rank(ranking, one), rank(ranking, other)) for ranking in rankings]
            if all(a <= b for a, b in pairs) and any(a < b for a, b in pairs):
                assert scores[one] > scores[other]


def hits_of(vectors: np.ndarray) -> list[Hit]:
    scores = np.linspace(1, 0.5, len(vectors))
    return [
        Hit(f"k{number}", None, float(score), None, {}, vector)
        for number, (score, vector) in enumerate(zip(scores, vectors, strict=True))
    ]


@given(st.integers(0, 10_000), st.integers(0, 40), st.floats(0.3, 1), st.integers(1, 50))
def test_collapse_shows_no_two_alike_and_counts_each_hidden_one_once(seed, n, threshold, k):
    chance = np.random.default_rng(seed)
    vectors = chance.integers(0, 3, (n, 3)).astype(np.float32) + 0.1
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    hits = hits_of(vectors)
    shown = collapse(hits, threshold, k)
    assert len(shown) <= k
    places = [int(hit.key[1:]) for hit in shown]
    assert places == sorted(places)
    cosines = vectors @ vectors.T >= threshold - 1e-6
    assert all(not cosines[a, b] for a in places for b in places if a != b)
    # Greedy, written plainly.
    expected: list[int] = []
    hidden = 0
    for place in range(n):
        if any(cosines[place, better] for better in expected):
            hidden += 1
        elif len(expected) < k:
            expected.append(place)
    assert places == expected
    assert sum(hit.similar for hit in shown) == hidden


def test_the_most_similar_hit_stands_for_a_hidden_one():
    angles = np.deg2rad([0, 50, 30])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    first, second = collapse(hits_of(vectors), np.cos(np.deg2rad(40)), 10)
    assert (first.key, first.similar) == ("k0", 0)
    assert (second.key, second.similar) == ("k1", 1)


def test_copies_collapse_at_a_threshold_of_one():
    vector = np.random.default_rng(0).standard_normal(384).astype(np.float32)
    vector /= np.linalg.norm(vector)
    (only,) = collapse(hits_of(np.stack([vector] * 5)), 1.0, 10)
    assert only.similar == 4
