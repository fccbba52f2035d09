"""Samples of embeddings, and maps of them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from nemo_image_curate import frames
from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.dataset.looking.points import points, sample_vectors
from nemo_image_curate.errors import DatasetError
from tests.make_data import jpeg, write_sidecar, write_tar

N, DIM = 300, 8


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("points")
    rng = np.random.default_rng(0)
    for shard in range(3):
        keys = [f"{shard}-{row}" for row in range(N)]
        vectors = list(rng.standard_normal((N, DIM)).astype(np.float32))
        vectors[0] = None
        vectors[1] = vectors[1] * np.nan
        column = pa.array(vectors, pa.list_(pa.float32()))
        number = [int(key.split("-")[1]) for key in keys]
        write_tar(root / f"{shard}.tar", [(f"{keys[0]}.jpg", jpeg(1))])
        write_sidecar(
            root / f"{shard}.parquet", {"key": keys, "image_embedding": column, "number": number}
        )
    return root


def test_a_sample_is_the_same_however_rows_lie(root, backend):
    dataset = ImageTextPairDataset.from_webdataset(root, backend=backend)
    sample = sample_vectors(dataset, "image_embedding", 100, ["number"])
    assert (sample.of, len(sample.rows) + sample.without) == (3 * N, 100)
    assert sample.vectors.shape == (len(sample.rows), DIM)
    shards = np.unique(sample.rows["shard"].to_numpy(), return_counts=True)[1]
    assert (shards > 15).all()
    every = sample_vectors(dataset, "image_embedding", 10**6, ["number"])
    assert (len(every.rows), every.without) == (3 * N - 6, 6)
    assert every.rows.slice(0, len(sample.rows)) == sample.rows
    by_key = dict(zip(every.rows["key"].to_pylist(), every.vectors, strict=True))
    table = frames.to_arrow(dataset.metadata[["key", "image_embedding"]].compute())
    expected = dict(zip(*(column.to_pylist() for column in table.columns), strict=True))
    assert all(np.array_equal(by_key[key], expected[key]) for key in list(by_key)[:50])
    other = dataset.replace(dataset.metadata.repartition(npartitions=1))
    again = points(other, n=100, columns=["number"])
    assert again.sample.rows == sample.rows
    np.testing.assert_array_equal(again.xy, points(dataset, n=100).xy)
    assert again.xy.shape == (len(sample.rows), 2)


def test_nothing_to_map(root):
    dataset = ImageTextPairDataset.from_webdataset(root)
    with pytest.raises(DatasetError, match="not one of 3 rows has an embedding"):
        points(dataset.filter("number == 0"))
    with pytest.raises(DatasetError, match="no embeddings"):
        points(dataset, column="number")
