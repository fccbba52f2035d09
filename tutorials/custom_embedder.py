"""An embedder of your own: color histograms of the images in a folder of shards.

    python tutorials/custom_embedder.py SHARDS OUTPUT

Two methods make an embedder: the model, and what its pixels should look like. Everything else
(reading, decoding, errors, saving, resuming) is the package's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch

from nemo_image_curate import ImageEmbedder, ImageTextPairDataset, get_client
from nemo_image_curate.decode import Preprocessing

BINS = 8


def histogram(pixels: torch.Tensor) -> torch.Tensor:
    """Share of pixels in each of 8 levels per channel: (B, 3, H, W) in 0..1 to (B, 24)."""
    level = (pixels * BINS).long().clamp(0, BINS - 1)
    counts = torch.nn.functional.one_hot(level.flatten(2), BINS).float().mean(dim=2)
    return counts.flatten(1)


class HistogramEmbedder(ImageEmbedder):
    """Embeds an image as its color histogram."""

    def load_embedding_model(self, device: str) -> Callable[[torch.Tensor], torch.Tensor]:
        return histogram

    def preprocessing(self) -> Preprocessing:
        # mean 0 and std 1 leave pixels in 0..1; "squash" shows the whole image.
        return Preprocessing(
            size=64,
            resize_mode="squash",
            crop_pct=1.0,
            interpolation="bilinear",
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
        )


def main(shards: str, output: str) -> None:
    with get_client():
        dataset = ImageTextPairDataset.from_webdataset(shards)
        embedder = HistogramEmbedder("histogram-8", image_embedding_column="histogram")
        saved = embedder(dataset).save_metadata(output)
        print(saved)
        print(saved.head()[["key", "image_error", "histogram"]])


if __name__ == "__main__":
    main(*sys.argv[1:])
