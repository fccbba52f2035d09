from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from nemo_image_curate.errors import DatasetError
from nemo_image_curate.vectors.cuts import Cuts, lowest, ordered, write_values


def _write(folder, groups, values, files):
    paths = []
    for number, rows in enumerate(np.array_split(np.arange(len(groups)), files)):
        paths.append(folder / f"values-{number}.npz")
        write_values(paths[-1], groups[rows], values[:, rows])
    return paths


def _sorted_choice(groups, values, quotas):
    """The same by sorting."""
    chosen = np.zeros(len(groups), dtype=bool)
    order = np.lexsort(values[::-1])
    for group, quota in enumerate(quotas):
        chosen[order[groups[order] == group][:quota]] = True
    return chosen


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 60), st.integers(1, 4))
def test_equals_sorting(tmp_path_factory, seed, files, size, count):
    chance = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("cuts")
    groups = chance.integers(-1, count, size)
    # Few different first values, so that the second decides; all of them distinct.
    first = chance.choice(np.array([0, 5, 2**40, 2**64 - 1], dtype=np.uint64), size)
    values = np.stack([first, chance.permutation(size).astype(np.uint64) << np.uint64(50)])
    sizes = np.bincount(groups[groups >= 0], minlength=count)
    quotas = np.array([chance.integers(0, most + 1) for most in sizes])
    cuts = lowest(_write(folder, groups, values, files), quotas, folder, "cut", False)
    expected = _sorted_choice(groups, values, quotas)
    assert (cuts.includes(groups, values) == expected).all()
    cuts.save(folder / "saved.npz")
    assert (Cuts.load(folder / "saved.npz").includes(groups, values) == expected).all()


def test_same_cuts_with_and_without_workers(tmp_path, request):
    chance = np.random.default_rng(0)
    groups = chance.integers(0, 300, 40_000)
    values = chance.integers(0, 2**64, (1, 40_000), dtype=np.uint64)
    quotas = np.bincount(groups) // 3
    paths = _write(tmp_path, groups, values, 40)
    alone = lowest(paths, quotas, tmp_path, "cut", False)
    assert (alone.includes(groups, values) == _sorted_choice(groups, values, quotas)).all()
    request.getfixturevalue("client")
    assert (lowest(paths[::-1], quotas, tmp_path, "cut", False).last == alone.last).all()
    assert sorted(tmp_path.iterdir()) == sorted(paths), "nothing is left"


def test_rows_that_nothing_tells_apart_are_refused(tmp_path):
    paths = _write(tmp_path, np.zeros(4, int), np.array([[1, 7, 7, 9]], np.uint64), 2)
    assert lowest(paths, [3], tmp_path, "cut", False).last.tolist() == [[7]]
    with pytest.raises(DatasetError, match="same key and shard are there more than once"):
        lowest(paths, [2], tmp_path, "cut", False)


def test_numbers_keep_their_order():
    numbers = np.array([-np.inf, -2.5, -1e-300, -0.0, 0.0, 1e-300, 1.0, 3e9, np.inf, np.nan])
    unsigned = ordered(numbers)
    assert unsigned[3] == unsigned[4]
    assert (np.sort(unsigned) == unsigned).all()
    assert len(set(unsigned)) == 9
