"""Vectors in files, as k-means takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def write_blocks(folder: Path, vectors: np.ndarray, size: int) -> list[Path]:
    """Files of at most `size` vectors each, in a new or an empty folder."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, start in enumerate(range(0, len(vectors), size)):
        paths.append(folder / f"b{number}.npy")
        np.save(paths[-1], vectors[start : start + size])
    return paths


def five_rings(seed: int, share: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Points in five rings of one area, with from 20,000 to 200 points each, and their rings.

    The toy of Vo et al., "Automatic data curation for self-supervised learning: a
    clustering-based approach", 2024.
    """
    chance = np.random.default_rng(seed)
    counts = [round(share * count) for count in (20_000, 200, 1000, 500, 8000)]
    middles = np.array([[-2.2, 1.0], [0.0, 1.0], [2.2, 1.0], [-1.2, 0.2], [1.2, 0.2]])
    rings = chance.permutation(np.repeat(np.arange(5), counts))
    radius, angle = chance.uniform(0.7, 1, len(rings)), chance.uniform(0, 2 * np.pi, len(rings))
    points = middles[rings] + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return points.astype(np.float32), rings
