"""Many small shards: fewer tasks, and each shard's file as if it were alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from distributed import Client

from nemo_image_curate import ImageTextPairDataset
from nemo_image_curate.errors import ImageError
from tests.make_data import digests, make_dataset
from tests.make_embedders import LoggingEmbedder, ThumbEmbedder, computed

SHARDS = 130


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("many") / "shards"
    folder.mkdir()
    make_dataset(folder, sizes=[2, 1] * (SHARDS // 2))
    return folder


def opened(folder: Path) -> ImageTextPairDataset:
    return ImageTextPairDataset.from_webdataset(folder, backend="cpu")


def test_one_partition_per_shard_and_few_tasks(shards):
    ds = opened(shards).filter("width > 0")
    assert ds.metadata.npartitions == SHARDS
    assert len(ds.metadata.optimize().__dask_graph__()) < 15
    assert len(ds) == SHARDS * 3 // 2
    assert list(ds.head(4)["key"]) == list(ds.metadata["key"].compute()[:4])


def test_files_are_those_of_each_shard_alone(shards, tmp_path):
    saved = ThumbEmbedder()(opened(shards)).save_metadata(tmp_path / "all", progress=False)
    assert len(saved) == SHARDS * 3 // 2
    few = tmp_path / "few"
    few.mkdir()
    for shard in (0, 1, 64, SHARDS - 1):
        for path in shards.glob(f"{shard:05d}.*"):
            shutil.copy(path, few)
    ThumbEmbedder()(opened(few)).save_metadata(tmp_path / "alone", progress=False)
    alone = digests(tmp_path / "alone")
    del alone["_dataset.json"]
    assert len(alone) == 4
    assert alone.items() <= digests(tmp_path / "all").items()


def test_a_failing_shard_keeps_none_of_its_bundle_from_being_saved(shards, tmp_path, workers):
    bad = tmp_path / "bad"
    shutil.copytree(shards, bad)
    (bad / "00003.tar").write_bytes((bad / "00003.tar").read_bytes()[:600])
    log = tmp_path / "log"
    embedder = LoggingEmbedder(str(log), on_error="raise")
    with Client(workers), pytest.raises(ImageError, match=r"00003\.tar"):
        embedder(opened(bad)).save_metadata(tmp_path / "out", progress=False)
    assert len(list((tmp_path / "out").glob("*.parquet"))) == SHARDS - 1
    before = computed(log)
    shutil.copy(shards / "00003.tar", bad)
    embedder(opened(bad)).save_metadata(tmp_path / "out", progress=False)
    assert computed(log) - before == 1
