"""Datasets of pairs of vectors, some of which do not belong together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nemo_image_curate import ImageTextPairDataset
from tests.dedup.make_embeddings import write_embeddings

ROWS, TOPICS, DIM = 400, 12, 24


def vectors(rows: int = ROWS, noise: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and texts that are two noisy views of what a row is about.

    Returns
    -------
    images, texts : numpy.ndarray of float32, shape (rows, DIM)
    """
    chance = np.random.default_rng(seed)
    about = chance.normal(size=(rows, TOPICS))
    views = []
    for _ in range(2):
        view = about @ chance.normal(size=(TOPICS, DIM))
        views.append((view + noise * chance.normal(size=view.shape)).astype(np.float32))
    return views[0], views[1]


def write_pairs(folder: Path, backend: str = "cpu", **more: Any) -> ImageTextPairDataset:
    """A dataset whose rows with ``is_shuffled`` have the text of another such row.

    ``score`` tells them as a CLIP score does: not always.
    """
    images, texts = vectors()
    chance = np.random.default_rng(1)
    shuffled = chance.random(ROWS) < 0.5
    places = np.flatnonzero(shuffled)
    texts[places] = texts[np.roll(places, 1)]
    columns = {
        "text_embedding": texts.tolist(),
        "is_shuffled": shuffled.tolist(),
        "score": (chance.normal(size=ROWS) - 3 * shuffled).tolist(),
        "number": list(range(ROWS)),
    }
    return write_embeddings(folder, images, backend=backend, **{**columns, **more})
