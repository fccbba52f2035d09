"""Datasets of given pictures, and what became of their rows."""

from __future__ import annotations

from pathlib import Path

from nemo_image_curate import ImageTextPairDataset
from tests.make_data import write_tar
from tests.make_embedders import rows


def dataset(folder: Path, *shards: dict[str, bytes], backend: str = "cpu") -> ImageTextPairDataset:
    for number, members in enumerate(shards):
        write_tar(folder / f"{number}.tar", members.items())
    return ImageTextPairDataset.from_webdataset(folder, backend=backend)


def standing(ds: ImageTextPairDataset) -> dict[str, str | None]:
    """For each row which one stands for it; itself when it is kept, None when not compared."""
    return {
        row["key"]: None if row["dedup_error"] else row["duplicate_of"] or row["key"]
        for row in rows(ds)
    }
