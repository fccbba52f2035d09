"""A dataset to choose from."""

from __future__ import annotations

import pytest

from nemo_image_curate import ImageTextPairDataset
from tests.make_data import make_dataset


@pytest.fixture
def dataset(tmp_path, backend):
    made = make_dataset(tmp_path / "in", sizes=[4, 0, 3])
    dataset = ImageTextPairDataset.from_webdataset(made.root, backend=backend)
    dataset.metadata["flag"] = dataset.metadata.width // 33
    dataset.metadata["two words"] = dataset.metadata.width
    return dataset
