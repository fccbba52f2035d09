from __future__ import annotations

import numpy as np
import pytest

from nemo_image_curate.errors import DatasetError
from nemo_image_curate.selection import hash_order
from nemo_image_curate.selection.hash_order import HashOrder
from tests.dedup.make_embeddings import planted, write_embeddings
from tests.selection.make_choices import rearranged


def test_files_do_not_depend_on_partitions(tmp_path, monkeypatch, backend):
    monkeypatch.setattr(hash_order, "_ROWS", 100)
    vectors = [None, *planted(449)]
    # Keys come again in another shard.
    keys = [f"{number % 225:06d}" for number in range(450)]
    dataset = write_embeddings(tmp_path / "data", vectors, 225, backend, key=keys)
    expected = None
    for number, same in enumerate((dataset, rearranged(dataset))):
        order = HashOrder(same, "image_embedding", True, False)
        assert (order.count, order.dim) == (449, 32)
        paths = order.write(tmp_path / str(number), 1000, seed=3)
        files = [np.load(path) for path in paths]
        assert len(files) == 5
        assert [path.name for path in sorted((tmp_path / str(number)).iterdir())] == [
            path.name for path in paths
        ]
        whole = np.concatenate(files)
        by_first = [each[np.argsort(each[:, 0])] for each in (whole, np.stack(vectors[1:]))]
        np.testing.assert_allclose(*by_first, atol=1e-6)
        expected = files if expected is None else expected
        assert all((a == b).all() for a, b in zip(files, expected, strict=True))
    some = np.concatenate([np.load(path) for path in order.write(tmp_path / "some", 100, seed=3)])
    assert len(some) in range(70, 130)
    assert (some == whole[: len(some)]).all(), "the lowest hashes"


def test_embeddings_of_different_models(tmp_path):
    vectors = [np.ones(4), np.ones(4), np.ones(5)]
    dataset = write_embeddings(tmp_path / "data", vectors, 2)
    with pytest.raises(
        DatasetError, match=r"different lengths \(4 and 5\) in different partitions"
    ):
        HashOrder(dataset, "image_embedding", True, False)
