"""All pairs within a radius, against comparing every hash with every other."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_image_curate.dedup.hamming import close_pairs
from nemo_image_curate.errors import ConfigError


def brute(hashes: np.ndarray, radius: int) -> list[tuple[int, int, int]]:
    first, second = np.triu_indices(len(hashes), 1)
    distance = np.array(
        [int(a ^ b).bit_count() for a, b in zip(hashes[first], hashes[second], strict=True)],
        dtype=np.int64,
    )
    near = distance <= radius
    return list(
        zip(first[near].tolist(), second[near].tolist(), distance[near].tolist(), strict=True)
    )


def found(hashes: np.ndarray, radius: int) -> list[tuple[int, int, int]]:
    return list(zip(*(array.tolist() for array in close_pairs(hashes, radius)), strict=True))


@st.composite
def crowded(draw: st.DrawFn) -> np.ndarray:
    """Hashes of which many are a few bits from others, some equal, some at the extremes."""
    word = st.integers(0, 2**64 - 1)
    centres = draw(st.lists(word | st.sampled_from([0, 2**64 - 1]), min_size=1, max_size=4))
    flips = st.lists(st.integers(0, 63), max_size=12)
    hashes = []
    for bits in draw(st.lists(flips, max_size=40)):
        value = centres[len(bits) % len(centres)]
        for bit in bits:
            value ^= 1 << bit
        hashes.append(value)
    return np.array(hashes, dtype=np.uint64)


@settings(max_examples=200)
@given(crowded(), st.integers(0, 20))
def test_no_pair_is_missed_and_none_is_made_up(hashes, radius):
    assert found(hashes, radius) == brute(hashes, radius)


@pytest.mark.parametrize("radius", [0, 1, 6, 10, 31, 63])
@pytest.mark.parametrize("n", [0, 1, 2, 300])
def test_random_hashes(n, radius):
    hashes = np.random.default_rng(n).integers(0, 2**64, n, dtype=np.uint64, endpoint=False)
    assert found(hashes, radius) == brute(hashes, radius)


@pytest.mark.parametrize("radius", [3, 6, 8])
def test_many_hashes_whose_neighbours_are_known(radius):
    """So many that substrings are long and are searched beyond equality."""
    rng = np.random.default_rng(radius)
    centres = rng.integers(0, 2**64, 60_000, dtype=np.uint64)
    apart = rng.integers(0, radius + 3, len(centres))
    twins = centres.copy()
    for number, count in enumerate(apart):
        for bit in rng.choice(64, count, replace=False):
            twins[number] ^= np.uint64(1) << np.uint64(bit)
    first, second, distance = close_pairs(np.concatenate([centres, twins]), radius)
    planted = second - first == len(centres)
    assert np.array_equal(first[planted], np.flatnonzero(apart <= radius))
    assert np.array_equal(distance[planted], apart[apart <= radius])
    # Of 7e9 pairs of random hashes 4e-3 are expected to be within 8 bits.
    assert (~planted).sum() <= 1


def test_a_dense_crowd_takes_bounded_memory():
    """Thousands that share most substrings: 18 million candidates, of which few are near."""
    rng = np.random.default_rng(5)
    low = rng.choice(2**20, 6000, replace=False).astype(np.uint64)
    tracemalloc.start()
    first, _, _ = close_pairs(low, 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    distance = np.bitwise_count(low[:, None] ^ low[None])
    assert len(first) == np.count_nonzero(np.triu(distance <= 2, 1))
    assert peak < 300e6


@pytest.mark.parametrize("radius", [-1, 64])
def test_an_impossible_radius(radius):
    with pytest.raises(ConfigError, match=f"radius={radius} should be 0 to 63"):
        close_pairs(np.zeros(2, dtype=np.uint64), radius)
