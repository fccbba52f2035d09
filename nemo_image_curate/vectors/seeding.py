"""Where k-means starts: at any vectors, or by k-means++."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nemo_image_curate import storage
from nemo_image_curate.vectors.blocks import Block, Blocks
from nemo_image_curate.vectors.nearest import nearest

# Vectors proposed at once. The client holds the distances of all of them: 32 MB.
_PROPOSALS = 2048


def random_rows(blocks: Blocks, k: int, chance: np.random.Generator) -> np.ndarray:
    """Any `k` of the vectors, or all of them, in the order of the files."""
    return blocks.rows(chance.permutation(sum(blocks.sizes))[:k])


def plus_plus(blocks: Blocks, k: int, chance: np.random.Generator) -> np.ndarray:
    """`k` of the vectors, each drawn by its squared distance from the nearest one before.

    k-means++: Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding", 2007.
    Drawn one at a time it would look at all vectors `k` times. Here vectors are proposed by the
    distances from the centroids of the last round, and a proposal is refused as far as those of
    this round have come nearer to it; the centroids that remain are distributed as if drawn one
    at a time (rejection sampling; Cohen-Addad et al., "Fast and accurate k-means++ via rejection
    sampling", 2020). A round takes the products of the vectors with its new centroids only, so
    that all rounds together cost one step of Lloyd's algorithm.

    Parameters
    ----------
    blocks : Blocks
    k : int
    chance : numpy.random.Generator

    Returns
    -------
    numpy.ndarray, shape (at most k, d), float32
        Fewer than `k` when there are no more different vectors.
    """
    centroids = fresh = blocks.rows(chance.integers(sum(blocks.sizes), size=1))
    while len(centroids) < k:
        totals = np.array(blocks.map(_lessen_distances, fresh, len(centroids) == 1))
        if not totals.any():
            break
        missing = k - len(centroids)
        proposals, distances = _propose(blocks, totals, min(2 * missing, _PROPOSALS), chance)
        fresh = proposals[_accepted(proposals, distances, chance)[:missing]]
        centroids = np.concatenate([centroids, fresh])
    for block in blocks:
        _distances_path(block).unlink(missing_ok=True)
    return centroids


def _distances_path(block: Block) -> Path:
    """Where a block's squared distances from the nearest centroid are, float32, shape (m,)."""
    return block.path.with_name(f"{block.path.stem}-distances.npy")


def _lessen_distances(block: Block, fresh: Path, first: bool) -> float:
    """Let new centroids lessen a block's squared distances, and add these up; runs on a worker."""
    import torch

    vectors = block.vectors()
    centroids = torch.from_numpy(np.load(fresh)).to(block.device)
    index, _ = nearest(vectors, centroids, 1, block.spherical)
    # Not by the products: so a copy of a centroid is exactly at distance zero.
    distances = (vectors - centroids[index[:, 0]]).square().sum(dim=1).cpu().numpy()
    if not first:
        distances = np.minimum(distances, np.load(_distances_path(block)))
    with storage.atomic_write(str(_distances_path(block))) as file:
        np.save(file, distances)
    return float(distances.sum(dtype=np.float64))


def _propose(
    blocks: Blocks, totals: np.ndarray, n: int, chance: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw vectors by their squared distance, with replacement; and what that was of each."""
    proposals, distances = np.empty((n, blocks.dim), dtype=np.float32), np.empty(n)
    owner = chance.choice(len(totals), n, p=totals / totals.sum())
    for number, block in enumerate(blocks):
        drawn = np.flatnonzero(owner == number)
        if len(drawn):
            weights = np.load(_distances_path(block)).astype(np.float64)
            rows = chance.choice(len(weights), len(drawn), p=weights / weights.sum())
            proposals[drawn], distances[drawn] = block.rows(rows), weights[rows]
    return proposals, distances


def _accepted(
    proposals: np.ndarray, distances: np.ndarray, chance: np.random.Generator
) -> list[int]:
    """The proposals that become centroids, given squared distances from those of earlier rounds."""
    exact = proposals.astype(np.float64)
    squares = np.einsum("ij,ij->i", exact, exact)
    between = exact @ exact.T
    between *= -2
    between += squares
    between += squares[:, None]
    least = chance.random(len(proposals)) * distances
    accepted = []
    for number, row in enumerate(between):
        if least[number] < distances[number]:
            accepted.append(number)
            distances = np.minimum(distances, row)
    return accepted
