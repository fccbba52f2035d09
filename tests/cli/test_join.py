"""The command join: columns and arrays of Parquet files."""

from __future__ import annotations

import json

from nemo_image_curate import ImageTextPairDataset
from tests.make_embedders import rows
from tests.selection.test_joining import CLIP, expected, make_dataset, write


def test_columns_and_arrays_of_parquet_files(run, tmp_path):
    make_dataset(tmp_path / "in")
    own = write(tmp_path / "own")
    options = ["--columns", "own,name", "--array", "image=l14_img", "--encoder", CLIP]
    out = ["--work-dir", tmp_path / "work", "--output", tmp_path / "out", "--json"]
    told = json.loads(run("join", tmp_path / "in", own, "--on", "uid", *options, *out))
    assert told["samples"] == 30
    saved = ImageTextPairDataset.from_webdataset(tmp_path / "out")
    assert saved.provenance["image"]["encoder"] == CLIP
    assert [(row["own"], row["name"], row["image"]) for row in rows(saved)] == [
        (row["own"], row["name"], row["image_embedding"]) for row in expected()
    ]
    alone = ["--no-columns", "--array", "image=l14_img", "--output", tmp_path / "alone"]
    run("join", tmp_path / "in", own, *alone)
    columns = [*ImageTextPairDataset.from_webdataset(tmp_path / "alone").metadata.columns]
    assert columns == ["key", "shard", "uid", "number", "image"]


def test_join_says_what_is_wrong(run, tmp_path):
    make_dataset(tmp_path / "in")
    own = write(tmp_path / "own")
    assert "COLUMN=ARRAY" in run("join", tmp_path / "in", own, "--array", "l14_img", code=2)
    assert "goes with --array" in run("join", tmp_path / "in", own, "--no-columns", code=2)
    assert "no column 'key'" in run("join", tmp_path / "in", own, "--on", "key", code=2)
