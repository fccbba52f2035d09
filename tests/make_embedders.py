"""Embedders that are quick and whose truth is easy to compute otherwise, and a look at rows."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from nemo_image_curate import ImageEmbedder, frames
from nemo_image_curate.decode import Preprocessing

SIDE = 16
SMALL = Preprocessing(
    size=SIDE,
    resize_mode="squash",
    crop_pct=1.0,
    interpolation="bilinear",
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
)


def thumb(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels as 4 x 4 means, centred: 48 numbers that tell pictures apart."""
    return torch.nn.functional.adaptive_avg_pool2d(pixels, 4).flatten(1) - 0.5


class ThumbEmbedder(ImageEmbedder):
    """Embeds a picture as its own tiny thumbnail."""

    def __init__(self, **options: Any):
        super().__init__("thumb", **options)

    def preprocessing(self) -> Preprocessing:
        return SMALL

    def load_embedding_model(self, device: str):
        return thumb


class LoggingEmbedder(ThumbEmbedder):
    """Writes a line with the number of images for each batch it computes."""

    def __init__(self, log: str, **options: Any):
        super().__init__(**options)
        self.log = log

    def load_embedding_model(self, device: str):
        def model(pixels: torch.Tensor) -> torch.Tensor:
            with open(self.log, "a") as file:
                file.write(f"{len(pixels)}\n")
            return thumb(pixels)

        return model


def computed(log: Path) -> int:
    """How many images a `LoggingEmbedder` has seen."""
    return sum(map(int, log.read_text().split())) if log.exists() else 0


def pillow_thumb(data: bytes) -> np.ndarray:
    """What `ThumbEmbedder` should make of a picture, by Pillow and NumPy alone."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    small = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels = np.asarray(small, dtype=np.float32) / 255
    blocks = pixels.reshape(4, SIDE // 4, 4, SIDE // 4, 3).mean(axis=(1, 3))
    flat = blocks.transpose(2, 0, 1).reshape(-1) - 0.5
    return flat / np.linalg.norm(flat)


def rows(dataset: Any) -> list[dict[str, Any]]:
    """All rows, computed, as plain values."""
    return frames.to_arrow(dataset.metadata.compute()).to_pylist()


def column(dataset: Any, name: str) -> list[Any]:
    """One column, computed, as plain values."""
    return [row[name] for row in rows(dataset)]


def embeddings(dataset: Any, name: str = "image_embedding") -> np.ndarray:
    """An embedding column without its nulls, computed."""
    found = frames.embedding_array(dataset.metadata[name].compute())[0]
    return found.get() if dataset.backend == "gpu" else found
