"""Sums of exponentials against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_image_curate.vectors import log_sums as module
from nemo_image_curate.vectors.log_sums import log_sums


def unit(chance: np.random.Generator, n: int, dim: int) -> np.ndarray:
    vectors = chance.standard_normal((n, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def saved(folder, vectors: np.ndarray, *cuts: int):
    paths = []
    for number, part in enumerate(np.split(vectors, cuts)):
        paths.append(folder / f"{len(cuts)}-{number}.npy")
        np.save(paths[-1], part)
    return paths


def plain(queries: np.ndarray, vectors: np.ndarray, temperature: float) -> np.ndarray:
    exponents = queries.astype(np.float64) @ vectors.astype(np.float64).T / temperature
    most = exponents.max(axis=1)
    return most + np.log(np.exp(exponents - most[:, None]).sum(axis=1))


@pytest.mark.parametrize("temperature", [0.01, 0.07, 1.0])
@pytest.mark.parametrize("rows", [1, 15, 1030])
def test_sums_are_those_of_float64(tmp_path, rows, temperature, device):
    chance = np.random.default_rng(rows)
    queries, vectors = unit(chance, rows, 24), unit(chance, 5000, 24)
    # Copies and opposites: cosines of 1 and -1.
    vectors[:rows], vectors[4000:4001] = queries, -queries[0]
    found = log_sums(
        torch.from_numpy(queries), saved(tmp_path, vectors, 100, 3000), temperature, device
    )
    expected = plain(queries, vectors, temperature)
    np.testing.assert_allclose(temperature * found, temperature * expected, atol=1e-6)


def test_nothing_overflows_where_a_sum_of_exponentials_would(tmp_path):
    """exp(1 / 0.01) is beyond float32; exp(1 / 0.001) is beyond float64."""
    copies = np.zeros((3000, 8), dtype=np.float32)
    copies[:, 0] = 1
    queries = torch.from_numpy(np.concatenate([copies[:1], -copies[:1]]))
    paths = saved(tmp_path, copies, 1000)
    for temperature in (0.01, 0.001):
        found = log_sums(queries, paths, temperature, "cpu")
        expected = np.array([1, -1]) / temperature + np.log(3000)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@given(
    cuts=st.lists(st.integers(0, 300), max_size=4).map(sorted),
    rows=st.integers(1, 40),
    order=st.randoms(use_true_random=False),
)
@settings(max_examples=15)
def test_the_bits_do_not_depend_on_files_or_company(tmp_path_factory, cuts, rows, order):
    folder = tmp_path_factory.mktemp("vectors")
    chance = np.random.default_rng(1)
    queries, vectors = unit(chance, 40, 16), unit(chance, 300, 16)
    one_file = log_sums(torch.from_numpy(queries), saved(folder, vectors), 0.01, "cpu")
    shuffled = list(range(300))
    order.shuffle(shuffled)
    several = saved(folder, vectors[shuffled], *cuts)
    found = log_sums(torch.from_numpy(queries[:rows]), several, 0.01, "cpu")
    assert (found.astype(np.float32) == one_file[:rows].astype(np.float32)).all()


def test_of_no_vectors_and_of_no_queries(tmp_path):
    queries = torch.eye(3)
    assert np.isneginf(log_sums(queries, [], 0.01, "cpu")).all()
    assert log_sums(queries[:0], saved(tmp_path, np.eye(3, dtype=np.float32)), 1, "cpu").size == 0


def test_blocks_of_both_sides_are_crossed(tmp_path, device, monkeypatch):
    monkeypatch.setattr(module, "_ROWS", {device: 16})
    monkeypatch.setattr(module, "_COLUMNS", {device: 7})
    chance = np.random.default_rng(2)
    queries, vectors = unit(chance, 50, 8), unit(chance, 61, 8)
    found = log_sums(torch.from_numpy(queries), saved(tmp_path, vectors, 20), 0.05, device)
    np.testing.assert_allclose(found, plain(queries, vectors, 0.05), atol=1e-4)
