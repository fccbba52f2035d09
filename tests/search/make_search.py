"""An embedder that knows words for pictures, and datasets to search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nemo_image_curate import ImageTextPairDataset
from nemo_image_curate.errors import ConfigError
from tests.make_data import Truth, jpeg, make_dataset
from tests.make_embedders import ThumbEmbedder, pillow_thumb


class WordEmbedder(ThumbEmbedder):
    """Embeds the text "7" as the picture `jpeg(7)`, and "7 8" as something between both.

    Parameters
    ----------
    name : str
        What its encoder is called.
    """

    def __init__(self, name: str = "thumb", **options: Any):
        super().__init__(**options)
        self.name = name

    def encoder(self) -> str:
        return self.name

    def embed_text(
        self, texts: Sequence[str], device: str = "cpu", truncate: bool = False
    ) -> np.ndarray:
        return np.stack([self._one(text) for text in texts])

    def _one(self, text: str) -> np.ndarray:
        words = text.split()
        if not words or not all(word.isdecimal() for word in words):
            raise ConfigError(f"text {text!r} has words that are no numbers.")
        total = np.sum([pillow_thumb(jpeg(int(word))) for word in words], axis=0)
        return (total / np.linalg.norm(total)).astype(np.float32)


def thumbs(numbers: Sequence[int]) -> np.ndarray:
    """What `WordEmbedder` makes of pictures."""
    return np.stack([pillow_thumb(jpeg(number)) for number in numbers]).astype(np.float32)


def embedded_dataset(root: Path, sizes: Sequence[int], **options: Any) -> tuple[Any, Truth]:
    """A saved dataset with image embeddings, and its truth."""
    truth = make_dataset(root, sizes=sizes)
    dataset = ImageTextPairDataset.from_webdataset(root, **options)
    return WordEmbedder()(dataset).save_metadata(), truth
