"""Without a client Dask computes partitions in threads, as notebooks do, and they share models."""

from __future__ import annotations

import dask
import pytest

from nemo_image_curate import ConseEmbedder, ImageTextPairDataset, OpenCLIPEmbedder, frames
from tests.embedders.open_clip_folders import clip_folder, siglip_folder
from tests.make_data import jpeg, write_tar

__all__ = ["clip_folder", "siglip_folder"]

PARTITIONS = 16
RUNS = 6
COLUMNS = ["image_embedding", "text_embedding", "image_error"]
# Of many lengths, so that texts are padded in every batch, and each batch to another length.
WORDS = "a photo of the red blue green dog cat runs on grass beach and ball with man".split()


@pytest.fixture
def ds(tmp_path) -> ImageTextPairDataset:
    for shard in range(PARTITIONS):
        members = [("0.jpg", jpeg(shard))]
        for n in range(3):
            caption = " ".join(WORDS[n : n + 1 + (shard * 3 + n * 5) % 13])
            members.append((f"{n}.txt", caption.encode()))
        write_tar(tmp_path / f"{shard:02d}.tar", members)
    return ImageTextPairDataset.from_webdataset(tmp_path, backend="cpu")


@pytest.mark.parametrize("model", ["conse", "clip", "siglip"])
def test_both_sides_give_equal_values_in_threads(ds, model, request):
    if model == "conse":
        embedder = ConseEmbedder()
    else:
        embedder = OpenCLIPEmbedder(request.getfixturevalue(f"{model}_folder"))
    lazy = embedder(ds).metadata[COLUMNS]
    with dask.config.set(scheduler="synchronous"):
        alone = frames.to_arrow(lazy.compute())
    assert alone.num_rows == PARTITIONS * 3
    assert alone["image_error"].null_count == PARTITIONS
    assert alone["image_embedding"].null_count == PARTITIONS * 2
    assert alone["text_embedding"].null_count == 0
    with dask.config.set(scheduler="threads", num_workers=8):
        for _ in range(RUNS):
            assert frames.to_arrow(lazy.compute()).equals(alone)
