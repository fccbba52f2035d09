"""Datasets with the same rows in other partitions, and what was chosen of them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from nemo_image_curate import ImageTextPairDataset, frames


def rearranged(dataset: ImageTextPairDataset, partitions: int = 3) -> ImageTextPairDataset:
    """The same rows in another order and other partitions."""
    frame = dataset.metadata.sort_values("key", ascending=False)
    return dataset.replace(frame.repartition(npartitions=partitions))


def table(dataset: ImageTextPairDataset) -> pa.Table:
    """All columns but embeddings, by key and shard."""
    frame = dataset.metadata.drop(columns=["image_embedding"]).compute()
    return frames.to_arrow(frame).sort_by([("key", "ascending"), ("shard", "ascending")])


def values(dataset: ImageTextPairDataset, name: str) -> list[Any]:
    """A column, by key and shard."""
    return table(dataset)[name].to_pylist()
