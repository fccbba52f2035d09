"""The tutorials run as they are printed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from nemo_image_curate import ImageTextPairDataset
from tests.make_data import make_dataset
from tests.make_embedders import embeddings

TUTORIALS = Path(__file__).resolve().parents[2] / "tutorials"


def test_an_embedder_of_ones_own(tmp_path):
    make_dataset(tmp_path / "in", sizes=[3, 2])
    command = [sys.executable, TUTORIALS / "custom_embedder.py", tmp_path / "in", tmp_path / "out"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "histogram" in told
    found = embeddings(ImageTextPairDataset.from_webdataset(tmp_path / "out"), "histogram")
    assert found.shape == (5, 24)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    assert (found >= 0).all()
    # A class that stands in the script itself: the next run must know its work again.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.parquet")}
    assert len(before) == 2
    subprocess.run(command, check=True, capture_output=True)
    assert {path: path.stat().st_mtime_ns for path in before} == before
