from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from nemo_image_curate import ImageTextPairDataset
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError, DatasetError
from nemo_image_curate.stages.gathered import gather, gather_target
from nemo_image_curate.vectors.sampling import random_score
from tests.make_data import jpeg, write_sidecar, write_tar

DIM = 5
SIZES = [7, 0, 12, 1]


def vectors_of(key: str) -> tuple[list[float] | None, list[float] | None]:
    """A row's vectors: each third row lacks one, or has one without a direction."""
    number = int(key)
    a, b = np.random.default_rng(number).standard_normal((2, DIM)).astype(np.float32)
    return (
        None if number % 7 == 2 else [0.0] * DIM if number % 11 == 3 else a.tolist(),
        None if number % 5 == 4 else b.tolist(),
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, start = tmp_path_factory.mktemp("data"), 0
    kind = pa.list_(pa.float32())
    for shard, size in enumerate(SIZES):
        keys = [f"{n:03d}" for n in range(start, start + size)]
        write_tar(root / f"{shard}.tar", [(f"{key}.jpg", jpeg(int(key))) for key in keys])
        pairs = [vectors_of(key) for key in keys]
        columns = {
            name: pa.array([pair[number] for pair in pairs], kind)
            for number, name in enumerate("ab")
        }
        write_sidecar(root / f"{shard}.parquet", {"key": pa.array(keys, pa.string()), **columns})
        start += size
    return root


@pytest.fixture
def dataset(root, backend):
    return ImageTextPairDataset.from_webdataset(str(root), backend=backend)


def expected(*columns: int) -> dict[str, list[np.ndarray]]:
    """The unit vectors by key, of rows that have all of them."""
    rows = {}
    for key in (f"{n:03d}" for n in range(sum(SIZES))):
        pair = [vectors_of(key)[column] for column in columns]
        if all(own is not None and np.any(own) for own in pair):
            rows[key] = [np.float64(own) / np.linalg.norm(own) for own in pair]
    return rows


def stored(gathered) -> dict[str, list[np.ndarray]]:
    keys = gathered.names(np.arange(len(gathered)))["key"].to_pylist()
    arrays = [
        np.concatenate([np.load(file) for file in gathered.files(column)])
        for column in gathered.columns
    ]
    return dict(zip(keys, zip(*arrays, strict=True), strict=True))


@pytest.mark.parametrize("columns", ["a", "b", "ab", "ba"])
def test_all_rows_in_the_order_of_the_dataset(dataset, tmp_path, columns):
    gathered = gather(dataset, list(columns), tmp_path)
    rows, truth = stored(gathered), expected(*map("ab".index, columns))
    assert list(rows) == list(truth)
    assert gathered.dim == DIM
    for key, vectors in rows.items():
        np.testing.assert_allclose(vectors, truth[key], atol=1e-6)
    last = gathered.names(np.array([len(gathered) - 1, 0]))
    assert last["key"].to_pylist() == [list(truth)[-1], "000"]
    assert last["shard"].to_pylist() == ["3.tar" if "019" in truth else "2.tar", "0.tar"]


@pytest.mark.parametrize("count", [1, 6, 100])
def test_a_choice_does_not_depend_on_partitions(dataset, tmp_path, count):
    truth = expected(0, 1)
    order = np.argsort(random_score(pa.array(list(truth)), 3), kind="stable")
    chosen = sorted(np.array(list(truth))[order[:count]])
    gathered = gather(dataset, ["a", "b"], tmp_path / "1", count, seed=3)
    assert list(stored(gathered)) == chosen
    merged = dataset.replace(dataset.metadata.repartition(npartitions=1))
    again = gather(merged, ["a", "b"], tmp_path / "2", count, seed=3)
    np.testing.assert_equal(stored(again), stored(gathered))


def test_targets(dataset, root, tmp_path):
    of_path = gather_target(root, "b", tmp_path / "path", dataset.backend)
    of_dataset = gather_target(dataset, "b", tmp_path / "dataset")
    assert of_path.digest == of_dataset.digest
    array = np.array([[3.0, 4.0], [0, 0], [0, -2]])
    of_array = gather_target(array, "b", tmp_path / "array")
    assert stored(of_array).keys() == {"0", "2"}
    np.testing.assert_allclose(np.load(of_array.files()[0]), [[0.6, 0.8], [0, -1]], atol=1e-7)


def test_what_is_no_target(dataset, tmp_path):
    with pytest.raises(ColumnNotFoundError, match="'c'"):
        gather(dataset, ["c"], tmp_path)
    with pytest.raises(ConfigError, match=r"shape \(3,\)"):
        gather_target(np.ones(3), "a", tmp_path)
    with pytest.raises(ConfigError, match="has a direction"):
        gather_target(np.zeros((2, 3)), "a", tmp_path)


def test_vectors_of_two_lengths(dataset, tmp_path):
    cut = dataset.with_columns(
        lambda frame: {"a": pa.array([[1.0] * (1 + len(frame))] * len(frame))},
        {"a": pa.list_(pa.float32())},
    )
    with pytest.raises(DatasetError, match=r"different lengths \(2 and 13\)"):
        gather(cut, ["a"], tmp_path)
