from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import given, settings

from nemo_image_curate.vectors.water_filling import bounded_shares, water_fill, whole_shares

SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=12).map(np.array)


@settings(max_examples=60)
@given(SIZES, st.integers(0, 300), st.integers(0, 5))
def test_quotas_are_as_even_as_sizes_allow(sizes, total, seed):
    quotas = water_fill(sizes, total, np.random.default_rng(seed))
    assert quotas.sum() == min(total, sizes.sum())
    assert (quotas <= sizes).all()
    # No group has two more than another that could give more.
    could_give = quotas < sizes
    if could_give.any():
        assert quotas.max() <= quotas[could_give].min() + 1


def test_who_gives_one_more_is_drawn():
    drawn = [tuple(water_fill([9, 9, 9, 1], 5, np.random.default_rng(seed))) for seed in range(60)]
    counts = {each: drawn.count(each) for each in set(drawn)}
    assert set(counts) == {(2, 1, 1, 1), (1, 2, 1, 1), (1, 1, 2, 1)}
    assert min(counts.values()) > 8
    assert tuple(water_fill([9, 9, 9, 1], 5, np.random.default_rng(3))) == drawn[3]


def test_the_published_fixture_of_density_based_pruning():
    sizes, complexity = np.array([1000, 1000, 500, 100, 50]), np.array([0.02, 0.08, 0.2, 0.2, 0.05])
    weights = np.exp(complexity / 0.1)
    lower = np.minimum(int(0.5 * 1000 / 5), sizes - 1)
    shares = bounded_shares(1000 * weights / weights.sum(), 1000, lower, sizes)
    expected = [163.04, 213.57, 473.39, 100, 50]
    lower_of_all = bounded_shares(
        1000 * weights / weights.sum(), 1000, np.minimum(lower, 49), sizes
    )
    np.testing.assert_allclose(lower_of_all, expected, atol=0.01)
    np.testing.assert_allclose(shares, expected, atol=0.01)
    assert whole_shares(shares, 1000).tolist() == [163, 214, 473, 100, 50]


@settings(max_examples=60)
@given(st.data())
def test_shares_are_the_nearest_within_bounds(data):
    upper = data.draw(SIZES)
    wanted = np.array(
        data.draw(st.lists(st.floats(-5, 60), min_size=len(upper), max_size=len(upper)))
    )
    lower = np.array([data.draw(st.integers(0, int(most))) for most in upper])
    total = data.draw(st.integers(int(lower.sum()), int(upper.sum())))
    shares = bounded_shares(wanted, total, lower, upper)
    assert (shares >= lower).all()
    assert (shares <= upper).all()
    np.testing.assert_allclose(shares.sum(), total, atol=1e-9)
    # Optimal: what moves from one to another within the bounds comes no nearer.
    down, up = shares > lower + 1e-9, shares < upper - 1e-9
    if down.any() and up.any():
        assert (shares - wanted)[down].max() <= (shares - wanted)[up].min() + 1e-9
    whole = whole_shares(shares, total)
    assert whole.sum() == total
    assert (whole >= lower).all()
    assert (whole <= upper).all()
    assert np.abs(whole - shares).max() < 1


def test_no_groups_at_all():
    none = np.array([], dtype=np.int64)
    assert water_fill(none, 5, np.random.default_rng(0)).tolist() == []
    assert bounded_shares(none, 5, none, none).tolist() == []
    assert whole_shares(none.astype(float), 0).tolist() == []
