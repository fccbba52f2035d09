"""Nearest earlier rows, by another way, and whatever the partitions."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from nemo_image_curate.dataset.looking.rows import sample_bits
from nemo_image_curate.errors import DatasetError
from nemo_image_curate.report.embeddings import embedding_column, nearest_earlier, rows_at
from nemo_image_curate.report.page import report_page
from nemo_image_curate.report.settings import Settings
from tests.report.sets import rows, vectors, write


def truth(dataset) -> dict[str, float]:
    """The highest cosine of each row with those before it, by all pairs."""
    every = [row for row in rows() if row["image_embedding"] is not None]
    index = [int(row["key"]) for row in every]
    keys = [row["key"] for row in every]
    shards = dict(dataset.metadata[["key", "shard"]].compute().to_numpy())
    table = pa.table({"key": keys, "shard": [shards[key] for key in keys]})
    ranks = sample_bits(table, "key", 1)
    cosines = vectors()[index].astype(np.float64) @ vectors()[index].T
    cosines[ranks[None, :] >= ranks[:, None]] = -np.inf
    return dict(zip(keys, cosines.max(axis=1), strict=True))


def found(dataset) -> dict[str, float]:
    nearest = nearest_earlier(dataset, "image_embedding", [], seed=0, progress=False)
    assert nearest.sample.of == len(rows())
    assert nearest.sample.without == 1
    keys = nearest.sample.rows["key"].to_pylist()
    return dict(zip(keys, nearest.similarity.tolist(), strict=True))


@pytest.mark.parametrize("shards", [1, 4])
def test_it_is_the_highest_cosine_with_an_earlier_row(tmp_path, shards):
    dataset = write(tmp_path, rows(), shards)
    assert embedding_column(dataset) == "image_embedding"
    assert found(dataset) == pytest.approx(truth(dataset), abs=2e-6)


def test_workers_get_the_sample_and_tell_the_same(tmp_path, client):
    dataset = write(tmp_path, rows(), 3)
    assert found(dataset) == pytest.approx(truth(dataset), abs=2e-6)


def test_the_row_that_is_named_is_the_one_of_that_cosine(tmp_path):
    dataset = write(tmp_path, rows(), 4)
    nearest = nearest_earlier(dataset, "image_embedding", [], seed=0, progress=False)
    has_one = np.flatnonzero(np.isfinite(nearest.similarity))
    others = rows_at(dataset, nearest.partition[has_one], nearest.row[has_one], ["caption"], False)
    own = nearest.sample.rows["key"].take(has_one).to_pylist()
    every = vectors()
    for key, other, cosine in zip(
        own, others["key"].to_pylist(), nearest.similarity[has_one], strict=True
    ):
        assert every[int(key)] @ every[int(other)] == pytest.approx(cosine, abs=2e-6)


def test_copies_are_equally_near_and_there_may_be_no_embedding_at_all(tmp_path):
    copies = rows()[:6]
    for row in copies:
        row["image_embedding"] = rows()[0]["image_embedding"]
    nearest = nearest_earlier(write(tmp_path / "a", copies, 2), "image_embedding", [], 0, False)
    assert sorted(nearest.similarity.tolist()) == [-np.inf, 1, 1, 1, 1, 1]
    # All name the first of the order.
    assert len(set(zip(nearest.partition[1:].tolist(), nearest.row[1:].tolist(), strict=True))) == 1
    without = [{**row, "image_embedding": None} for row in rows()]
    dataset = write(tmp_path / "b", without, 2)
    with pytest.raises(DatasetError, match="not one of 60 rows has an embedding"):
        nearest_earlier(dataset, "image_embedding", [], 0, False)


@pytest.mark.parametrize(
    ("vector", "message"),
    [([], "not one of 4 rows"), ([0.0, 0.0], "all 4 embeddings of the sample are zero")],
)
def test_vectors_without_a_direction_have_nothing_near(tmp_path, vector, message):
    dataset = write(tmp_path, [{**row, "image_embedding": vector} for row in rows()[:4]], 1)
    with pytest.raises(DatasetError, match=message):
        nearest_earlier(dataset, "image_embedding", [], seed=0, progress=False)
    report_page(dataset, Settings(progress=False))
