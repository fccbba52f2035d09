"""Embeddings of a dataset in a live store of each kind."""

from __future__ import annotations

import logging
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nemo_image_curate import ImageTextPairDataset
from nemo_image_curate.errors import (
    ColumnNotFoundError,
    ConfigError,
    DatasetError,
    EncoderMismatchError,
)
from nemo_image_curate.search.live.base import LiveStore
from nemo_image_curate.search.live.rows import row_id
from nemo_image_curate.search.live.store import open_store
from tests.make_data import jpeg
from tests.search.make_search import WordEmbedder, embedded_dataset, thumbs

SIZES = (6, 5)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> ImageTextPairDataset:
    made, _ = embedded_dataset(tmp_path_factory.mktemp("data"), SIZES)
    return made


@pytest.fixture(params=["live", "live.db"])
def store(request, tmp_path) -> Iterator[LiveStore]:
    store = open_store(str(tmp_path / request.param), WordEmbedder())
    yield store
    store.close()


def write(root: Path, shards: dict[str, list[tuple[str, list[float] | None]]]) -> None:
    """Shards without images: keys and embeddings, and columns of many kinds."""
    for shard, rows in shards.items():
        keys, embeddings = zip(*rows, strict=True)
        count = len(rows)
        table = {
            "key": keys,
            "image_embedding": pa.array(embeddings, pa.list_(pa.float32())),
            "score": [float("nan"), 0.5, *[None] * (count - 2)],
            "flag": [True, False, *[None] * (count - 2)],
            "tags": [["a"]] * count,
            "hash": pa.array([2**64 - 1] * count, pa.uint64()),
            "_own": ["x"] * count,
        }
        pq.write_table(pa.table(table), root / f"{shard}.parquet")
        with tarfile.open(root / f"{shard}.tar", "w"):
            pass


def everything(store: LiveStore) -> list[tuple[object, ...]]:
    (hits,) = store.images.nearest(thumbs([1]), 1000)
    return [(hit.key, hit.shard, hit.caption, hit.metadata, hit.score) for hit in hits]


def test_a_dataset_is_loaded_with_its_columns_beside_what_was_added(store, dataset):
    store.add_images(["000000001", "new"], [jpeg(70), jpeg(71)])
    loaded = store.add_dataset(dataset)
    assert (loaded.rows, loaded.added, loaded.left_out) == (11, 11, {})
    assert len(store.images) == 13
    (best, second) = store.images.nearest(thumbs([1003]), 2)[0]
    assert (best.key, best.shard) == ("000010003", "00001.tar")
    assert best.score == pytest.approx(1, abs=1e-4)
    assert best.caption.startswith("picture 1003")
    assert best.metadata["width"] == 35
    assert second.score < best.score
    (hits,) = store.images.nearest(thumbs([1003]), 20, "width >= 34 and shard == '00001.tar'")
    assert sorted(hit.key for hit in hits) == ["000010002", "000010003", "000010004"]
    # Again: the same.
    before = everything(store)
    assert store.add_dataset(dataset) == loaded
    assert everything(store) == before


def test_samples_are_looked_up_by_shard_and_key(store, dataset):
    store.add_images(["000000001"], [jpeg(70)])
    assert not store.images.has_shards()
    store.add_dataset(dataset)
    assert store.images.has_shards()
    assert not store.texts.has_shards()
    samples = [
        ("00000.tar", "000000001"),
        (None, "000000001"),
        (None, "000010001"),
        ("00001.tar", "000000001"),
    ]
    shards = [hit and (hit.shard, hit.key) for hit in store.images.lookup(samples)]
    assert shards == [samples[0], (None, "000000001"), ("00001.tar", "000010001"), None]
    assert store.images.lookup([(None, "000010001")], "width > 1000") == [None]
    # Its image is in its shard.
    with pytest.raises(DatasetError, match="no image"):
        store.image("000010001")
    # The second is what the store itself calls a row of the dataset.
    assert store.remove(["000000001", row_id("00001.tar", "000010001"), "000010001"]) == 1
    assert len(store.images) == 11


def test_each_row_is_added_or_left_out_for_a_reason(store, tmp_path, caplog):
    nan = float("nan")
    (folder := tmp_path / "data").mkdir()
    write(
        folder,
        {
            "00000": [("a", [1.0, 0.0]), ("b", None), ("c", [0.0, 0.0]), ("d", [nan, 1.0])],
            "00001": [("a", [0.0, 2.0]), ("a", [1.0, 1.0]), ("\0e", [1.0, 1.0])],
        },
    )
    dataset = ImageTextPairDataset.from_webdataset(folder, backend="cpu")
    with caplog.at_level(logging.WARNING):
        loaded = store.add_dataset(dataset)
    assert loaded.rows == 7 == loaded.added + sum(loaded.left_out.values())
    assert sorted(loaded.left_out.items()) == [
        ("it has no embedding", 1),
        ("its embedding has no direction: it is zero or not finite", 2),
        ("its key is not a text, or begins with a null character", 1),
        ("its key is there twice in one shard", 1),
    ]
    assert "tags, hash, _own" in caplog.text
    first, second = store.images.nearest(np.array([[0, 1]], np.float32), 5)[0]
    assert (first.shard, first.metadata, first.score) == ("00001.tar", {"flag": True}, 1)
    assert second.metadata == {"flag": True}
    with pytest.raises(DatasetError, match=r"several shards: 00000\.tar, 00001\.tar"):
        store.images.lookup([(None, "a")])


def test_what_does_not_fit_is_refused_before_any_work(store, dataset, tmp_path):
    other = open_store(str(tmp_path / "other"), WordEmbedder("other"))
    with pytest.raises(EncoderMismatchError, match="'thumb'"):
        other.add_dataset(dataset)
    other.close()
    with pytest.raises(ColumnNotFoundError):
        store.add_dataset(dataset, "text_embedding", "texts")
    with pytest.raises(ConfigError, match="over='words'"):
        store.add_dataset(dataset, over="words")
