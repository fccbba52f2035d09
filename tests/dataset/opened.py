"""Datasets, opened and computed."""

from __future__ import annotations

from nemo_image_curate import ImageTextPairDataset
from nemo_image_curate.frames import to_arrow


def open_dataset(*arguments, **options) -> ImageTextPairDataset:
    return ImageTextPairDataset.from_webdataset(*arguments, **options)


def rows_of(dataset: ImageTextPairDataset) -> list[dict]:
    return to_arrow(dataset.metadata.compute()).to_pylist()
