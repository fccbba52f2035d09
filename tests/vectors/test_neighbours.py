from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_image_curate.vectors import neighbours
from nemo_image_curate.vectors.nearest import GRAIN
from nemo_image_curate.vectors.neighbours import blocks_of, top_k


def unit(rng: np.random.Generator, n: int, dim: int, kinds: int | None = None) -> np.ndarray:
    """Unit vectors, of which only so many are different."""
    vectors = rng.standard_normal((kinds or n, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors if kinds is None else vectors[rng.integers(0, kinds, n)]


def save(folder: Path, vectors: np.ndarray, cuts: list[int]) -> list[Path]:
    paths = []
    for number, part in enumerate(np.split(vectors, cuts)):
        paths.append(folder / f"{number}.npy")
        np.save(paths[-1], part)
    return paths


def expected(queries, vectors, k, exclude):
    """All cosines in float64, sorted by Python."""
    cosines = np.round(queries.astype(np.float64) @ vectors.astype(np.float64).T / GRAIN) * GRAIN
    row_numbers = np.full((len(queries), k), -1)
    nearest = np.full((len(queries), k), np.nan, dtype=np.float32)
    for query, row in enumerate(np.clip(cosines, -1, 1).astype(np.float32)):
        order = [
            n for n in sorted(range(len(row)), key=lambda n: (-row[n], n)) if n != exclude[query]
        ]
        row_numbers[query, : len(order)] = order[:k]
        nearest[query, : len(order)] = row[order[:k]]
    return row_numbers, nearest


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    for name, size in {"_COLUMNS": 16, "_ROWS": 8, "_PAIRS": 5}.items():
        monkeypatch.setattr(neighbours, name, {"cpu": size, "cuda": size})


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(0, 60),
    m=st.integers(0, 20),
    dim=st.integers(1, 9),
    k=st.integers(1, 5),
    kinds=st.none() | st.integers(1, 5),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    narrow=st.booleans(),
)
def test_equal_to_brute_force(tmp_path_factory, seed, n, m, dim, k, kinds, cuts, narrow):
    rng = np.random.default_rng(seed)
    vectors, queries = unit(rng, n, dim, kinds), unit(rng, m, dim)
    if n:
        queries[::2] = vectors[rng.integers(0, n, len(queries[::2]))]
    files = save(tmp_path_factory.mktemp("vectors"), vectors, sorted(min(cut, n) for cut in cuts))
    exclude = rng.integers(-1, max(n, 1), m)
    with pytest.MonkeyPatch.context() as patch:
        if narrow:
            patch.setattr(neighbours, "coarse", torch.Tensor.bfloat16)
        row_numbers, cosines = top_k(torch.from_numpy(queries), files, k, "cpu", exclude)
        alone = [top_k(torch.from_numpy(q[None]), files, k, "cpu") for q in queries]
    true_numbers, true_cosines = expected(queries, vectors, k, exclude)
    np.testing.assert_array_equal(cosines, true_cosines)
    np.testing.assert_array_equal(row_numbers, true_numbers)
    without = expected(queries, vectors, k, np.full(m, -1))
    for place, own in enumerate(zip(*alone, strict=True) if alone else ()):
        np.testing.assert_array_equal(np.concatenate(own), without[place])


@pytest.mark.parametrize("k", [1, 7])
def test_blocks_are_merged(tmp_path, device, k, monkeypatch):
    """On each device; files are longer and shorter than the blocks that are made of them."""
    rng = np.random.default_rng(k)
    vectors, queries = unit(rng, 300, 6, 90), unit(rng, 50, 6)
    queries[::2] = vectors[rng.integers(0, 300, 25)]
    files = save(tmp_path, vectors, [3, 9, 100, 111])
    starts = [first for first, _ in blocks_of(files, device)]
    assert len(starts) > 10
    assert starts[0] == 0
    assert (np.diff(starts) >= 16).all()
    exclude = rng.integers(-1, 300, 50)
    for narrow in (False, True):
        if narrow:
            monkeypatch.setattr(neighbours, "coarse", torch.Tensor.bfloat16)
        row_numbers, cosines = top_k(torch.from_numpy(queries), files, k, device, exclude)
        true_numbers, true_cosines = expected(queries, vectors, k, exclude)
        np.testing.assert_array_equal(cosines, true_cosines)
        np.testing.assert_array_equal(row_numbers, true_numbers)


def test_a_copy_has_cosine_one(tmp_path, device):
    vectors = unit(np.random.default_rng(0), 40, 300)
    files = save(tmp_path, np.tile(vectors, (3, 1)), [30])
    row_numbers, cosines = top_k(torch.from_numpy(vectors), files, 2, device)
    np.testing.assert_array_equal(cosines, 1)
    np.testing.assert_array_equal(row_numbers, np.arange(40)[:, None] + [0, 40])
