import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from nemo_image_curate.compute import devices
from nemo_image_curate.dedup import neighbours
from nemo_image_curate.dedup.rules import component_firsts
from tests.dedup.make_embeddings import planted


def taker(vectors, device="cpu"):
    return lambda start, end: torch.from_numpy(vectors[start:end]).to(device)


def near(vectors, eps):
    exact = vectors.astype(np.float64)
    return np.tril(exact @ exact.T >= 1 - eps - neighbours.GRAIN, -1)


def lists(found):
    table = {}
    order = np.lexsort((found.earlier, found.later))
    for later, earlier in zip(found.later[order], found.earlier[order], strict=True):
        table.setdefault(int(later), []).append(int(earlier))
    return table


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("eps", [0.0, 0.01, 0.05, 0.3, 0.995, 1.0])
@pytest.mark.parametrize("n", [1, 2, 700, 1300])
def test_all_pairs_are_found(n, eps, native, device, monkeypatch):
    monkeypatch.setattr(devices, "has_bfloat16", lambda device: native)
    vectors = planted(n)
    every = np.ones(n, dtype=bool)
    found = neighbours.earliest(taker(vectors, device), every, every, eps, n, 512)
    truth = near(vectors, eps)
    assert len(found.later) == len(set(zip(found.later, found.earlier, strict=True)))
    told = np.zeros_like(truth)
    told[found.later, found.earlier] = True
    # float32 and float64 may differ on the edge itself.
    edge = abs(vectors.astype(float) @ vectors.T.astype(float) - (1 - eps)) < 2e-6
    assert not ((told != truth) & ~edge).any()
    exact = np.einsum("ij,ij->i", *(vectors[rows] for rows in (found.later, found.earlier)))
    np.testing.assert_allclose(found.similarity, exact, atol=2e-6)
    assert not len(found.truncated)


@given(
    seed=st.integers(0, 10**6),
    n=st.integers(2, 60),
    limit=st.integers(1, 4),
    block=st.sampled_from([3, 8, 512]),
)
@settings(max_examples=60)
def test_lists_are_the_first_of_each(seed, n, limit, block):
    chance = np.random.default_rng(seed)
    vectors = planted(n, dim=4, copies=0.6, centres=2, seed=seed)
    query, target = chance.random(n) < 0.7, chance.random(n) < 0.8
    found = neighbours.earliest(taker(vectors), query, target, 0.05, limit, block)
    truth = near(vectors, 0.05) & query[:, None] & target
    told = lists(found)
    for row in range(n):
        wanted = np.flatnonzero(truth[row]).tolist()
        assert told.get(row, []) == wanted[:limit]
        if len(wanted) > limit:
            assert row in found.truncated
        if row in found.truncated:
            assert len(told[row]) == limit


def test_thousands_of_copies_are_not_compared_with_each_other():
    copies = np.tile(planted(1, copies=0), (6000, 1))
    asked = []

    def take(start, end):
        asked.append(start)
        return torch.from_numpy(copies[start:end])

    every = np.ones(len(copies), dtype=bool)
    found = neighbours.earliest(take, every, every, 0.0, 16, 512)
    assert len(found.later) == sum(min(row, 16) for row in range(6000))
    blocks = -(-6000 // 512)
    assert len(asked) <= 2 * blocks, "one look at each block, and one at the first"
    asked.clear()
    found = neighbours.forest(take, len(copies), 0.0, 512)
    assert len(found.later) == 5999
    assert len(asked) <= 3 * blocks


@given(seed=st.integers(0, 10**6), n=st.integers(1, 60), block=st.sampled_from([3, 8, 512]))
@settings(max_examples=60)
def test_forest_connects_what_is_connected(seed, n, block):
    vectors = planted(n, dim=4, copies=0.6, centres=2, seed=seed)
    found = neighbours.forest(taker(vectors), n, 0.02, block)
    assert len(found.later) < max(1, n)
    truth = component_firsts(*near(vectors, 0.02).nonzero(), n)
    assert (component_firsts(found.later, found.earlier, n) == truth).all()
