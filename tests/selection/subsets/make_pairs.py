"""Datasets of pairs of vectors, some of which do not belong together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from nemo_image_curate import ImageTextPairDataset, TextImageEmbedder, TextTower
from tests.dedup.make_embeddings import write_embeddings

ROWS, TOPICS, DIM = 400, 12, 24
COLOURS = ("red", "green", "blue", "gray")
_chance = np.random.default_rng(0)
# What each row is about, and how pictures and texts tell of it.
ABOUT = _chance.normal(size=(ROWS, TOPICS))
PICTURED, TOLD = _chance.normal(size=(2, TOPICS, DIM))
# The first two topics decide on the colour.
_CORNERS = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])


class ColourEmbedder(TextImageEmbedder):
    """Embeds a text as what rows of the colour that it ends with tell on average."""

    def load_text_model(self, device: str) -> TextTower:
        def encode(texts: list[str]) -> torch.Tensor:
            colours = [COLOURS.index(text.rstrip(".").split()[-1]) for text in texts]
            return torch.from_numpy(_CORNERS[colours] @ TOLD[:2]).float()

        return TextTower(encode, lambda text: None, lambda text: True, 1.0)


def write_pairs(folder: Path, backend: str = "cpu", **more: Any) -> ImageTextPairDataset:
    """A dataset whose rows with ``is_shuffled`` have the text of another such row.

    ``score`` tells them as a CLIP score does: not always. Every tenth row has no colour.
    """
    chance = np.random.default_rng(1)
    images, texts = (ABOUT @ view + chance.normal(size=(ROWS, DIM)) for view in (PICTURED, TOLD))
    is_shuffled = chance.random(ROWS) < 0.5
    places = np.flatnonzero(is_shuffled)
    texts[places] = texts[np.roll(places, 1)]
    colours = (ABOUT[:, :2] > 0) @ [2, 1]
    columns = {
        "text_embedding": texts.tolist(),
        "is_shuffled": is_shuffled.tolist(),
        "score": (chance.normal(size=ROWS) - 3 * is_shuffled).tolist(),
        "number": list(range(ROWS)),
        "colour": [COLOURS[one] if row % 10 else None for row, one in enumerate(colours)],
    }
    return write_embeddings(folder, images, backend=backend, **{**columns, **more})
